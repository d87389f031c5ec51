"""A report as one HTML page that works from a file, without a network."""

from __future__ import annotations

import json
import unicodedata
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from importlib.resources import files
from itertools import islice
from string import Template
from typing import Any

from qwen_rerank.evaluation.runs import Run
from qwen_rerank.evaluation.tables import COLUMNS, Row
from qwen_rerank.inputs.content import well_formed
from qwen_rerank.text.chunking import Passage

__all__ = ["PageContent", "page"]

_TEXT_LENGTH = 600
"""How many characters of a document's text the page has."""

_SCRIPTS = {
    "CJK": "Chinese characters",
    "HIRAGANA": "Japanese kana",
    "KATAKANA": "Japanese kana",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "DEVANAGARI": "Devanagari",
    "HEBREW": "Hebrew",
    "GREEK": "Greek",
    "THAI": "Thai",
    "LATIN": "Latin",
}
"""What to call scripts, by the first word of their characters' names in Unicode."""


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """What a page shows.

    Attributes:
        title: The heading.
        summary: The rows of the table of means, by measure.
        sentences: What to say below it.
        runs: The runs by name.
        values: The values by run, measure and query id.
        judgements: The gains of documents by query id.
        queries: The texts of the queries by id, or "".
        documents: The texts of documents by id, as far as they are known.
        passages: The passages that scores belong to, by run, query id and document id.
        languages: The languages of queries by id; None to sort them by their scripts instead.
        depth: How many documents of each ranking to show.
    """

    title: str
    summary: Sequence[Sequence[Row]]
    sentences: Sequence[str]
    runs: Mapping[str, Run]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    judgements: Mapping[str, Mapping[str, int]]
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    passages: Mapping[str, Mapping[str, Mapping[str, Passage]]]
    languages: Mapping[str, str] | None
    depth: int


def page(content: PageContent) -> str:
    """Return the page. Its script may run, and no other: texts can't bring their own."""
    folder = files("qwen_rerank.evaluation") / "page"
    template, style, script = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("report.html", "report.css", "report.js")
    )
    label = "Script" if content.languages is None else "Language"
    filled = Template(template).substitute(
        title=escape(content.title),
        summary=_summary(content),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        language_label=label,
        data=_as_json(_Data(content, label.lower()).as_dict()),
    )
    return well_formed(filled)  # names can have lone surrogates


def _summary(content: PageContent) -> str:
    """Return the table of means, without inline styles, which the page's policy forbids."""
    head = _row("th", COLUMNS)
    body = "".join(_row("td", row) for rows in content.summary for row in rows)
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in content.sentences)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{paragraphs}"


def _row(tag: str, row: Row) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"


def _hash(text: str) -> str:
    """Return the hash by which a content security policy names a script or a style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _as_json(value: Any) -> str:
    """Return JSON that no HTML parser takes for markup: ASCII without angle brackets."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass
class _Data:
    """The data of a page. Every document is stored once, and named by its number."""

    content: PageContent
    language_label: str
    numbers: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        content = self.content
        languages = _languages(content)
        names = list(dict.fromkeys(sorted(languages.values())))
        queries = [
            self._query(query_id, text, names.index(languages[query_id]))
            for query_id, text in content.queries.items()
        ]
        return {
            "measures": list(next(iter(content.values.values()))),
            "runs": list(content.runs),
            "languages": names if len(names) > 1 else [],
            "languageLabel": self.language_label,
            "queries": queries,
            "ids": list(self.numbers),
            "texts": [_cut(content.documents.get(id_, "")) for id_ in self.numbers],
        }

    def _query(self, query_id: str, text: str, language: int) -> dict[str, Any]:
        rankings = [list(self._ranking(name, query_id)) for name in self.content.runs]
        shown = {number for ranking in rankings for number, *_ in ranking}
        gains = self.content.judgements[query_id]
        return {
            "id": query_id,
            "text": text,
            "language": language,
            "values": self._values(query_id),
            "relevant": sum(gain > 0 for gain in gains.values()),
            "rankings": rankings,
            "gains": {
                self.numbers[id_]: gain
                for id_, gain in gains.items()
                if self.numbers.get(id_) in shown
            },
        }

    def _values(self, query_id: str) -> list[list[float]]:
        """Return the query's values, by measure and run."""
        values = self.content.values
        measures = next(iter(values.values()))
        return [
            [round(values[run][measure][query_id], 6) for run in values] for measure in measures
        ]

    def _ranking(self, run: str, query_id: str) -> Iterator[list[Any]]:
        """Yield the number and the score of each document, and its passage if it has one."""
        ranking = self.content.runs[run].get(query_id, {})
        passages = self.content.passages.get(run, {}).get(query_id, {})
        for id_, score in islice(ranking.items(), self.content.depth):
            entry: list[Any] = [self.numbers.setdefault(id_, len(self.numbers)), score]
            passage, text = passages.get(id_), self.content.documents.get(id_)
            if passage is not None and text is not None:
                entry.append(_around(text, passage))
            yield entry


def _languages(content: PageContent) -> dict[str, str]:
    if content.languages is not None:
        given = content.languages
        return {query_id: given.get(query_id, "unknown") for query_id in content.queries}
    return {query_id: _script_of(text) for query_id, text in content.queries.items()}


def _script_of(text: str) -> str:
    """Return the script of most letters; kana decide, since Japanese has Chinese characters too."""
    counts: dict[str, int] = {}
    for character in text:
        if character.isalpha():
            first = unicodedata.name(character, "").partition(" ")[0]
            script = _SCRIPTS.get(first, "other")
            counts[script] = counts.get(script, 0) + 1
    if "Japanese kana" in counts:
        return "Japanese kana"
    return max(counts, key=lambda script: counts[script], default="other")


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]}…"


def _around(text: str, passage: Passage) -> Sequence[str]:
    """Return the passage with some of the text before and after it."""
    start, end = passage.start, passage.end
    margin = max(0, _TEXT_LENGTH - (end - start)) // 2
    before = text[max(0, start - margin) : start]
    after = text[end : end + margin]
    return (
        f"…{before}" if start > margin else before,
        _cut(text[start:end]),
        f"{after}…" if end + margin < len(text) else after,
    )
