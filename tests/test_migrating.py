"""The migration pages: the new code runs, and the old code where its package is installed."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import zvec
import zvec.extension
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import EmbeddedScorer, QwenReRanker
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.pages import ROOT, fences, side
from tests.support.servers import LlamaCpp

FOLDER = ROOT / "docs" / "migrating"

WHY_SKIPPED = "not installed; benchmarks/peers.txt has the packages that use DashScope"


@dataclass(frozen=True)
class Migration:
    """A page's migration from an old class to a new one.

    Attributes:
        index: Which of the page's diffs, outputs and tables are this migration's.
    """

    page: str
    old: str
    new: type
    index: int = 0

    @property
    def text(self) -> str:
        return (FOLDER / self.page).read_text(encoding="utf-8")

    def code(self, sign: str) -> str:
        """The old code (sign "-") or the new code (sign "+") of the diff."""
        changes = [fence for fence in fences(FOLDER / self.page) if fence.language == "diff"]
        return side(changes[self.index], sign)

    @property
    def printed(self) -> str:
        outputs = [fence for fence in fences(FOLDER / self.page) if fence.language == "text"]
        return outputs[self.index].text

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """The table: the old option, the new one, and a remark."""
        tables = re.findall(r"^\|---\|---\|---\|\n((?:\|.*\n)+)", self.text, re.MULTILINE)
        lines = tables[self.index].splitlines()
        return [(old, new, more) for _, old, new, more, _ in (line.split("|") for line in lines)]

    def old_class(self) -> Any:
        module, _, name = self.old.rpartition(".")
        pytest.importorskip(module.partition(".")[0], reason=WHY_SKIPPED)
        pytest.importorskip(module, reason=WHY_SKIPPED)
        return getattr(import_module(module), name)


LANGCHAIN = Migration(
    "langchain-dashscope.md",
    "langchain_community.document_compressors.DashScopeRerank",
    langchain_qwen_rerank.QwenRerank,
)
LLAMAINDEX = Migration(
    "llamaindex-dashscope.md",
    "llama_index.postprocessor.dashscope_rerank.DashScopeRerank",
    llamaindex_qwen_rerank.QwenRerank,
)
ZVEC = Migration("zvec.md", "zvec.extension.QwenReRanker", QwenReRanker)
COHERE = [
    Migration("cohere.md", "langchain_cohere.CohereRerank", langchain_qwen_rerank.QwenRerank),
    Migration(
        "cohere.md",
        "llama_index.postprocessor.cohere_rerank.CohereRerank",
        llamaindex_qwen_rerank.QwenRerank,
        index=1,
    ),
]
ALL = [LANGCHAIN, LLAMAINDEX, ZVEC, *COHERE]

each = pytest.mark.parametrize("migration", ALL, ids=lambda migration: migration.old)
of_other_packages = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def sdk(dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch) -> LoopbackDashScope:
    """The loopback service, to which the SDK's globals point too; they are restored afterwards."""
    import dashscope as package

    monkeypatch.setattr(package, "base_http_api_url", dashscope.base_url)
    monkeypatch.setattr(package, "api_key", None)
    return dashscope


class Cohere(LlamaCpp):
    """Cohere's service for its client 5.21; its responses have the same form."""

    paths = ("/v2/rerank",)

    def ranked(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return super().ranked(body)[: body["top_n"]]


@pytest.fixture
def cohere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cohere]:
    with Cohere() as server:
        monkeypatch.setenv("COHERE_API_KEY", "unknown")
        yield server


