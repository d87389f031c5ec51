"""Qwen3-Reranker on a plain LLM server: the score is read off the first token's probabilities.

The model's authors define the score as the probability of the token "yes" against that of "no" at
the end of the prompt (QwenLM/Qwen3-Embedding, README). Any server that completes a text and returns
log-probabilities can compute it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.scorers.http.dialects.base import InvalidRankingError, RankingResponse
from qwen_rerank.scorers.http.dialects.common import ServerDialect
from qwen_rerank.scorers.http.dialects.responses import read_json, tokens_in
from qwen_rerank.scorers.prompts import prompt_pair
from qwen_rerank.validation import is_finite

__all__ = ["CompletionsDialect", "OllamaDialect", "yes_probability"]

_TOP = 20
"""How many log-probabilities are asked for: the most that vLLM (by default) and Ollama return."""

_MAX_UNCERTAINTY = 0.05
"""How far a score may be from the exact one if the probability of "yes" or "no" is not known."""


@dataclass(frozen=True)
class CompletionsDialect(ServerDialect):
    """OpenAI's completions API: vLLM, SGLang, llama.cpp and others."""

    incomplete_remedy: str | None = (
        "Some servers complete only one prompt per request: pass batch_size=1."
    )

    def request_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        # A list of one is a string: not every server takes lists.
        prompts = _prompts(query, documents, instruct)
        body: dict[str, Any] = {
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": _TOP,
        }
        return {**body, "model": model} if self.names_model else body

    def parse_ranking(self, body: bytes) -> RankingResponse:
        response = read_json(body)
        choices = response.get("choices") if isinstance(response, dict) else None
        if not isinstance(choices, list):
            raise InvalidRankingError("choices: expected a list")
        indices, scores = [], []
        for at, choice in enumerate(choices):
            where = f"choices.{at}"
            if not isinstance(choice, dict):
                raise InvalidRankingError(f"{where}: expected an object")
            index = choice.get("index", 0 if len(choices) == 1 else None)
            if type(index) is not int:
                raise InvalidRankingError(
                    f"{where}.index: expected an integer; for a server without it, pass "
                    "batch_size=1"
                )
            indices.append(index)
            scores.append(_score(choice.get("logprobs"), where))
        return RankingResponse(indices, scores, tokens_in([response]))


@dataclass(frozen=True)
class OllamaDialect(ServerDialect):
    """Ollama's own API, as its OpenAI-compatible one puts the prompt into the model's template."""

    def request_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        (prompt,) = _prompts(query, documents, instruct)
        return {
            "model": model,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "truncate": False,
            "logprobs": True,
            "top_logprobs": _TOP,
            "options": {"num_predict": 1, "temperature": 0},
        }

    def parse_ranking(self, body: bytes) -> RankingResponse:
        response = read_json(body)
        if not isinstance(response, dict) or "response" not in response:
            raise InvalidRankingError("response: missing")
        tokens = response.get("prompt_eval_count")
        score = _score({"content": response.get("logprobs")}, "logprobs")
        return RankingResponse([0], [score], tokens if type(tokens) is int else 0)


def _prompts(query: Item, documents: Sequence[Item], instruct: str | None) -> list[str]:
    """The prompts of a request. They begin alike, so that the server computes that part once."""
    return ["".join(prompt_pair(instruct, text_of(query), text_of(each))) for each in documents]


def _score(logprobs: object, where: str) -> float:
    found = list(_first_token(logprobs))
    if not found:
        raise InvalidRankingError(
            f"{where}: no log-probabilities of the first token; the server does not return them"
        )
    score = yes_probability(found)
    if score is None:
        raise InvalidRankingError(
            f"{where}: neither 'yes' nor 'no' is among the {len(found)} most probable tokens, or "
            "the score can't be told from them; the model is probably not Qwen3-Reranker"
        )
    return score


def yes_probability(logprobs: Iterable[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)), from the most probable tokens and their log-probabilities.

    Only the spellings "yes" and "no" count, as with the model's authors; a server can list one
    several times. If only one of the two is listed, the other is at most as probable as the least
    probable token listed, and as all tokens that are not listed. It is taken to be that probable.

    Returns:
        The probability; None if neither is listed, or if it could be off by more than 0.05.
    """
    tokens = [(token, math.exp(logprob)) for token, logprob in logprobs]
    yes, no = (
        math.fsum(probability for token, probability in tokens if token == word)
        for word in ("yes", "no")
    )
    if yes and no:
        return yes / (yes + no)
    known = yes or no
    if not known:
        return None
    probabilities = [probability for _, probability in tokens]
    other = max(0.0, min(*probabilities, 1 - math.fsum(probabilities)))
    share = known / (known + other)
    if 1 - share > _MAX_UNCERTAINTY:
        return None
    return share if yes else 1 - share


def _first_token(logprobs: object) -> Iterable[tuple[str, float]]:
    """The candidates for the first token and their log-probabilities, in either of OpenAI's forms.

    The token that was chosen is among them, or is listed apart from them.
    """
    if not isinstance(logprobs, Mapping):
        return
    candidates: list[tuple[object, object]] = []
    chosen: tuple[object, object] | None = None
    if content := logprobs.get("content"):
        first = content[0] if isinstance(content, list) else None
        if not isinstance(first, Mapping):
            return
        listed = first.get("top_logprobs")
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, Mapping):
                candidates.append((each.get("token"), each.get("logprob")))
        chosen = (first.get("token"), first.get("logprob"))
    else:
        top, tokens, values = (
            logprobs.get(name) for name in ("top_logprobs", "tokens", "token_logprobs")
        )
        if isinstance(top, list) and top and isinstance(top[0], Mapping):
            candidates.extend(top[0].items())
        if isinstance(tokens, list) and isinstance(values, list) and tokens and values:
            chosen = (tokens[0], values[0])
    if chosen is not None and chosen[0] not in [token for token, _ in candidates]:
        candidates.append(chosen)
    for token, logprob in candidates:
        if isinstance(token, str) and is_finite(logprob):
            yield token, min(0.0, float(logprob))
