"""A missing optional package is named together with the extra that installs it."""

from __future__ import annotations

from tests.support.interpreter import DEVELOPMENT_MODE, python

WITHOUT = """
import sys
from qwen_rerank import MissingDependencyError
from qwen_rerank.evaluation import compare, randomisation_test

print({"ir_measures", "numpy", "pandas", "matplotlib", "rich"} & sys.modules.keys())

def report():
    return compare({"a": {"q": ["x"]}, "b": {"q": ["x"]}}, {"q": {"x": 1}})

for missing, ask in {
    "numpy": lambda: randomisation_test([0.1]),
    "ir_measures": report,
    "rich.console": lambda: str(report()),
    "pandas": lambda: report().to_pandas(),
    "matplotlib.figure": lambda: report().plot_gains(),
}.items():
    sys.modules[missing] = None
    try:
        ask()
    except MissingDependencyError as error:
        print(missing, error)
    del sys.modules[missing]
"""


def test_optional_packages_are_imported_on_use_and_errors_name_the_extra() -> None:
    out, err = python(WITHOUT, *DEVELOPMENT_MODE)
    imported, *errors = out.splitlines()
    assert imported == "set()"
    assert [error.split()[0] for error in errors] == [
        "numpy",
        "ir_measures",
        "rich.console",
        "pandas",
        "matplotlib.figure",
    ]
    assert all('pip install "qwen-rerank[evaluation]"' in error for error in errors)
    assert err == ""