@each
def test_the_new_code_prints_what_the_page_says(
    migration: Migration, dashscope: LoopbackDashScope, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(migration.code("+"), {})
    assert capsys.readouterr().out == migration.printed
    (request,) = dashscope.received
    named = re.search(r'model="([\w.-]+)"', migration.code("+"))
    default = "gte-rerank-v2" if migration.new is QwenReRanker else "qwen3-rerank"
    assert request.model == (named[1] if named else default)


@each
@of_other_packages
def test_the_old_code_prints_the_same(
    migration: Migration,
    sdk: LoopbackDashScope,
    cohere: Cohere,
    capsys: pytest.CaptureFixture[str],
) -> None:
    migration.old_class()
    at = f'CohereRerank(base_url="{cohere.root}", '  # both ignore their client's CO_API_URL
    exec(migration.code("-").replace("CohereRerank(", at), {})
    assert capsys.readouterr().out == migration.printed
    assert [len(server.received) for server in (sdk, cohere)] == (
        [0, 1] if migration in COHERE else [1, 0]
    )
    gc.collect()  # which closes the connections that Cohere's client leaves open


@each
def test_the_old_code_is_python(migration: Migration) -> None:
    compile(migration.code("-"), migration.page, "exec")


@each
@of_other_packages
def test_the_table_has_all_old_options_and_their_defaults(migration: Migration) -> None:
    old = migration.old_class()
    cells = [cell for cell, _, _ in migration.rows]
    options = {name: p for name, p in _parameters(old).items() if p.kind != p.VAR_KEYWORD}
    assert {name for cell in cells for name in re.findall(r"`(\w+)=`", cell)} == options.keys()
    for name, default in _defaults(cells).items():
        assert default in (str(options[name].default), str(_default_of_method(old, "rerank", name)))
    for method, option in _methods(cells):
        assert option in (None, *_parameters(getattr(old, method)))


@each
def test_the_table_has_only_options_that_exist_and_their_defaults(migration: Migration) -> None:
    cells = [cell for _, cell, _ in migration.rows]
    options = _parameters(migration.new)
    for name in {name for cell in cells for name in re.findall(r"`(\w+)=`", cell)}:
        assert name in options
    for name, default in _defaults(cells).items():
        assert str(options[name].default) == default
    for method, option in _methods(cells):
        assert option in (None, *_parameters(getattr(migration.new, method)))


def _parameters(thing: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(thing).parameters
    return {name: each for name, each in parameters.items() if name not in ("self", "cls")}


def _defaults(cells: list[str]) -> dict[str, str]:
    return dict(match for cell in cells for match in re.findall(r"`(\w+)=` \(([\w.-]+)\)", cell))


def _methods(cells: list[str]) -> list[tuple[str, str | None]]:
    """The methods that the cells name, each with the option that they mean."""
    named = [match for cell in cells for match in re.findall(r"`(\w+)\((?:(\w+)=)?\)`", cell)]
    return [(method, option or None) for method, option in named]


def _default_of_method(cls: type, method: str, name: str) -> Any:
    parameters = _parameters(getattr(cls, method)) if hasattr(cls, method) else {}
    return parameters[name].default if name in parameters else None


@of_other_packages
class TestLangChainCommunity:
    """What the page says about DashScopeRerank, where it is installed."""

    DOCUMENTS = (Document(id="a", page_content="score=0.9", metadata={"deep": {}}),)

    def test_it_uses_gte_rerank_whatever_the_model(self, sdk: LoopbackDashScope) -> None:
        LANGCHAIN.old_class()(model="qwen3-rerank").compress_documents(self.DOCUMENTS, "q")
        assert sdk.received[0].model == "gte-rerank"

    def test_it_loses_ids_and_copies_metadata_deeply(self, sdk: LoopbackDashScope) -> None:
        (document,) = LANGCHAIN.old_class()().compress_documents(self.DOCUMENTS, "q")
        assert document.id is None
        assert document.metadata["deep"] is not self.DOCUMENTS[0].metadata["deep"]

    def test_ours_keeps_ids_and_copies_metadata_one_level_deep(
        self, dashscope: LoopbackDashScope
    ) -> None:
        (document,) = LANGCHAIN.new().compress_documents(self.DOCUMENTS, "q")
        assert document.id == "a"
        assert document.metadata is not self.DOCUMENTS[0].metadata
        assert document.metadata["deep"] is self.DOCUMENTS[0].metadata["deep"]

    def test_it_fails_with_an_attribute_error_and_shows_the_key(
        self, sdk: LoopbackDashScope
    ) -> None:
        compressor = LANGCHAIN.old_class()()
        sdk.faults.append(refuses(401, "InvalidApiKey"))
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'results'"):
            compressor.compress_documents(self.DOCUMENTS, "q")
        assert sdk.key in repr(compressor)

    def test_it_refuses_a_key_if_the_environment_has_one_and_shows_it(
        self, sdk: LoopbackDashScope
    ) -> None:
        with pytest.raises(ValueError, match=f"Extra inputs are not permitted.*{sdk.key}"):
            LANGCHAIN.old_class()(api_key="sk-other")


@of_other_packages
class TestLlamaIndexDashScope:
    """What the page says about DashScopeRerank, where it is installed."""

    NODES = (NodeWithScore(node=TextNode(text="score=0.9", metadata={"title": "T"}), score=0.1),)

    def test_it_sends_the_same_text(self, sdk: LoopbackDashScope) -> None:
        for cls in (LLAMAINDEX.old_class(), LLAMAINDEX.new):
            cls().postprocess_nodes(list(self.NODES), query_str="q")
        first, second = sdk.received
        assert first.documents == second.documents == ["title: T\n\nscore=0.9"]

    def test_it_fails_with_an_attribute_error(self, sdk: LoopbackDashScope) -> None:
        rerank = LLAMAINDEX.old_class()()
        sdk.faults.append(refuses(429, "Throttling"))
        with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'results'"):
            rerank.postprocess_nodes(list(self.NODES), query_str="q")

    def test_it_fails_with_a_key_error_without_a_key(self) -> None:
        with pytest.raises(KeyError, match="DASHSCOPE_API_KEY"):
            LLAMAINDEX.old_class()()

    def test_a_missing_query_is_a_value_error_in_both(self, sdk: LoopbackDashScope) -> None:
        for cls in (LLAMAINDEX.old_class(), LLAMAINDEX.new):
            with pytest.raises(ValueError, match="query"):
                cls().postprocess_nodes(list(self.NODES))


class TestZvec:
    """What the pages say about zvec's QwenReRanker, and about a collection's query."""

    BLANK = (zvec.Doc(id="a", fields={"content": " "}),)
    SAME = tuple(zvec.Doc(id=id_, fields={"content": "score=0.9"}) for id_ in "ab")

    def test_nothing_to_rank_is_a_value_error_and_in_ours_an_empty_list(
        self, sdk: LoopbackDashScope
    ) -> None:
        old = zvec.extension.QwenReRanker("q", "content")
        assert old.rerank([]) == []
        for documents in ([], [*self.BLANK]):
            with pytest.raises(ValueError, match="No documents to rerank"):
                old.rerank([documents])
            assert QwenReRanker("q").rerank([documents]) == []

    def test_an_error_response_is_a_value_error_and_no_response_a_runtime_error(
        self, sdk: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = zvec.extension.QwenReRanker("q", "content")
        sdk.faults.append(refuses(503, "ServiceUnavailable"))
        with pytest.raises(ValueError, match="ServiceUnavailable"):
            old.rerank([[*self.SAME]])
        assert len(sdk.received) == 1
        monkeypatch.setattr("dashscope.base_http_api_url", "http://127.0.0.1:9/api/v1")
        with pytest.raises(RuntimeError, match="Failed to call DashScope"):
            old.rerank([[*self.SAME]])

    def test_it_sends_equal_texts_twice_and_ours_sends_them_once(
        self, sdk: LoopbackDashScope
    ) -> None:
        zvec.extension.QwenReRanker("q", "content").rerank([[*self.SAME]])
        QwenReRanker("q").rerank([[*self.SAME]])
        assert [len(request.documents) for request in sdk.received] == [2, 1]

    def test_it_sets_the_key_for_the_whole_process(self, sdk: LoopbackDashScope) -> None:
        import dashscope as package

        QwenReRanker("q").rerank([[*self.SAME]])
        assert package.api_key is None
        zvec.extension.QwenReRanker("q", "content").rerank([[*self.SAME]])
        assert package.api_key == sdk.key

    def test_only_an_empty_query_is_refused(self, sdk: LoopbackDashScope) -> None:
        assert zvec.extension.QwenReRanker(" ", "content").query == " "
        with pytest.raises(ValueError, match="blank"):
            QwenReRanker(" ")

    def test_a_collection_reranks_topk_documents_of_each_of_two_queries_but_none_of_one(
        self, tmp_path: Path
    ) -> None:
        vector = zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, dimension=2)
        content = zvec.FieldSchema("content", zvec.DataType.STRING)
        schema = zvec.CollectionSchema(name="c", fields=content, vectors=vector)
        collection = zvec.create_and_open(path=str(tmp_path / "c"), schema=schema)
        for number in range(5):
            fields = {"content": f"penguins {number}"}
            vectors = {"vector": [1.0, float(number)]}
            collection.insert(zvec.Doc(id=str(number), fields=fields, vectors=vectors))
        query = zvec.Query("vector", vector=[1.0, 0.0])
        reranker = Counting("penguins", scorer=EmbeddedScorer())
        collection.query(query, topk=2, reranker=reranker)
        assert reranker.counts == []
        collection.query([query, query], topk=2, reranker=reranker)
        assert reranker.counts == [2, 2]


class Counting(QwenReRanker):
    """Keeps the number of documents in each list."""

    counts: list[int]

    def __init__(self, query: str, **options: Any) -> None:
        super().__init__(query, **options)
        self.counts = []

    def rerank(self, query_results: Any, topn: int | None = None) -> list[Any]:
        self.counts += map(len, query_results)
        return super().rerank(query_results, topn)
