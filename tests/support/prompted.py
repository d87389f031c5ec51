"""Servers of a model that reads prompts, as Qwen3-Reranker does.

The model answers well only if the prompt is the official one, to the letter. Otherwise its scores
look normal and mean nothing, like those of the real model without its template.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any
from zlib import crc32

from aiohttp import web

from tests.support.servers import MODEL, VLLM, Server

__all__ = ["Completions", "DeepInfra", "Ollama", "PromptedVLLM", "probability_of_yes", "prompt"]

INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"


def prompt(query: str, text: str, instruct: str = INSTRUCT) -> str:
    """The official prompt, as the model's authors write it."""
    return (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        f"<|im_start|>user\n<Instruct>: {instruct}\n<Query>: {query}\n<Document>: {text}"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


@cache
def _official() -> re.Pattern[str]:
    marks = prompt("QUERY", "TEXT", "INSTRUCT")
    pattern = re.escape(marks)
    for mark in ("INSTRUCT", "QUERY", "TEXT"):
        pattern = pattern.replace(mark, r"((?:(?!<\|im_)[\s\S])*)")
    return re.compile(pattern)


def probability_of_yes(text: str) -> float:
    """What the model answers: how many of the query's words the text has, and a little of the rest.

    The rest is a number that depends on everything in the prompt, so that no two scores are equal.
    """
    noise = crc32(text.encode()) / 2**32
    official = _official().fullmatch(text)
    if official is None:
        return 0.3 + 0.4 * noise
    _, query, document = official.groups()
    wanted, given = _words(query), _words(document)
    return 0.02 + 0.9 * len(wanted & given) / max(1, len(wanted)) + 0.05 * noise


def _words(text: str) -> set[str]:
    """Words; for Chinese, which has no spaces, pairs of characters."""
    chinese = "".join(re.findall(r"[\u4e00-\u9fff]", text))
    return {*re.findall(r"[a-z0-9]+", text.lower()), *map("".join, pairwise(chinese))}


@dataclass
class PromptedVLLM(VLLM):
    """vLLM with Qwen3-Reranker.

    Attributes:
        has_template: Whether it was started with the chat template.
        reads_instruct: Whether the template receives the instruction: older versions don't.
        change: What it makes of the model's score, given the query as well.
    """

    has_template: bool = False
    reads_instruct: bool = True
    change: Callable[[float, str], float] | None = None

    def ranked(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        query, documents = body["query"], body["documents"]
        instruct = (self.reads_instruct and body.get("instruction")) or INSTRUCT
        prompts = [
            prompt(query, document, instruct) if self.has_template else query + document
            for document in documents
        ]
        scores = list(map(probability_of_yes, prompts))
        if self.change is not None:
            scores = [self.change(score, query) for score in scores]
        best_first = sorted(range(len(scores)), key=lambda index: -scores[index])
        results = [{"index": index, "relevance_score": scores[index]} for index in best_first]
        return results[: body.get("top_n") or None]


@dataclass
class Completions(Server):
    """A server of OpenAI's completions API.

    Attributes:
        form: How it returns log-probabilities: `"legacy"` as vLLM and SGLang, or `"content"` as
            llama.cpp; None if it doesn't.
        takes_lists: Whether it completes more than the first prompt.
        top: How many log-probabilities it returns at most.
    """

    paths = ("/v1/completions",)
    form: str | None = "legacy"
    takes_lists: bool = True
    top: int = 20

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model") not in (None, MODEL):
            message = f"The model `{body['model']}` does not exist."
            return self.error(404, "NotFoundError", message)
        return None

    def ranking(self, body: dict[str, Any]) -> Any:
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [
            {"index": index, "text": "yes", "logprobs": self._logprobs(text, body["logprobs"])}
            for index, text in enumerate(prompts[: None if self.takes_lists else 1])
        ]
        total = sum(map(len, prompts))
        return {"id": "cmpl-1", "choices": choices[::-1], "usage": {"total_tokens": total}}

    def results(self, response: Any) -> list[Any]:
        return response["choices"]

    def _logprobs(self, text: str, wanted: int) -> Any:
        if self.form is None:
            return None
        candidates = top_logprobs(text, min(wanted, self.top))
        if self.form == "content":
            top = [{"token": token, "logprob": value} for token, value in candidates]
            return {"content": [{**top[0], "top_logprobs": top}]}
        (token, value), *_ = candidates
        return {"tokens": [token], "token_logprobs": [value], "top_logprobs": [dict(candidates)]}


@dataclass
class Ollama(Server):
    """Ollama's own API."""

    paths = ("/api/generate",)

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if body["model"] != MODEL:
            return self.error(404, "", f"model '{body['model']}' not found")
        return None

    def error(self, status: int, code: str, message: str) -> web.Response:
        return web.json_response({"error": message}, status=status)

    def ranking(self, body: dict[str, Any]) -> Any:
        assert body["raw"] is True
        top = [
            {"token": token, "logprob": value}
            for token, value in top_logprobs(body["prompt"], body["top_logprobs"])
        ]
        logprobs = [{**top[0], "top_logprobs": top}]
        return {"response": "yes", "done": True, "prompt_eval_count": 7, "logprobs": logprobs}


@dataclass
class DeepInfra(Server):
    """DeepInfra, which pairs each query with the document at its index."""

    paths = (f"/v1/inference/{MODEL}",)

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if len(body["queries"]) != len(body["documents"]):
            return self.error(422, "", "queries and documents must have the same length")
        return None

    def ranking(self, body: dict[str, Any]) -> Any:
        pairs = zip(body["queries"], body["documents"], strict=True)
        scores = [probability_of_yes(prompt(*pair)) for pair in pairs]
        return {"scores": scores, "input_tokens": 42, "request_id": "r1"}


def top_logprobs(text: str, count: int) -> list[tuple[str, float]]:
    """The most probable first tokens: yes and no with 99 %, and other tokens."""
    yes = 0.99 * probability_of_yes(text)
    others = {" yes": 0.004, "Yes": 0.003, "No": 0.002} | {f"t{n}": 1e-4 / 2**n for n in range(30)}
    tokens = {"yes": yes, "no": 0.99 - yes, **others}
    best_first = sorted(tokens.items(), key=lambda token: -token[1])[:count]
    return [(token, math.log(probability)) for token, probability in best_first]
