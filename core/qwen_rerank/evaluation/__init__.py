"""Measure what reranking changes: `evaluate` ranks and measures, `compare` measures runs.

Needs the extra `evaluation`. ir-measures computes the measures, rich prints the tables, and pandas
and matplotlib are imported only when you ask for a data frame or a plot.
"""

from qwen_rerank.datasets import read_judgements, read_run, read_texts
from qwen_rerank.evaluation.calibrating import Calibration, Interval, calibrate
from qwen_rerank.evaluation.comparing import compare, perfect
from qwen_rerank.evaluation.drawing import Plot
from qwen_rerank.evaluation.evaluating import Reranker, aevaluate, evaluate
from qwen_rerank.evaluation.first_stage import FirstStage
from qwen_rerank.evaluation.report import DEFAULT_MEASURES, Report
from qwen_rerank.evaluation.runs import Judgements, Run
from qwen_rerank.evaluation.significance import Comparison, randomisation_test

__all__ = [
    "DEFAULT_MEASURES",
    "Calibration",
    "Comparison",
    "FirstStage",
    "Interval",
    "Judgements",
    "Plot",
    "Report",
    "Reranker",
    "Run",
    "aevaluate",
    "calibrate",
    "compare",
    "evaluate",
    "perfect",
    "randomisation_test",
    "read_judgements",
    "read_run",
    "read_texts",
]
