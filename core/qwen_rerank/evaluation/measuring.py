"""Compute measures with ir-measures, by the names it gives them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.packages import import_optional
from qwen_rerank.evaluation.runs import Run
from qwen_rerank.validation import is_utf8

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["compute_values", "parse_measures"]

_SIMPLE_NAME = re.compile(r"(?P<name>\w+)(?:@(?P<cutoff>\d+))?")


def parse_measures(measures: Iterable[str | Measure]) -> list[Measure]:
    """Return the measures with these names, each once.

    Raises:
        InvalidInputError: There are no names, or ir-measures does not know one.
        MissingDependencyError: ir-measures is not installed.
    """
    is_list = isinstance(measures, Iterable) and not isinstance(measures, str)
    if not is_list or not (requested := list(measures)):
        raise InvalidInputError(
            f"measures must be a list of at least one measure, got {measures!r}.",
            remedy='Pass for example ["nDCG@10", "RR"].',
        )
    ir_measures = import_optional("ir_measures", "Measuring")
    return list(dict.fromkeys(_parse_measure(ir_measures, measure) for measure in requested))


def _parse_measure(ir_measures: Any, requested: str | Measure) -> Measure:
    try:
        measure = _lookup(ir_measures, requested)
        measure.validate_params()
        # Raises ValueError unless one of its tools implements the measure.
        ir_measures.evaluator([measure], {"query": {"document": 1}})
    except (AssertionError, AttributeError, NameError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"ir-measures has no measure {requested!r}: {error}.",
            remedy="Use one of its names, such as nDCG@10, RR, R@50, P@5 or AP.",
        ) from error
    return cast("Measure", measure)


def _lookup(ir_measures: Any, requested: str | Measure) -> Any:
    """Look up simple names directly: ir-measures' parser fails on Python 3.14."""
    simple = _SIMPLE_NAME.fullmatch(requested) if isinstance(requested, str) else None
    measure = ir_measures.measures.registry.get(simple["name"]) if simple else None
    if simple is None or measure is None:
        with warnings.catch_warnings():  # the parser's own, from Python 3.12 on
            warnings.simplefilter("ignore", DeprecationWarning)
            return ir_measures.parse_measure(requested)
    return measure @ int(simple["cutoff"]) if simple["cutoff"] else measure


def compute_values(
    run: Run, judgements: Mapping[str, Mapping[str, int]], measures: Sequence[Measure]
) -> dict[str, dict[str, float]]:
    """Compute each measure for each judged query, 0 where the run has no documents.

    Documents count in the order of the run. By score, ir-measures would order ties by document id.

    Returns:
        The values by measure name and query id.

    Raises:
        InvalidInputError: ir-measures fails, or an id is not one that its tools can read.
    """
    for rankings in (run, judgements):
        _check_ids(rankings)
    ir_measures = import_optional("ir_measures", "Measuring")
    by_rank = {
        query_id: {document_id: -float(rank) for rank, document_id in enumerate(ranking, start=1)}
        for query_id, ranking in run.items()
        if ranking
    }
    values: dict[str, dict[str, float]] = {str(measure): {} for measure in measures}
    try:
        for value in ir_measures.iter_calc(measures, judgements, by_rank) if by_rank else ():
            values[str(value.measure)][value.query_id] = float(value.value)
    except Exception as error:  # the tools behind ir-measures raise whatever they like
        raise InvalidInputError(
            f"ir-measures can't compute {', '.join(values)}: {error!r}.",
            remedy="Leave out the measure. Some, such as ERR, accept only integer ids.",
        ) from error
    # In the order of the judgements, so that nothing depends on the order of ir-measures.
    return {
        name: {query_id: of_query.get(query_id, 0.0) for query_id in judgements}
        for name, of_query in values.items()
    }


def _check_ids(rankings: Mapping[str, Iterable[str]]) -> None:
    """Raise InvalidInputError for ids that crash trec_eval, or that it cuts off."""
    for query_id, ranking in rankings.items():
        for id_ in (query_id, *ranking):
            if "\0" in id_ or not (id_.isascii() or is_utf8(id_)):
                raise InvalidInputError(
                    f"The id {id_!r} contains a null character or half of a surrogate pair, which "
                    "ir-measures can't read.",
                    remedy="Give the query or document another id.",
                )
