"""What users install: the wheel, its extras, and its public names."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml

import qwen_rerank
from hatch_build import RepositoryHook
from tests.support.interpreter import python

ROOT = Path(__file__).parents[1]
PACKAGES = ("qwen_rerank", "langchain_qwen_rerank", "llamaindex_qwen_rerank")


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


def test_the_wheel_has_the_three_typed_packages_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        *PACKAGES,
        f"qwen_rerank-{qwen_rerank.__version__}.dist-info",
    }
    sources = {
        str(path.relative_to(ROOT / ("core" if package == "qwen_rerank" else "")))
        for package in PACKAGES
        for path in (ROOT / ("core" if package == "qwen_rerank" else "") / package).rglob("*.*")
        if "__pycache__" not in path.parts
    }
    assert sources <= set(names)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_wheel_requires_what_it_imports_and_names_its_extras(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    headers = Parser().parsestr(archive.read(metadata).decode())
    requires = headers.get_all("Requires-Dist") or []
    base = {line.split(">")[0].split("<")[0] for line in requires if "extra ==" not in line}
    assert base == {
        "dashscope",
        "pydantic",
        "filetype",
        "aiohttp",
        "yarl",
        "certifi",
        "typing-extensions",
    }
    assert set(headers.get_all("Provides-Extra") or []) == {
        "langchain",
        "llamaindex",
        "embedded",
        "passages",
        "rates",
        "evaluation",
        "cli",
        "local",
        "multilingual",
        "ray",
        "all",
    }


def test_the_source_distribution_has_all_that_a_build_and_the_tests_need(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {
        "Makefile",
        "README.md",
        "README.zh-CN.md",
        "LICENSE",
        "CHANGELOG.md",
        "pyproject.toml",
        "constraints.txt",
        ".ci/run",
    } <= names
    assert "tests/support/servers.py" in names


def test_a_repository_address_makes_the_links_of_the_readme_absolute() -> None:
    repository, metadata = "https://example.com/team/qwen-rerank", dict[str, Any]()
    RepositoryHook(str(ROOT), {"repository": f"{repository}/"}).update(metadata)
    text, addresses = metadata["readme"]["text"], metadata["urls"].values()
    assert f"]({repository}/raw/main/docs/images/before-after.svg)" in text
    assert f"]({repository}/blob/main/docs/scorers.md" in text
    assert not re.findall(r"\]\((?!https:|#).*?\)", text)
    assert all(address.startswith(repository) for address in addresses)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists_and_every_class_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    public = [getattr(module, name) for name in module.__all__]
    assert all(each.__doc__ for each in public if isinstance(each, type))


@pytest.mark.parametrize(
    ("package", "framework", "extra"),
    [
        ("langchain_qwen_rerank", "langchain_core", "langchain"),
        ("llamaindex_qwen_rerank", "llama_index", "llamaindex"),
    ],
)
def test_a_plugin_without_its_framework_names_the_extra(
    package: str, framework: str, extra: str
) -> None:
    _, stderr = python(
        f"import sys; sys.modules[{framework!r}] = None; from {package} import QwenRerank"
    )
    last = stderr.splitlines()[-1]
    assert last.startswith("qwen_rerank.errors.MissingDependencyError: ")
    assert last.endswith(f'pip install "qwen-rerank[{extra}]"')


def test_the_workflow_runs_the_targets_of_ci_on_every_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["make"]["strategy"]["matrix"]
    lines = [*matrix["targets"], *(job["targets"] for job in matrix["include"])]
    targets = {target for line in lines for target in line.split()}
    ci = re.findall(r"^make (.+)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets >= {target for line in ci for target in line.split()}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {target for target in targets if "=" not in target} <= known
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert matrix["python"] == supported
