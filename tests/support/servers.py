"""Rerank servers on this machine, each written from its project's source.

docs/scorers.md names the sources. Each ignores what the real server ignores, refuses what it
refuses, in the same form, and returns the same fields in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from qwen_rerank.testing.fake import score_of
from qwen_rerank.testing.loopback import Loopback, LoopbackDashScope, ranking, token_count

__all__ = ["MODEL", "SERVERS", "TEI", "VLLM", "FlatDashScope", "LlamaCpp", "Server", "Xinference"]

MODEL = "served-model"


@dataclass
class Server(Loopback):
    """A server of one model, named `MODEL`."""

    def error(self, status: int, code: str, message: str) -> web.Response:
        """Return an error nested as in OpenAI's API."""
        error = {"message": message, "type": code or None, "param": None, "code": status}
        return web.json_response({"error": error}, status=status)

    def unauthorized(self) -> web.Response:
        return web.json_response({"error": "Unauthorized"}, status=401)

    def ranked(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The index and score of each document, or of the best `top_n`, best first."""
        scores = [score_of(body["query"], text) for text in body[self.texts]]
        best_first = sorted(range(len(scores)), key=lambda index: -scores[index])
        top_n = body.get("top_n") or None  # vLLM's default is 0
        return [{"index": index, self.score: scores[index]} for index in best_first[:top_n]]

    def usage(self, body: dict[str, Any]) -> dict[str, int]:
        """Return its count of tokens."""
        texts = body[self.texts]
        tokens = token_count(body["query"]) * len(texts) + sum(map(token_count, texts))
        return {"prompt_tokens": tokens, "total_tokens": tokens}


class OfFastAPI(Server):
    """A server whose requests are a pydantic model: it ignores unknown fields."""

    Request: ClassVar[type[BaseModel]]

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        try:
            self.Request.model_validate(body)
        except ValidationError as error:
            detail = error.errors(include_url=False, include_context=False)
            return web.json_response({"detail": detail}, status=422)
        return None


class VLLM(OfFastAPI):
    """vLLM."""

    paths = ("/rerank", "/v1/rerank", "/v2/rerank")

    class Request(BaseModel):
        query: str
        documents: str | list[str]
        model: str | None = None
        instruction: str | None = None
        top_n: int = Field(default=0, ge=0)
        max_tokens_per_query: int = Field(default=0, ge=0)
        max_tokens_per_doc: int = Field(default=0, ge=0)

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model") not in (None, MODEL):
            message = f"The model `{body['model']}` does not exist."
            return self.error(404, "NotFoundError", message)
        return super().refusal(body)

    def ranking(self, body: dict[str, Any]) -> Any:
        texts = body["documents"]
        results = [
            {**ranked, "document": {"text": texts[ranked["index"]], "multi_modal": None}}
            for ranked in self.ranked(body)
        ]
        usage = self.usage(body)
        return {"id": "rerank-1", "model": MODEL, "usage": usage, "results": results}


class LlamaCpp(Server):
    """llama.cpp's llama-server."""

    paths = ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if not isinstance(body.get("query"), str):
            return self.error(400, "invalid_request_error", '"query" must be provided')
        if not body.get("documents"):
            message = '"documents" must be a non-empty string array'
            return self.error(400, "invalid_request_error", message)
        return None

    def unauthorized(self) -> web.Response:
        return self.error(401, "authentication_error", "Invalid API Key")

    def not_found(self) -> web.Response:
        return self.error(404, "not_found_error", "File Not Found")

    def error(self, status: int, code: str, message: str) -> web.Response:
        error = {"code": status, "message": message, "type": code}
        return web.json_response({"error": error}, status=status)

    def ranking(self, body: dict[str, Any]) -> Any:
        return {
            "model": body.get("model", MODEL),
            "object": "list",
            "usage": self.usage(body),
            "results": self.ranked(body),
        }


class SGLang(OfFastAPI):
    """SGLang."""

    paths = ("/v1/rerank",)
    score = "score"

    class Request(BaseModel):
        query: str
        documents: list[str]
        instruct: str | None = None
        top_n: int | None = Field(default=None, ge=1)
        return_documents: bool = True

    def error(self, status: int, code: str, message: str) -> web.Response:
        error = {"object": "error", "message": message, "type": code, "param": None, "code": status}
        return web.json_response(error, status=status)

    def ranking(self, body: dict[str, Any]) -> Any:
        results = [{**ranked, "meta_info": None} for ranked in self.ranked(body)]
        if body.get("return_documents", True):
            for result in results:
                result["document"] = body["documents"][result["index"]]
        return results

    def results(self, response: Any) -> list[Any]:
        return response


class Infinity(OfFastAPI):
    """Infinity."""

    paths = ("/rerank",)

    class Request(BaseModel):
        query: str = Field(max_length=8192 * 15)
        documents: list[str] = Field(min_length=1, max_length=2048)
        return_documents: bool = False
        raw_scores: bool = False
        model: str = "default/not-specified"
        top_n: int | None = Field(default=None, gt=0)

    def unauthorized(self) -> web.Response:
        return web.json_response({"detail": "Unauthorized"}, status=401)

    def ranking(self, body: dict[str, Any]) -> Any:
        return {
            "object": "rerank",
            "results": [{**ranked, "document": None} for ranked in self.ranked(body)],
            "model": MODEL,
            "usage": self.usage(body),
            "id": "infinity-1",
            "created": 1_750_000_000,
        }


class TEI(Server):
    """Text Embeddings Inference."""

    paths = ("/rerank", "/")
    texts = "texts"
    score = "score"

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        for name in ("query", "texts"):
            if name not in body:
                message = f"Failed to deserialize the JSON body: missing field `{name}`"
                return web.Response(text=message, status=422)
        size = len(body["texts"])
        if size > 32:
            message = f"batch size {size} > maximum allowed batch size 32"
            return self.error(413, "Validation", message)
        return None

    def unauthorized(self) -> web.Response:
        return web.Response(status=401)

    def not_found(self) -> web.Response:
        return web.Response(status=404)

    def error(self, status: int, code: str, message: str) -> web.Response:
        return web.json_response({"error": message, "error_type": code}, status=status)

    def ranking(self, body: dict[str, Any]) -> Any:
        return self.ranked(body)

    def results(self, response: Any) -> list[Any]:
        return response


class LocalAI(Server):
    """LocalAI."""

    paths = ("/v1/rerank",)

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        return None

    def ranking(self, body: dict[str, Any]) -> Any:
        texts = body["documents"]
        results = [
            {**ranked, "document": {"text": texts[ranked["index"]]}} for ranked in self.ranked(body)
        ]
        return {"model": body.get("model", ""), "usage": self.usage(body), "results": results}


class Xinference(OfFastAPI):
    """Xinference."""

    paths = ("/v1/rerank",)

    class Request(BaseModel):
        model: str
        query: str
        documents: list[str]
        top_n: int | None = None
        return_documents: bool | None = False
        kwargs: str | None = None

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model", MODEL) != MODEL:
            message = f"Model not found in the model list, uid: {body['model']}"
            return self.error(400, "", message)
        return super().refusal(body)

    def error(self, status: int, code: str, message: str) -> web.Response:
        return web.json_response({"detail": message}, status=status)

    def ranking(self, body: dict[str, Any]) -> Any:
        return {
            "id": "8b2f",
            "results": [{**ranked, "document": None} for ranked in self.ranked(body)],
            "meta": {"api_version": None, "billed_units": None, "tokens": None, "warnings": None},
        }


class DashScope(Server):
    """DashScope's compatible endpoint, for qwen3-rerank."""

    paths = ("/compatible-api/v1/reranks",)

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model") != MODEL:
            return self.error(404, "invalid_request_error", "The model does not exist.")
        return None

    def unauthorized(self) -> web.Response:
        return self.error(401, "invalid_request_error", "Incorrect API key provided.")

    def ranking(self, body: dict[str, Any]) -> Any:
        return {
            "object": "list",
            "results": self.ranked(body),
            "model": MODEL,
            "id": "dashscope-1",
            "usage": {"total_tokens": self.usage(body)["total_tokens"]},
        }


@dataclass
class FlatDashScope(LoopbackDashScope):
    """A DashScope that expects query and documents at the top level of the body."""

    refused: str = "Required input parameter missing from request."
    """What it says about other bodies."""

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if "input" in body or "parameters" in body:
            return self.error(400, "BadRequest.EmptyInput", self.refused)
        return super().refusal(_nested(body))

    def ranking(self, body: dict[str, Any]) -> Any:
        response = ranking(_nested(body))
        return {"results": response["output"]["results"], "usage": response["usage"], "id": "flat"}

    def results(self, response: Any) -> list[Any]:
        return response["results"]


def _nested(body: dict[str, Any]) -> dict[str, Any]:
    """Return a flat body in the nested form."""
    inputs = {"query": body["query"], "documents": body["documents"]}
    parameters = {name: body[name] for name in ("top_n", "instruct") if name in body}
    assert body.keys() == {"model", *inputs, *parameters}
    return {"model": body["model"], "input": inputs, "parameters": parameters}


SERVERS: dict[str, type[Server]] = {
    "vllm": VLLM,
    "llama.cpp": LlamaCpp,
    "sglang": SGLang,
    "infinity": Infinity,
    "tei": TEI,
    "localai": LocalAI,
    "xinference": Xinference,
    "dashscope": DashScope,
}
"""The servers by their names in ServerScorer."""
