"""The DashScope SDK's conventions: which of its variables and files count, in which order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dashscope.common.api_key import save_api_key
from dashscope.v2._config import resolve_config

from qwen_rerank import DashScopeScorer, InvalidInputError, MissingKeyError
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.clients import CLIENTS

CONFIG = """
api_key = "sk-config"
base_url = "https://config.example/api/v1"
workspace = "ws-config"
region = "ap-southeast-1"
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The SDK's folder in the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("qwen_rerank.scorers.http.environment._FOLDER", "~/.dashscope")
    created = tmp_path / ".dashscope"
    created.mkdir()
    return created


def key_of(scorer: DashScopeScorer) -> str:
    sent: Any = scorer._headers()["Authorization"]
    return str(sent.get_secret_value().removeprefix("Bearer "))


def test_the_key_comes_from_the_first_place_that_has_one(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingKeyError, match="No DashScope API key"):
        DashScopeScorer()
    save_api_key("sk-default", str(folder / "api_key"))
    save_api_key("sk-file\n", str(tmp_path / "keys" / "mine"))
    steps: list[tuple[Callable[[], object], str]] = [
        (lambda: None, "sk-default"),
        (
            lambda: monkeypatch.setenv("DASHSCOPE_API_KEY_FILE_PATH", "~/keys/mine"),
            "sk-file",
        ),
        (lambda: (folder / "config.toml").write_text(CONFIG), "sk-config"),
        (lambda: monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-variable"), "sk-variable"),
    ]
    for step, expected in steps:
        step()
        assert key_of(DashScopeScorer()) == expected
        assert resolve_config(workspace="w").api_key == expected, "the SDK finds another one"
    assert key_of(DashScopeScorer(api_key="sk-mine")) == "sk-mine"


def test_address_workspace_and_region_come_from_the_first_place_that_has_them(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-any")
    found = {}
    monkeypatch.setenv("DASHSCOPE_API_REGION", "ap-southeast-1")
    found["region of SDK 1"] = DashScopeScorer().base_url
    monkeypatch.setenv("DASHSCOPE_REGION", "us-east-1")
    monkeypatch.setenv("DASHSCOPE_WORKSPACE_ID", "ws-1")
    found["region of SDK 2"] = DashScopeScorer().base_url
    monkeypatch.setenv("DASHSCOPE_WORKSPACE", "ws-2")
    found["workspace of SDK 2"] = DashScopeScorer().base_url
    found["option"] = DashScopeScorer(workspace="ws-3", region="eu-central-1").base_url
    (folder / "config.toml").write_text(CONFIG)
    found["configuration file"] = DashScopeScorer().base_url
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", "https://{workspace_id}.one.example/api/v1")
    found["address of SDK 1"] = DashScopeScorer().base_url
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://two.example/api/v1")
    found["address of SDK 2"] = DashScopeScorer().base_url
    assert found == {
        "region of SDK 1": "https://dashscope-intl.aliyuncs.com/api/v1",
        "region of SDK 2": "https://ws-1.us-east-1.maas.aliyuncs.com/api/v1",
        "workspace of SDK 2": "https://ws-2.us-east-1.maas.aliyuncs.com/api/v1",
        "option": "https://ws-3.eu-central-1.maas.aliyuncs.com/api/v1",
        "configuration file": "https://config.example/api/v1",
        "address of SDK 1": "https://ws-2.one.example/api/v1",
        "address of SDK 2": "https://two.example/api/v1",
    }


def test_every_client_sends_the_key_and_the_workspace_of_the_environment(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from tests.support.clients import rank

    monkeypatch.delenv("DASHSCOPE_API_KEY")
    (folder / "api_key").write_text(dashscope.key)
    monkeypatch.setenv("DASHSCOPE_WORKSPACE", "ws-2")
    for make in CLIENTS.values():
        assert rank(make(), ["score=0.5"]) == [("score=0.5", 0.5)]
        assert dashscope.received[-1].headers["X-DashScope-WorkSpace"] == "ws-2"
    assert sorted(path.name for path in folder.iterdir()) == ["api_key"]


def test_no_frame_of_an_error_about_a_variable_has_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-hush hush")
    with pytest.raises(MissingKeyError, match="has spaces") as failure:
        DashScopeScorer()
    frames = [each.frame for each in failure.traceback[1:]]
    values = [value for each in frames for name, value in each.f_locals.items() if name != "self"]
    assert frames
    assert "hush" not in repr(values)


def test_a_file_that_cannot_be_used_is_an_error_that_names_it_and_not_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    bad: list[tuple[bytes | None, str]] = [
        (None, "No such file"),
        (b" \n", "it is empty"),
        (b"sk-\xff\xfe-hush", "it is not UTF-8 text"),
        (b"sk-hush sk-hush", "has spaces"),
        (b"sk-hush" * 10_000, "larger than 64 KiB"),
    ]
    monkeypatch.setenv("DASHSCOPE_API_KEY_FILE_PATH", str(tmp_path / "key"))
    for content, naming in bad:
        if content is not None:
            (tmp_path / "key").write_bytes(content)
        with pytest.raises(MissingKeyError, match=naming) as failure:
            DashScopeScorer()
        assert str(tmp_path / "key") in str(failure.value)
        assert "hush" not in str(failure.value)
    monkeypatch.setenv("DASHSCOPE_API_KEY_FILE_PATH", str(folder))
    with pytest.raises(MissingKeyError, match="not a regular file"):
        DashScopeScorer()
    (folder / "config.toml").write_text('api_key = "sk-hush')
    with pytest.raises(InvalidInputError, match=r"config\.toml': it is not valid TOML") as invalid:
        DashScopeScorer()
    assert "hush" not in str(invalid.value)


def test_files_that_cannot_be_reached_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    too_long = "x" * 300  # like a home directory of another user, an OSError other than not found
    monkeypatch.setattr("qwen_rerank.scorers.http.environment._FOLDER", f"~/{too_long}")
    with pytest.raises(MissingKeyError, match="No DashScope API key"):
        DashScopeScorer()
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-variable")
    assert key_of(DashScopeScorer()) == "sk-variable"


def test_a_deeply_nested_configuration_file_is_an_error(folder: Path) -> None:
    (folder / "config.toml").write_text("a = " + "[" * 5_000)
    with pytest.raises(InvalidInputError, match="not valid TOML"):
        DashScopeScorer()
