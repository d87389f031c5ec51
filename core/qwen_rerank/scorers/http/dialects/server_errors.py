"""What servers say when something is wrong, and what you can do about it.

The same wording means the same with every server, so that a wrong `dialect` does not matter. The
sources are those that docs/scorers.md names.
"""

from __future__ import annotations

import re

from qwen_rerank.errors import InvalidInputError, RateLimitError, ServiceError
from qwen_rerank.scorers.http.dialects.base import ErrorMapping

__all__ = ["is_too_long", "mapping_by_message"]

_TOO_LONG = re.compile(
    r"too (large|big|long) to process|physical batch size|context (length|size|window)"
    r"|max(imum)? (model|sequence) len|must have less than \d+ (tokens|characters)",
    re.IGNORECASE,
)


def is_too_long(message: str) -> bool:
    """Whether the message says that a text is longer than the model can read."""
    return _TOO_LONG.search(message) is not None


def mapping_by_message(message: str) -> ErrorMapping | None:
    """The error type and the remedy for a server's message; None if it is not a known one."""
    return next((mapping for said, mapping in _MAPPINGS if said.search(message)), None)


_BUSY = "Lower max_concurrency, or raise the server's own limit on waiting requests."
_NO_MODEL = "Check model=, and that the server has loaded this model."
_NO_RERANKER = "Start the server with a reranker; see docs/scorers.md."

_MAPPINGS: tuple[tuple[re.Pattern[str], ErrorMapping], ...] = tuple(
    (re.compile(said, re.IGNORECASE), mapping)
    for said, mapping in {
        # llama.cpp
        "does not support reranking": (
            ServiceError,
            "Start the server for reranking; llama.cpp with --reranking.",
        ),
        "loading model": (ServiceError, "Wait until the server has loaded its model."),
        "does not support (completions|logits)|context does not support logits": (
            InvalidInputError,
            "Start llama.cpp without --reranking or --embedding for this dialect.",
        ),
        # vLLM
        "score api is only enabled for num_labels": (
            InvalidInputError,
            "Start vLLM with the --hf_overrides of docs/scorers.md.",
        ),
        r"does not support (the )?(rerank|score)": (InvalidInputError, _NO_RERANKER),
        "logprobs of .{0,100} greater than max allowed": (
            InvalidInputError,
            "Start vLLM with --max-logprobs 20 or more.",
        ),
        "multimodalparam is not supported": (
            InvalidInputError,
            "The server's model reads no images. Leave out multimodal=True, or serve "
            "Qwen3-VL-Reranker.",
        ),
        # SGLang
        "server is not in generation mode": (
            InvalidInputError,
            "Start SGLang without --is-embedding.",
        ),
        "request queue is full": (ServiceError, _BUSY),
        "invalid rerank request adaptation": (
            InvalidInputError,
            "Start SGLang with the --chat-template of docs/scorers.md.",
        ),
        # TEI and Infinity
        "not a re-?ranker model": (InvalidInputError, _NO_RERANKER),
        "overloaded": (RateLimitError, _BUSY),
        "invalid model:": (InvalidInputError, _NO_MODEL),
        # Xinference
        "unexpected keyword arguments.{0,300}enable_qwen3_rerank_template": (
            InvalidInputError,
            "Launch the model with --model-engine vllm, or leave out prompt=: the other engines "
            "write the prompt themselves.",
        ),
        "rate limit reached for the model": (RateLimitError, _BUSY),
        "model not found": (InvalidInputError, _NO_MODEL),
        # Ollama
        "server busy": (ServiceError, "Lower max_concurrency, or raise OLLAMA_MAX_QUEUE."),
        "does not support generate": (InvalidInputError, _NO_MODEL),
        # vLLM, llama.cpp's router and Ollama
        r"model .{0,300} (does not exist|not found)": (InvalidInputError, _NO_MODEL),
    }.items()
)
