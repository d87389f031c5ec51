"""The examples in the READMEs and pages run and print what they say, and what they name exists.

All Python blocks of a page run in order, in one namespace and an empty folder. Pages that change
the whole process run in an interpreter of their own. A `text` block right after a Python block is
its expected output. DashScope is a local server, and so is the server on port 8000; a tiny model
replaces the one to download.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import qwen_rerank
from qwen_rerank.settings import PluginSettings
from qwen_rerank.testing.loopback import LoopbackDashScope
from scripts import benchmark_table, picture
from tests.scorers.local import WHY_SKIPPED
from tests.support.interpreter import python
from tests.support.pages import PAGES, READMES, ROOT, examples, fences
from tests.support.servers import VLLM

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([\w./-]+):(?!=)", MAKEFILE, re.MULTILINE)
HAS_TORCH = find_spec("torch") is not None

SERVER = "http://localhost:8000"
MODEL = "Qwen/Qwen3-Reranker-0.6B"
PAGES_WITH_OWN_PROCESS = {"tracing.md", "chat.md"}
"""The first sets up OpenTelemetry and logging; LlamaIndex's chat memory leaves a database open."""

USER_COMMANDS = {"vllm", "python", "llama-server", "xinference"}
"""Commands that start other servers. The tests don't run them."""


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def server() -> Iterator[VLLM]:
    with VLLM() as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with the same architecture, if torch is installed."""
    if not HAS_TORCH:
        return MODEL
    from tests.support import tiny_qwen

    return str(tiny_qwen.save(tmp_path_factory.mktemp("tiny-qwen")))


FOLLOWED_ELSEWHERE = {"adding-a-scorer.md"}
"""Pages whose code goes into several files: see `test_adding_a_scorer`."""

WITH_PYTHON = [page for page in PAGES if page.name not in FOLLOWED_ELSEWHERE and examples(page)]


@pytest.mark.parametrize(
    "page", [page for page in WITH_PYTHON if page.name in PAGES_WITH_OWN_PROCESS], ids=page_name
)
def test_python_runs_in_its_own_process_and_prints_the_expected_output(page: Path) -> None:
    blocks, printed = zip(*examples(page), strict=True)
    out, err = python("\n".join(block.text for block in blocks))
    assert (out, err) == ("".join(filter(None, printed)), "")


@pytest.mark.parametrize(
    "page", [page for page in WITH_PYTHON if page.name not in PAGES_WITH_OWN_PROCESS], ids=page_name
)
def test_python_runs_and_prints_the_expected_output(
    page: Path,
    dashscope: LoopbackDashScope,
    server: VLLM,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    has_skipped = False
    for block, printed in examples(page):
        if "LocalScorer(" in block.text and not HAS_TORCH:
            has_skipped = True
            continue
        code = block.text.replace(SERVER, server.root).replace(MODEL, model)
        exec(compile("\n" * block.line + code, page, "exec", dont_inherit=True), names)
        assert capsys.readouterr().out == (printed or "")
    if has_skipped:
        pytest.skip(f"the rest ran; LocalScorer: {WHY_SKIPPED}")


@pytest.mark.skipif(not HAS_TORCH, reason=WHY_SKIPPED)
@pytest.mark.parametrize("readme", READMES, ids=page_name)
def test_the_open_model_example_of_the_readme_ranks(readme: Path, model: str) -> None:
    texts = [block.text for block, _ in examples(readme)]
    (code,) = (text for text in texts if "LocalScorer" in text)
    names: dict[str, Any] = {}
    exec(code.replace(MODEL, model), names)
    documents = [Document(page_content=text) for text in "abcde"]
    assert len(names["compressor"].compress_documents(documents, "which?")) == 3


def commands(page: Path) -> Iterator[list[str]]:
    """The commands in shell blocks, in indented blocks, and in inline code."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^ {4}((?:make|pip|bash|export) .*)$", text, re.MULTILINE)
    inline = re.findall(r"`((?:make|pip install|qwen-rerank|bash) [^`]+)`", text)
    for line in [*indented, *inline]:
        yield shlex.split(line.replace("\n", " "))
    for block in fences(page):
        if block.language in ("sh", "bash"):
            yield from script(block.text)


def script(text: str) -> Iterator[list[str]]:
    """The commands of a script. Open quotes and trailing backslashes continue a command."""
    command = ""
    for line in text.splitlines():
        command += f"{line}\n"
        if command.endswith("\\\n") or command.count("'") % 2:
            continue
        if words := shlex.split(command.replace("\\\n", " "), comments=True):
            yield words
        command = ""
    assert not command, command


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=page_name)
def test_commands_exist(page: Path) -> None:
    for command, *arguments in commands(page):
        if command == "make":
            assert arguments[0] in TARGETS
        elif command == "pip":
            for extras in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
                assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
        else:
            known = {*PROJECT.get("scripts", {}), "export", *USER_COMMANDS}
            assert command in known or shutil.which(command), command


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "benchmarks|core/qwen_rerank|docs|examples|notebooks|scripts|tests"
    for path in re.findall(rf"`[^`\n]*?((?<![\w/])(?:{folders})/[\w/.*-]+\.\w+)", text):
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("readme", READMES, ids=page_name)
def test_the_benchmark_table_has_the_stored_figures(readme: Path) -> None:
    assert benchmark_table.with_table(readme) == readme.read_text(encoding="utf-8")


def test_the_benchmark_of_faults_finds_the_rows_of_the_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = runpy.run_path(str(ROOT / "benchmarks" / "faults.py"))
    failures = {failure.name for failure in names["failures"]()}
    assert {"HTML", "401 InvalidApiKey", "503 in HTML", "drops"} <= failures


@pytest.mark.parametrize("name", picture.PICTURES)
def test_the_pictures_show_what_the_reranker_does(name: str) -> None:
    words = picture.PICTURES[name]
    svg = picture.svg(picture.orders(words), words)
    assert svg == (picture.IMAGES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["options.md", "zh/options.md"])
def test_the_options_table_has_all_options_with_their_defaults(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    for name, field in PluginSettings.model_fields.items():
        assert name in rows
        if rows[name].startswith("`") and not rows[name].startswith("`DASHSCOPE"):
            assert rows[name].strip('`"') in (str(field.default), "cn-beijing")


def test_the_readmes_have_the_same_names_and_links() -> None:
    english, chinese = (readme.read_text(encoding="utf-8") for readme in READMES)
    chinese = chinese.replace(".zh-CN.svg)", ".svg)").replace("(README.md)", "(README.zh-CN.md)")
    for pattern in (r"^#+ ", r"\]\(([^)]+)\)", r"(?<!`)`([^`\n]+)`(?!`)", r"^```(\w*)$", r"^\| "):
        counts = [Counter(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], pattern


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api" / "qwen_rerank.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. auto\w+:: (\w+)$", text, re.MULTILINE)) == {*qwen_rerank.__all__}
