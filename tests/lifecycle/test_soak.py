"""A short soak; `python benchmarks/soak.py` runs a long one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.interpreter import ROOT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_call_of_a_soak_has_the_expected_outcome_and_nothing_is_left_over() -> None:
    soak = [sys.executable, "benchmarks/soak.py", "--calls", "600", "--timeout", "5"]
    run = subprocess.run(soak, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr + run.stdout
    assert "| none | 570 right |" in run.stdout
