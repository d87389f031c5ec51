"""What the environment says about DashScope, by the conventions of its SDK (2.0): only read.

Environment variables come first, then the SDK's configuration file; for the key alone, also the key
file of its versions 1.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError, MissingKeyError
from qwen_rerank.options import as_secret
from qwen_rerank.scorers.http.auth import checked_key

__all__ = ["Setting", "environment_key", "environment_setting"]

_VARIABLES = {
    "base_url": ("DASHSCOPE_BASE_URL", "DASHSCOPE_HTTP_BASE_URL"),
    "workspace": ("DASHSCOPE_WORKSPACE", "DASHSCOPE_WORKSPACE_ID"),
    "region": ("DASHSCOPE_REGION", "DASHSCOPE_API_REGION"),
}
"""The variables of SDK 2 and then those of SDK 1, for each option."""

_FOLDER = "~/.dashscope"

_MAX_BYTES = 64 * 2**10
"""The largest file that is read."""


class Setting(NamedTuple):
    """A value, and where it comes from."""

    name: str
    value: str


def environment_setting(option: str) -> Setting | None:
    """Return what the environment says about an option: base_url, workspace or region.

    Raises:
        InvalidInputError: The SDK's configuration file can't be read.
    """
    for variable in _VARIABLES[option]:
        if value := os.environ.get(variable):
            return Setting(variable, value)
    path, config = _config()
    configured = config.get(option)
    is_set = isinstance(configured, str) and configured
    return Setting(f"{option} in {path}", str(configured)) if is_set else None


def environment_key() -> SecretStr | None:
    """Return the key of the environment, or None if there is none.

    Raises:
        MissingKeyError: What is there cannot be a key, or a key file can't be read.
        InvalidInputError: The SDK's configuration file can't be read.
    """
    if key := as_secret(os.environ.get("DASHSCOPE_API_KEY", "")):
        return checked_key("DashScope API key", key)
    path, config = _config()
    secret = config.get("api_key")
    if isinstance(secret, SecretStr) and secret.get_secret_value():
        return checked_key(f"DashScope API key in {path}", secret)
    chosen = os.environ.get("DASHSCOPE_API_KEY_FILE_PATH")
    file = _expanded(chosen or f"{_FOLDER}/api_key")
    if not chosen and not os.path.exists(file):  # nor for one in a folder that is not ours
        return None
    content = _content(file)
    if isinstance(content, str):
        source = "DASHSCOPE_API_KEY_FILE_PATH" if chosen else "the DashScope SDK's key file"
        raise MissingKeyError(
            f"Could not read the key file {str(file)!r} ({source}): {content}.",
            remedy="Write the key to it, and nothing else, or pass api_key=.",
        )
    return checked_key(f"DashScope API key in {str(file)!r}", content)


def _config() -> tuple[str, dict[str, str | SecretStr]]:
    """Return the path of the configuration file, and what it says. The key is a SecretStr."""
    chosen = os.environ.get("DASHSCOPE_CONFIG")
    file = _expanded(chosen or f"{_FOLDER}/config.toml")
    if not os.path.isfile(file):  # as in the SDK, also if it was chosen or can't be reached
        return str(file), {}
    content = _content(file)
    config = content if isinstance(content, str) else _parsed(content)
    if isinstance(config, str):
        raise InvalidInputError(
            f"Could not read the DashScope SDK's configuration file {str(file)!r}: {config}.",
            remedy="Repair it, or name another with DASHSCOPE_CONFIG.",
        )
    return str(file), config


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))


def _content(file: Path) -> SecretStr | str:
    """Return the text of a file without surrounding white space; or what is wrong with it.

    No error is raised here, which would show the text.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "it is not a regular file"
        with file.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        return error.strerror or type(error).__name__
    if len(text) > _MAX_BYTES:
        return f"it is larger than {_MAX_BYTES // 2**10} KiB"
    try:
        plain = text.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    return SecretStr(plain) if plain else "it is empty"


def _parsed(content: SecretStr) -> dict[str, str | SecretStr] | str:
    """Return the options in a configuration file; or what is wrong with it."""
    try:
        parsed = tomllib.loads(content.get_secret_value())
    except (tomllib.TOMLDecodeError, RecursionError):
        return "it is not valid TOML"
    texts = {name: value for name, value in parsed.items() if isinstance(value, str)}
    return {name: SecretStr(text) if name == "api_key" else text for name, text in texts.items()}
