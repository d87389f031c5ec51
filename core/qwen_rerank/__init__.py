"""Rerank documents with Qwen models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import (
    AuthenticationError,
    BadResponseError,
    ContentBlockedError,
    InvalidInputError,
    MissingDependencyError,
    MissingKeyError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.inputs.content import Content, Modality
from qwen_rerank.inputs.fields import RerankField
from qwen_rerank.options import Missing, UsageCallback
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import Ranking
from qwen_rerank.reranker import QwenReRanker
from qwen_rerank.scorers.base import Passage, Scorer, Scores, Usage
from qwen_rerank.scorers.catalog import Limits, Price, published_prices
from qwen_rerank.scorers.dashscope import DashScopeScorer
from qwen_rerank.settings import RerankSettings

if TYPE_CHECKING:
    from qwen_rerank.scorers.embedded import EmbeddedScorer
    from qwen_rerank.scorers.local import LocalScorer
    from qwen_rerank.scorers.probe import CheckReport
    from qwen_rerank.scorers.server import PromptName, ServerName, ServerScorer
    from qwen_rerank.scorers.wrappers.cached import CachedScorer
    from qwen_rerank.scorers.wrappers.cascade import CascadeScorer
    from qwen_rerank.scorers.wrappers.fallback import FallbackScorer, KeepOrder
    from qwen_rerank.scorers.wrappers.passages import PassageScorer

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "BadResponseError",
    "CachedScorer",
    "CascadeScorer",
    "CheckReport",
    "Content",
    "ContentBlockedError",
    "DashScopeScorer",
    "EmbeddedScorer",
    "FallbackScorer",
    "InvalidInputError",
    "KeepOrder",
    "Limits",
    "LocalScorer",
    "Missing",
    "MissingDependencyError",
    "MissingKeyError",
    "Modality",
    "Passage",
    "PassageScorer",
    "Price",
    "PromptName",
    "QwenReRanker",
    "QwenRerankError",
    "Ranking",
    "RateLimitError",
    "Record",
    "RequestTimeoutError",
    "RerankEngine",
    "RerankField",
    "RerankSettings",
    "Scorer",
    "Scores",
    "ServerName",
    "ServerScorer",
    "ServiceError",
    "Usage",
    "UsageCallback",
    "published_prices",
]

_MODULES = {
    "CachedScorer": "scorers.wrappers.cached",
    "CascadeScorer": "scorers.wrappers.cascade",
    "CheckReport": "scorers.probe",
    "EmbeddedScorer": "scorers.embedded",
    "FallbackScorer": "scorers.wrappers.fallback",
    "KeepOrder": "scorers.wrappers.fallback",
    "LocalScorer": "scorers.local",
    "PassageScorer": "scorers.wrappers.passages",
    "PromptName": "scorers.server",
    "ServerName": "scorers.server",
    "ServerScorer": "scorers.server",
}

if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a scorer on first use: few programs need more than one."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
