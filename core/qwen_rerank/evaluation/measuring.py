"""Measures, by the names that ir-measures gives them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.packages import needed
from qwen_rerank.evaluation.runs import Run

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["measured", "parsed"]

_SIMPLE = re.compile(r"(?P<name>\w+)(?:@(?P<cutoff>\d+))?")


def parsed(measures: Iterable[str | Measure]) -> list[Measure]:
    """The measures of these names.

    Raises:
        InvalidInputError: One that ir-measures does not know, or none at all.
        MissingDependencyError: ir-measures is not installed.
    """
    if isinstance(measures, str) or not (given := list(measures)):
        raise InvalidInputError(
            f"measures must be names of measures, at least one, got {measures!r}.",
            remedy='Pass for example ["nDCG@10", "RR"].',
        )
    ir_measures = needed("ir_measures", "Measuring")
    return list(dict.fromkeys(_measure(ir_measures, measure) for measure in given))


def _measure(ir_measures: Any, given: str | Measure) -> Measure:
    try:
        measure = _found(ir_measures, given)
        measure.validate_params()
        ir_measures.evaluator([measure], {"query": {"document": 1}})  # has it an implementation
    except (AssertionError, AttributeError, NameError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"There is no measure {given!r}: {error}.",
            remedy="Pass a name of ir-measures', such as nDCG@10, RR, R@50, P@5 or AP.",
        ) from error
    return cast("Measure", measure)


def _found(ir_measures: Any, given: str | Measure) -> Any:
    """By the simple names without ir-measures' own parser, which needs what Python 3.14 lacks."""
    simple = _SIMPLE.fullmatch(given) if isinstance(given, str) else None
    known = ir_measures.measures.registry.get(simple["name"]) if simple else None
    if simple is None or known is None:
        with warnings.catch_warnings():  # of its own, from Python 3.12 on
            warnings.simplefilter("ignore", DeprecationWarning)
            return ir_measures.parse_measure(given)
    return known @ int(simple["cutoff"]) if simple["cutoff"] else known


def measured(
    run: Run, judgements: Mapping[str, Mapping[str, int]], measures: Sequence[Measure]
) -> dict[str, dict[str, float]]:
    """By each measure's name the value for each judged query, 0 where the run has none.

    Documents count by their place: by score, equal ones would be ordered by their ids.

    Raises:
        InvalidInputError: ir-measures fails.
    """
    ir_measures = needed("ir_measures", "Measuring")
    places = {
        query_id: {document_id: -float(place) for place, document_id in enumerate(ranking)}
        for query_id, ranking in run.items()
        if ranking
    }
    values: dict[str, dict[str, float]] = {str(measure): {} for measure in measures}
    try:
        for value in ir_measures.iter_calc(measures, judgements, places) if places else ():
            values[str(value.measure)][value.query_id] = float(value.value)
    except Exception as error:  # of the tools that ir-measures runs, whatever they are written in
        raise InvalidInputError(
            f"ir-measures can't measure {', '.join(values)}: {error!r}.",
            remedy="Leave out the measure; some, such as ERR, take whole numbers alone for ids.",
        ) from error
    # In the order of the judgements, so that nothing depends on that of ir-measures.
    return {
        name: {query_id: of_query.get(query_id, 0.0) for query_id in judgements}
        for name, of_query in values.items()
    }
