"""The key in a service's messages, in whatever form; and messages that a terminal would obey."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from qwen_rerank import DashScopeScorer, QwenRerankError
from qwen_rerank.scorers.http.masking import masked, one_line
from qwen_rerank.testing.faults import says
from qwen_rerank.testing.loopback import LoopbackDashScope

KEY = "sk-0a1b2c3d4e5f6a7b8c9d0e1f<2&3/4+5"

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON twice": lambda key: json.dumps(json.dumps(key)),
    "unicode escapes": lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    "upper-case escapes": lambda key: "".join(f"\\u{ord(char):04X}" for char in key),
    "hexadecimal escapes": lambda key: "".join(f"\\x{ord(char):02x}" for char in key),
    "URL": quote,
    "URL, strict": lambda key: quote(key, safe=""),
    "URL, every character": lambda key: "".join(f"%{ord(char):02X}" for char in key),
    "URL twice": lambda key: quote(quote(key, safe=""), safe=""),
    "HTML": html.escape,
    "HTML, every character": lambda key: "".join(f"&#{ord(char)};" for char in key),
    "HTML, hexadecimal": lambda key: "".join(f"&#x{ord(char):X};" for char in key),
    "UTF-16": lambda key: key.encode("utf-16-be").decode("latin-1"),
    "UTF-16, little-endian": lambda key: key.encode("utf-16-le").decode("latin-1"),
    "mixed": lambda key: "".join(
        f"\\u{ord(char):04x}" if index % 3 else char for index, char in enumerate(key)
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("part", ["whole", "beginning", "end"])
def test_a_key_is_masked_in_any_form_also_if_it_is_cut(
    form: Callable[[str], str], part: str
) -> None:
    cut = {"whole": KEY, "beginning": KEY[:20], "end": KEY[-20:]}[part]
    text = masked(f"Incorrect API key: {form(cut)} was sent.", SecretStr(KEY))
    assert text.startswith("Incorrect API key: ")
    assert "***" in text
    assert len(text) < len("Incorrect API key: *** was sent.") + 12


def test_a_key_can_be_a_long_token() -> None:
    token = "".join(f"{number:04x}" for number in range(1_000))
    assert masked(f"Bad token: {token}, {token[900:1000]}.", SecretStr(token)) == (
        "Bad token: ***, ***."
    )


@pytest.mark.parametrize("key", [KEY, "sk-loopback", "k", ""])
def test_what_is_not_the_key_stays(key: str) -> None:
    text = "request loopback-1 of sk-0a1 was refused"
    assert masked(text, SecretStr(key)).replace("***", "k") == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\nERROR forged", "two lines  ERROR forged"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("\x9b2J \u202egnirts \u2028next \x00", "\ufffd2J \ufffdgnirts  next \ufffd"),
        ("企鹅 🐧 é", "企鹅 🐧 é"),
        ("x" * 30, "x" * 20 + "…"),
    ],
)
def test_text_is_shown_on_one_line_without_control_characters(text: str, shown: str) -> None:
    assert one_line(text, 20 if len(text) == 30 else 100) == shown


@pytest.mark.parametrize("where", ["code", "message", "request_id"])
@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "\nCRITICAL forged line", "\x9b31m"])
def test_a_service_cannot_forge_lines_or_escapes(
    dashscope: LoopbackDashScope, where: str, hostile: str
) -> None:
    answer = {"code": "Bad", "message": "refused", "request_id": "1", where: f"a{hostile}b"}
    dashscope.faults.append(says(json.dumps(answer), status=400))
    with pytest.raises(QwenRerankError) as failure:
        DashScopeScorer(max_retries=0).score("q", ["a"])
    assert str(failure.value).isprintable()


def test_a_large_message_is_cut(dashscope: LoopbackDashScope) -> None:
    answer = {"code": "x" * 2_000_000, "message": "y" * 2_000_000, "request_id": "z" * 2_000_000}
    dashscope.faults.append(says(json.dumps(answer), status=400))
    with pytest.raises(QwenRerankError) as failure:
        DashScopeScorer(max_retries=0).score("q", ["a"])
    assert len(str(failure.value)) < 2_000
