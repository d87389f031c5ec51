"""Test what you build on qwen-rerank, without a key or a network.

`FakeScorer` gives scores that you can predict. `LoopbackDashScope` is a DashScope on your machine
that enforces the service's limits and fails on demand. `ScorerTests`, `CompressorTests` and
`PostprocessorTests` are pytest classes to inherit, which test a scorer, a LangChain document
compressor or a LlamaIndex node postprocessor of your own. Only these three need pytest.

`HelpCentre` is a small collection in English and Chinese to try things on, with queries and
judgements.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen_rerank.testing.contract.compressors import CompressorTests
    from qwen_rerank.testing.contract.postprocessors import PostprocessorTests
    from qwen_rerank.testing.contract.rankers import RankerTests
    from qwen_rerank.testing.contract.scorers import ScorerTests
    from qwen_rerank.testing.fake import FakeScorer
    from qwen_rerank.testing.faults import breaks_off, drops, edits, hangs, refuses, says
    from qwen_rerank.testing.help_centre import (
        HelpCentre,
        HelpPassage,
        HelpQuery,
        average_word_vectors,
    )
    from qwen_rerank.testing.loopback import Fault, LoopbackDashScope, Received

__all__ = [
    "CompressorTests",
    "FakeScorer",
    "Fault",
    "HelpCentre",
    "HelpPassage",
    "HelpQuery",
    "LoopbackDashScope",
    "PostprocessorTests",
    "RankerTests",
    "Received",
    "ScorerTests",
    "average_word_vectors",
    "breaks_off",
    "drops",
    "edits",
    "hangs",
    "refuses",
    "says",
]

_MODULES = {
    "CompressorTests": "contract.compressors",
    "FakeScorer": "fake",
    "Fault": "loopback",
    "HelpCentre": "help_centre",
    "HelpPassage": "help_centre",
    "HelpQuery": "help_centre",
    "LoopbackDashScope": "loopback",
    "PostprocessorTests": "contract.postprocessors",
    "RankerTests": "contract.rankers",
    "Received": "loopback",
    "ScorerTests": "contract.scorers",
    "average_word_vectors": "help_centre",
    **dict.fromkeys(("breaks_off", "drops", "edits", "hangs", "refuses", "says"), "faults"),
}

if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a name on first use: the test classes need pytest and the frameworks."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
