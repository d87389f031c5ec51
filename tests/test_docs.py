"""The READMEs' and the pages' examples run as printed, and what they name is there.

The Python of a page runs from its first block to its last, in one namespace and an empty folder, or
in an interpreter of its own where it sets what is of the whole process. A block of text right after
it is what it prints. DashScope is the loopback service; a server on port 8000 and a model to
download have stand-ins.
"""

from __future__ import annotations

import re
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

from qwen_rerank.settings import PluginSettings
from scripts import benchmark_table, picture
from tests.scorers.local import WHY_SKIPPED
from tests.support.interpreter import python
from tests.support.loopback import LoopbackDashScope
from tests.support.pages import PAGES, READMES, ROOT, examples, fences
from tests.support.servers import VLLM

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([\w./-]+):(?!=)", MAKEFILE, re.MULTILINE)
HAS_TORCH = find_spec("torch") is not None

SERVER = "http://localhost:8000"
MODEL = "Qwen/Qwen3-Reranker-0.6B"
OF_THE_PROCESS = {"tracing.md"}
"""Pages that set up OpenTelemetry and logging."""

OF_THE_USER = {"vllm", "python", "llama-server", "xinference"}
"""Commands that start servers which the tests have no use for."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def server() -> Iterator[VLLM]:
    with VLLM() as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of the same architecture, where torch is."""
    if not HAS_TORCH:
        return MODEL
    from tests.support import tiny_qwen

    return str(tiny_qwen.save(tmp_path_factory.mktemp("tiny-qwen")))


WITH_PYTHON = [page for page in PAGES if examples(page)]


@pytest.mark.parametrize(
    "page", [page for page in WITH_PYTHON if page.name in OF_THE_PROCESS], ids=named
)
def test_the_python_of_a_page_runs_in_a_process_of_its_own(page: Path) -> None:
    blocks, printed = zip(*examples(page), strict=True)
    out, complaints = python("\n".join(block.text for block in blocks))
    assert (out, complaints) == ("".join(filter(None, printed)), "")


@pytest.mark.parametrize(
    "page", [page for page in WITH_PYTHON if page.name not in OF_THE_PROCESS], ids=named
)
def test_the_python_of_a_page_runs_and_prints_what_it_says(
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
    left_out = False
    for block, printed in examples(page):
        if "LocalScorer(" in block.text and not HAS_TORCH:
            left_out = True
            continue
        code = block.text.replace(SERVER, server.root).replace(MODEL, model)
        exec(compile("\n" * block.line + code, page, "exec", dont_inherit=True), names)
        assert capsys.readouterr().out == (printed or "")
    if left_out:
        pytest.skip(f"the rest ran; LocalScorer: {WHY_SKIPPED}")


@pytest.mark.skipif(not HAS_TORCH, reason=WHY_SKIPPED)
@pytest.mark.parametrize("readme", READMES, ids=named)
def test_the_readmes_example_of_the_open_model_ranks(readme: Path, model: str) -> None:
    texts = [block.text for block, _ in examples(readme)]
    (code,) = (text for text in texts if "LocalScorer" in text)
    names: dict[str, Any] = {}
    exec(code.replace(MODEL, model), names)
    documents = [Document(page_content=text) for text in "abcde"]
    assert len(names["compressor"].compress_documents(documents, "which?")) == 3


def commands(page: Path) -> Iterator[list[str]]:
    """The commands in blocks of shell, and in indented ones that begin with one."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^ {4}((?:make|pip|bash|export) .*)$", text, re.MULTILINE)
    inline = re.findall(r"`((?:make|pip install|qwen-rerank|bash) [^`]+)`", text)
    for line in [*indented, *inline]:
        yield shlex.split(line.replace("\n", " "))
    for block in fences(page):
        if block.language in ("sh", "bash"):
            yield from script(block.text)


def script(text: str) -> Iterator[list[str]]:
    """The commands of a script; one goes on where a quotation or a backslash is open."""
    begun = ""
    for line in text.splitlines():
        begun += f"{line}\n"
        if begun.endswith("\\\n") or begun.count("'") % 2:
            continue
        if words := shlex.split(begun.replace("\\\n", " "), comments=True):
            yield words
        begun = ""
    assert not begun, begun


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=named)
def test_commands_exist(page: Path) -> None:
    for command, *arguments in commands(page):
        if command == "make":
            assert arguments[0] in TARGETS
        elif command == "pip":
            for extras in re.findall(r"\[([\w,]+)\]", " ".join(arguments)):
                assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
        else:
            known = {*PROJECT.get("scripts", {}), "export", *OF_THE_USER}
            assert command in known or shutil.which(command), command


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "benchmarks|examples|notebooks|scripts|tests"
    for path in re.findall(rf"`[^`\n]*?((?<![\w/])(?:{folders})/[\w/.*-]+\.\w+)", text):
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("readme", READMES, ids=named)
def test_the_table_of_the_benchmark_has_the_figures_that_are_kept(readme: Path) -> None:
    assert benchmark_table.with_table(readme) == readme.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", picture.PICTURES)
def test_the_pictures_are_of_what_the_reranker_does(name: str) -> None:
    words = picture.PICTURES[name]
    drawn = picture.svg(picture.orders(words), words)
    assert drawn == (picture.IMAGES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("readme", READMES, ids=named)
def test_the_table_of_options_has_them_all_with_their_defaults(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    for name, field in PluginSettings.model_fields.items():
        assert name in rows
        if rows[name].startswith("`") and not rows[name].startswith("`DASHSCOPE"):
            assert rows[name].strip('`"') in (str(field.default), "cn-beijing")


def test_the_readmes_name_and_link_the_same() -> None:
    english, chinese = (readme.read_text(encoding="utf-8") for readme in READMES)
    chinese = chinese.replace(".zh-CN.svg)", ".svg)").replace("(README.md)", "(README.zh-CN.md)")
    for what in (r"^#+ ", r"\]\(([^)]+)\)", r"(?<!`)`([^`\n]+)`(?!`)", r"^```(\w*)$", r"^\| "):
        found = [Counter(re.findall(what, text, re.MULTILINE)) for text in (english, chinese)]
        assert found[0] == found[1], what
