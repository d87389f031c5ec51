"""The protocols of rerank servers, by the names that users give them.

The entries in `SERVERS` say how each differs from the common protocol, according to that server's
source code; docs/scorers.md names the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qwen_rerank.scorers.catalog import Limits
from qwen_rerank.scorers.http.dialects import dashscope
from qwen_rerank.scorers.http.dialects.common import ANY_SCORE, COMMON, LIMITS, ServerDialect
from qwen_rerank.scorers.http.dialects.completions import CompletionsDialect, OllamaDialect
from qwen_rerank.scorers.http.dialects.hosts import DeepInfraDialect
from qwen_rerank.scorers.http.dialects.media import as_content_object, as_named_parts, as_parts

__all__ = ["ANY_SCORE", "COMMON", "SERVERS", "ServerDialect"]

_OWN_PROMPT = "the service writes the prompt itself"

SERVERS: Mapping[str, ServerDialect] = {
    "vllm": ServerDialect(
        "vLLM",
        instruct="instruction",
        context_option="a larger --max-model-len",
        # Not truncate_prompt_tokens: it would cut off the end of Qwen3-Reranker's prompt.
        item_limits=("max_tokens_per_query", "max_tokens_per_doc"),
        media=as_content_object,
        setup="Start vLLM with both --hf_overrides and --chat-template, or with --hf_overrides "
        'alone and prompt="qwen3" here.',
    ),
    "llama.cpp": ServerDialect(
        "llama.cpp",
        context_option="a larger --ctx-size, --batch-size and --ubatch-size",
        prompt_obstacle="it puts the texts into the prompt of the GGUF file, or joins them and "
        "reads control tokens as plain text if the file has none",
        setup="Convert the original model to GGUF with llama.cpp's convert_hf_to_gguf.py, which "
        "adds the prompt and the classifier weights.",
    ),
    "sglang": ServerDialect(
        "SGLang",
        instruct="instruct",
        extra={"return_documents": False},
        context_option="a larger --context-length",
        media=as_parts,
        setup="Start SGLang with its --chat-template for Qwen3-Reranker and without "
        "--is-embedding.",
    ),
    "infinity": ServerDialect(
        "Infinity",
        "/rerank",
        prompt_obstacle="it removes blank lines at the end of a text, and the prompt ends with one",
    ),
    "tei": ServerDialect(
        "TEI",
        "/rerank",
        documents="texts",
        takes_top_n=False,
        truncate="truncate",
        limits=replace(LIMITS, documents=32),
        prompt_obstacle="it can't load Qwen3-Reranker",
    ),
    "localai": ServerDialect(
        "LocalAI",
        prompt_obstacle="each of its backends joins the query and the text in its own way",
    ),
    "xinference": ServerDialect(
        "Xinference",
        needs_model=True,
        prompt_extra={"kwargs": '{"enable_qwen3_rerank_template": false}'},
        media=as_named_parts,
        setup="Launch the model under its built-in name, such as Qwen3-Reranker-0.6B: Xinference "
        "writes the prompt only for these names.",
    ),
    "dashscope": ServerDialect(
        "DashScope",
        "/compatible-api/v1/reranks",
        instruct="instruct",
        needs_model=True,
        limits=Limits(),
        score_range=(0.0, 1.0),
        codes=dashscope.CODES,
        is_own=False,
        prompt_obstacle=_OWN_PROMPT,
    ),
    "completions": CompletionsDialect(
        "The completions server",
        "/v1/completions",
        limits=replace(LIMITS, documents=32),
        score_range=(0.0, 1.0),
        takes_top_n=False,
        always_prompts=True,
        setup="Serve Qwen3-Reranker itself, not a conversion to a classifier or embedding model.",
    ),
    "ollama": OllamaDialect(
        "Ollama",
        "/api/generate",
        needs_model=True,
        limits=replace(LIMITS, documents=1),
        score_range=(0.0, 1.0),
        context_option="a larger OLLAMA_CONTEXT_LENGTH",
        takes_top_n=False,
        always_prompts=True,
        setup="Serve Qwen3-Reranker itself, from a GGUF file that has all the weights.",
    ),
    "deepinfra": DeepInfraDialect(
        "DeepInfra",
        "/v1/inference/{model}",
        needs_model=True,
        score_range=(0.0, 1.0),
        takes_top_n=False,
        is_own=False,
        prompt_obstacle=_OWN_PROMPT,
    ),
    "generic": ServerDialect(
        "The service",
        instruct="instruction",
        is_own=False,
        prompt_obstacle="how it joins the query and the text is not known",
    ),
}
"""The servers, by the names that users give them."""
