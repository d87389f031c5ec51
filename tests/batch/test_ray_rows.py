"""What happens on Ray to the rows of a block and of a file; no cluster is needed for these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import InvalidInputError
from tests.support.scorers import ByLength

np = pytest.importorskip("numpy")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
objects = pytest.importorskip("ray.data._internal.object_extensions.arrow").ArrowPythonObjectArray
ray_data = pytest.importorskip("qwen_rerank.batch.ray_data")
ray_files = pytest.importorskip("qwen_rerank.batch.ray_files")
ray_run = pytest.importorskip("qwen_rerank.batch.ray_run")

TEXTS = ["a", "bbb", "cc"]


def reranked(documents: Any, scorer: Any = ByLength, **columns: Any) -> Any:
    """The block that comes out for rows with these documents."""
    settings = ray_data._Settings(
        scorer=scorer,
        processes=1,
        query="query",
        documents="documents",
        rerank_field="text",
        top_n=2,
        on_error="keep",
        max_concurrency=2,
        usage=None,
    )
    queries = ["krill"] * len(documents)
    return ray_data._Actor(settings)(
        pa.table({"query": queries, "documents": documents, **columns})
    )


@pytest.mark.parametrize(
    "documents",
    [
        pa.array([TEXTS, None], pa.list_(pa.string(), 3)),
        pa.array([TEXTS, None], pa.large_list(pa.large_string())),
        objects.from_objects([np.array(TEXTS, dtype=object), None]),
    ],
    ids=["fixed_size_list", "large_list", "NumPy arrays, as pandas reads them from Parquet"],
)
def test_lists_of_any_kind_are_cut_to_top_n_and_null_stays_null(documents: Any) -> None:
    table = reranked(documents)
    assert table.column("documents").to_pylist() == [["bbb", "cc"], None]
    assert table.column("relevance_scores").to_pylist() == [[3.0, 2.0], []]


def test_a_block_without_any_documents_passes() -> None:
    assert reranked(pa.nulls(2)).column("documents").to_pylist() == [None, None]


def test_a_dataset_can_be_reranked_again() -> None:
    earlier = {"relevance_scores": [[1.0, 1.0, 1.0]], "error": ["late"]}
    table = reranked(pa.array([TEXTS]), **earlier)
    assert table.column_names == ["query", "documents", "relevance_scores", "error"]
    assert table.to_pylist()[0] == {
        "query": "krill",
        "documents": ["bbb", "cc"],
        "relevance_scores": [3.0, 2.0],
        "error": None,
    }


def test_documents_that_are_not_lists_are_refused_before_they_are_scored() -> None:
    unfit = {
        "got 'abc'": pa.array(["abc"]),
        "got {'text': 'a'}": pa.array([{"text": "a"}]),
        "got map<": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
        "different types": objects.from_objects([["a", {"text": "b"}]]),
    }
    for message, documents in unfit.items():
        with pytest.raises(InvalidInputError, match=message):
            reranked(documents)


def test_a_scorer_that_cannot_be_created_fails_the_first_block_with_its_own_error() -> None:
    with pytest.raises(InvalidInputError, match="scorer must create a Scorer, got NoneType"):
        reranked(pa.array([TEXTS]), scorer=lambda: None)


def texts(rows: Mapping[str, Any], fields: Any = None) -> dict[str, str]:
    table = ray_files._text_columns(pa.table(rows), fields, "document_id", "text")
    ids, found = (table.column(name).to_pylist() for name in ("document_id", "text"))
    return dict(zip(ids, found, strict=True))


def test_texts_in_parquet_follow_the_rules_of_json_lines() -> None:
    assert texts({"id": [1], "contents": ["a"]}) == {"1": "a"}
    vectors = pa.array([[0.5, 0.5]], pa.list_(pa.float32()))
    assert texts({"_id": ["1"], "emb": vectors, "t": ["a"]}, "t") == {"1": "a"}
    assert texts({"_id": ["1"], "title": [None], "text": ["a"]}) == {"1": "a"}
    unfit: dict[str, tuple[Mapping[str, Any], Any]] = {
        "no text in 'body'; the fields are '_id', 'text'": ({"_id": [1], "text": ["a"]}, ["body"]),
        "no text in 'title' or 'text'": ({"_id": [1], "body": ["a"]}, None),
        "the field 'text' is 1, not a string": ({"_id": [1], "text": [1]}, None),
        "the id is 1.0, not a string or an integer": ({"_id": [1.0], "text": ["a"]}, None),
        "no id in '_id'": ({"_id": [None], "text": ["a"]}, None),
    }
    for message, (rows, fields) in unfit.items():
        with pytest.raises(InvalidInputError, match=message):
            texts(rows, fields)


def test_rows_of_a_run_in_parquet_that_no_run_can_have_are_refused() -> None:
    valid = {"query_id": ["q1"], "document_id": [7], "rank": [1.0]}
    (pair,) = ray_files._checked_pairs(pa.table(valid)).to_pylist()
    assert (pair["document_id"], pair["rank"]) == ("7", 1)
    unfit: dict[str, Mapping[str, Any]] = {
        "has no rank": {"rank": [None]},
        "another type": {"rank": [1.5]},
        "'document_id' of the run has floats": {"document_id": [7.0]},
        "query_id 'q 1' is blank or has white space": {"query_id": ["q 1"]},
        "document_id '' is blank": {"document_id": [""]},
    }
    for message, columns in unfit.items():
        with pytest.raises(InvalidInputError, match=message):
            ray_files._checked_pairs(pa.table({**valid, **columns}))
    with pytest.raises(
        InvalidInputError, match="The run has no column 'document_id'; it has 'query_id'"
    ):
        ray_files._checked_pairs(pa.table({"query_id": ["q1"]}))


def test_files_that_are_not_there_or_of_two_kinds_are_named(tmp_path: Path) -> None:
    run, table = tmp_path / "bm25.run", tmp_path / "bm25.PARQUET"
    for path in (run, table):
        path.touch()
    unfit: list[tuple[Any, str]] = [
        ({"run": tmp_path / "none.run"}, "There is no file .*none.run"),
        ({"run": run, "corpus": tmp_path}, "There are no Parquet files in the folder"),
        ({"run": [run, table]}, "bm25.PARQUET is Parquet, and .*bm25.run is not"),
        ({"run": 5}, "Files must be a path"),
        ({"run": run, "num_partitions": 0}, "num_partitions must be a whole number"),
        ({"run": run, "fields": []}, "fields must be the names of fields"),
        ({"run": run, "fields": "{"}, "format string"),
    ]
    for arguments, message in unfit:
        with pytest.raises(InvalidInputError, match=message):
            ray_files.read_candidates(**arguments)


ROW = {"query_id": "q1", "documents": [{"id": "d1"}], "relevance_scores": [0.5]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query_id": "q 1"}, "The id 'q 1' can't be a column"),
        ({"documents": [{"id": None}]}, "The id None can't be a column"),
        ({"documents": ["a text"]}, "rows with query_id, documents with an id each"),
        ({"relevance_scores": []}, "as many relevance_scores"),
    ],
)
def test_rows_that_make_no_run_are_refused(
    tmp_path: Path, row: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ray_files.write_rows([{**ROW, **row}], tmp_path / "out.run", "t", overwrite=False)
    with pytest.raises(InvalidInputError, match="Two rows have the query id 'q1'"):
        ray_files.write_rows([ROW, ROW], tmp_path / "out.run", "t", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_a_run_is_refused_before_anything_is_reranked(tmp_path: Path) -> None:
    class Unread:
        def iter_rows(self) -> Any:
            raise AssertionError("starts the job")

    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: ray_files.write_trec(Unread(), tmp_path, "t"), "it is not a file"),
        (
            lambda: ray_files.write_trec(Unread(), tmp_path / "no" / "run", "t"),
            "There is no folder",
        ),
        (lambda: ray_files.write_trec(Unread(), Path(__file__), "t"), "already exists"),
        (lambda: ray_files.write_trec(Unread(), tmp_path / "run", "my run"), "tag must be a word"),
    ]
    for write, message in refused:
        with pytest.raises(InvalidInputError, match=message):
            write()


def test_queries_that_are_missing_or_doubled_in_the_state_of_a_job_are_noticed(
    tmp_path: Path,
) -> None:
    for name, ids in {"joined": ["q1", "q2", "q3"], "reranked": ["q3", "q2", "q2"]}.items():
        (tmp_path / name).mkdir()
        parquet.write_table(pa.table({"query_id": ids}), tmp_path / name / "0.parquet")
    joined, ids = (ray_run._ids(tmp_path / name) for name in ("joined", "reranked"))
    with pytest.raises(InvalidInputError, match=r"1 of 3 queries are missing .* and 1 are there"):
        ray_run._check_whole(tmp_path, joined, ids)
    ray_run._check_whole(tmp_path, joined, ["q1", "q2", "q3"])
    (tmp_path / "joined" / "0.parquet").write_bytes(b"junk")
    with pytest.raises(InvalidInputError, match=r"0\.parquet is corrupted"):
        ray_run._ids(tmp_path / "joined")


def test_an_attempt_that_may_have_kept_an_order_is_not_continued_without_the_option(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "keep_refused"
    ray_run._check_refused(mark, keep_refused=False)
    mark.touch()
    ray_run._check_refused(mark, keep_refused=True)
    with pytest.raises(InvalidInputError, match="Continue with keep_refused=True"):
        ray_run._check_refused(mark, keep_refused=False)
