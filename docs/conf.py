"""Sphinx configuration for `make docs`. The site loads nothing from other hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import llamaindex_qwen_rerank  # noqa: F401  # import before autodoc patches pydantic's BaseModel
from qwen_rerank import __version__

project = "qwen-rerank"
author = "The qwen-rerank authors"
copyright = author
release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
pygments_style = "default"  # colours the lines of a diff
pygments_dark_style = "github-dark"
html_show_sphinx = False
html_copy_source = False

nb_execution_mode = "off"  # `make notebooks` saves the outputs
myst_heading_anchors = 4  # same anchors as on GitHub

default_role = "py:obj"  # links names such as `RerankEngine` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "model_config, model_post_init",  # pydantic's
}
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True  # reports misread docstring sections
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"[A-Za-z_][\w.]*"),  # names from other packages, or not public
    ("py:class", r"[\w.]+\[.*"),  # Sphinx splits annotations such as Callable[[], float] at commas
]


_SKIPPED = r"[~\w.]*Annotated\[(.*?), [~\w.]*SkipJsonSchema\(\)\]"
"""An annotation that is marked as having no JSON schema."""


def setup(app: Any) -> None:
    """Register the hooks below; Sphinx calls this."""
    app.connect("builder-inited", _copy_notebooks)
    app.connect("autodoc-process-docstring", _restore_sentence, priority=600)  # after Napoleon
    app.connect("autodoc-process-signature", _simplify_signature)


def _copy_notebooks(app: Any) -> None:
    """Copy the notebooks into the pages' folder, and adjust their links."""
    folder = Path(app.srcdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in (Path(app.srcdir).parent / "notebooks").glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (folder / notebook.name).write_text(text, encoding="utf-8")


def _restore_sentence(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Undo Napoleon's reading of "text: more text" in an attribute's docstring as its type."""
    if what not in ("property", "attribute"):
        return
    for line in [line for line in lines if line.startswith(":type: ")]:
        lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"
        lines.remove(line)


def _simplify_signature(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, result: Any
) -> tuple[str | None, Any] | None:
    """Leave out the fields of pydantic's models, which are listed below, and its markers."""
    if what == "class" and issubclass(thing, BaseModel):
        return "(**options)", result
    if signature and "SkipJsonSchema" in signature:
        return re.sub(_SKIPPED, r"\1", signature), result
    return None
