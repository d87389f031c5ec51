"""ServerScorer against real servers with small random models. `make servers` runs these tests.

    INFINITY_EMB=…/bin/infinity_emb   in an environment with infinity-emb[torch,server]
    LLAMA_CPP=…/bin/python            in an environment with xllamacpp, gguf and safetensors

Without these variables, these tests are skipped, and only those in `test_server.py` run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import (
    AuthenticationError,
    BadResponseError,
    InvalidInputError,
    LocalScorer,
    Scores,
    ServerScorer,
    ServiceError,
)
from tests.contract.faces import FACES, Face, Item
from tests.support import llama_server, tiny_models
from tests.support.real_server import KEY, running

pytestmark = pytest.mark.timeout(300)  # Infinity takes a minute to start

TEXTS = ["markets fell on monday", "penguins eat krill", "rain", "a guitar has six strings"]

NEAR = 0.01
"""How much a score of llama.cpp depends on the rest of the batch: its cache has 16 bits."""


@pytest.fixture(scope="module", params=["infinity", "llama.cpp", "tei"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The dialect and the address of a server. llama.cpp understands TEI's dialect too."""
    start = infinity if request.param == "infinity" else llama_cpp
    with start(tmp_path_factory.mktemp("model")) as url:
        yield request.param, url


@contextmanager
def infinity(folder: Path) -> Iterator[str]:
    command = _command("INFINITY_EMB")
    model = folder / "tiny"
    python = Path(command).with_name("python")  # has what the model needs
    subprocess.run([python, tiny_models.__file__, "bert", model], check=True, capture_output=True)
    options = ["--engine", "torch", "--dtype", "float32", "--no-bettertransformer"]
    with running([command, "v2", "--model-id", model, "--device", "cpu", *options]) as url:
        yield url


@contextmanager
def llama_cpp(folder: Path, *options: str, model: Path | None = None) -> Iterator[str]:
    python = _command("LLAMA_CPP")
    if model is None:
        model = folder / "tiny.gguf"
        subprocess.run([python, tiny_models.__file__, "qwen3", model], check=True)
    options = "-c", "8192", "--float32-attention", *(options or ("--reranking",))
    with running([python, llama_server.__file__, "-m", model, *options]) as url:
        yield url


def _command(variable: str) -> str:
    command = os.environ.get(variable)
    if not command:
        pytest.skip(f"{variable} is not set")
    return command


def scorer_of(server: tuple[Any, str], **options: Any) -> ServerScorer:
    name, url = server
    return ServerScorer(url, dialect=name, **{"api_key": KEY, "max_retries": 0, **options})


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Callable[..., Scores]:
    if request.param == "score":
        return ServerScorer.score
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


def test_a_score_does_not_depend_on_the_other_texts(server: Any, score: Any) -> None:
    scorer = scorer_of(server)
    values = score(scorer, "what do penguins eat", TEXTS).values
    alone = [score(scorer, "what do penguins eat", [text]).values[0] for text in TEXTS]
    assert values == pytest.approx(alone, abs=NEAR)
    nearest = min(abs(one - other) for one, other in combinations(values, 2))
    assert nearest > 2 * NEAR, "two scores are too close to tell apart"
    assert 0 <= min(values) < max(values) <= 1


def test_many_concurrent_requests_give_the_same_scores_as_one(server: Any, score: Any) -> None:
    texts = [
        f"{text} {chr(97 + index % 26) * (1 + index // 26)}"
        for index, text in enumerate(TEXTS * 25)
    ]
    whole = score(scorer_of(server, batch_size=100), "krill", texts)
    parts = score(scorer_of(server, batch_size=5, max_concurrency=4), "krill", texts)
    assert parts.values == pytest.approx(whole.values, abs=NEAR)
    assert (whole.usage.requests, parts.usage.requests) == (1, 20)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_every_face_ranks_through_it(server: Any, face: type[Face]) -> None:
    scorer = scorer_of(server)
    values = scorer.score("krill", TEXTS).values
    ranker = face("krill", scorer=scorer)
    made = [ranker.make(Item(str(index), {"text": text})) for index, text in enumerate(TEXTS)]
    best_first = sorted(map(str, range(4)), key=lambda id_: -values[int(id_)])
    assert [ranker.read(ranked).id for ranked in ranker.rank(made)] == best_first


@pytest.mark.parametrize("key", [None, "sk-another"])
def test_a_wrong_key_is_refused(server: Any, score: Any, key: str | None) -> None:
    with pytest.raises(AuthenticationError):
        score(scorer_of(server, api_key=key), "q", ["a"])


def test_a_wrong_path_is_an_error_that_names_it(server: Any, score: Any) -> None:
    name, url = server
    with pytest.raises(InvalidInputError, match="/v3/rerank"):
        score(scorer_of((name, f"{url}/v3/rerank")), "q", ["a"])


def test_a_random_model_fails_the_check(server: Any) -> None:
    with pytest.raises(BadResponseError, match="failed the check"):
        scorer_of(server).check()


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small Qwen3-Reranker, also in GGUF."""
    pytest.importorskip("torch")
    from tests.support import tiny_qwen

    python = _command("LLAMA_CPP")
    folder = tiny_qwen.save(tmp_path_factory.mktemp("reranker"), tiny_qwen.decided_model())
    subprocess.run([python, tiny_models.__file__, "gguf", folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("instruct", [None, "Find the ticket of the same fault."])
def test_completions_give_the_scores_of_the_local_scorer(
    reranker: Path, score: Any, instruct: str | None
) -> None:
    options = {} if instruct is None else {"instruct": instruct}
    texts = [*TEXTS, "企鹅吃磷虾。\n", "krill " * 200]
    with LocalScorer(str(reranker), dtype="float32", **options) as local:
        expected = local.score("what do penguins eat", texts).values
    with llama_cpp(reranker, "--no-warmup", model=reranker / "model.gguf") as url:
        for batch_size in (None, 1):
            scorer = scorer_of(("completions", url), batch_size=batch_size, instruct=instruct)
            scores = score(scorer, "what do penguins eat", texts)
            assert scores.values == pytest.approx(expected, abs=1e-3)
            assert scores.usage.tokens > 0
        with pytest.raises(InvalidInputError, match="longer than the server's model"):
            score(scorer, "q", ["krill " * 5_000])
    assert max(expected) - min(expected) > 0.01


def test_a_server_that_was_not_started_for_reranking_is_an_error_with_a_remedy(
    tmp_path: Path,
) -> None:
    with (
        llama_cpp(tmp_path, "--no-warmup") as url,
        pytest.raises(ServiceError, match="--reranking"),
    ):
        scorer_of(("llama.cpp", url)).score("q", ["a"])
