"""Without its packages, evaluation names the extra that brings them; nothing else needs them."""

from __future__ import annotations

import pytest

from tests.support.interpreter import DEVELOPMENT_MODE, python

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing}))
from qwen_rerank import MissingDependencyError
from qwen_rerank.evaluation import compare, randomisation_test
try:
    {ask}
except MissingDependencyError as error:
    print(error)
"""


REPORT = 'compare({"a": {"q": ["x"]}, "b": {"q": ["x"]}}, {"q": {"x": 1}})'


@pytest.mark.parametrize(
    ("missing", "ask"),
    [
        ("ir_measures", REPORT),
        ("numpy", "randomisation_test([0.1])"),
        ("rich.console", f"str({REPORT})"),
        ("pandas", f"{REPORT}.to_pandas()"),
        ("matplotlib.figure", f"{REPORT}.plot_gains()"),
    ],
)
def test_a_missing_package_names_the_extra(missing: str, ask: str) -> None:
    said, complaints = python(WITHOUT.format(missing=[missing], ask=ask), *DEVELOPMENT_MODE)
    assert "qwen-rerank[evaluation]" in said
    assert missing.partition(".")[0] in said
    assert complaints == ""


def test_importing_it_imports_none_of_them() -> None:
    said, _ = python(
        "import sys, qwen_rerank.evaluation\n"
        "print({'ir_measures', 'numpy', 'pandas', 'matplotlib', 'rich'} & sys.modules.keys())"
    )
    assert said == "set()\n"
