"""How Sphinx builds the documentation: `make docs`. Nothing is loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llamaindex_qwen_rerank  # noqa: F401  # autodoc annotates pydantic's BaseModel: before that
from qwen_rerank import __version__

project = "qwen-rerank"
author = "The qwen-rerank authors"
copyright = author
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
pygments_style = "default"  # shows what a change adds in green
html_show_sphinx = False
html_copy_source = False

nb_execution_mode = "off"  # `make notebooks` stores what they show
myst_heading_anchors = 4  # as GitHub numbers them, so that links work in both

default_role = "py:obj"  # `RerankEngine` in a docstring is a link, `"skip"` is code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True  # shows what a docstring's section was misread as
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"[A-Za-z_][\w.]*"),  # what is a name may be another package's, or not public
]


def setup(app: Any) -> None:
    """What Sphinx calls to add to itself."""
    app.connect("builder-inited", _bring_notebooks)
    app.connect("autodoc-process-docstring", _rejoin, priority=600)  # after Napoleon


def _bring_notebooks(app: Any) -> None:
    """Copy the notebooks among the pages, to which their links then lead."""
    folder = Path(app.srcdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in (Path(app.srcdir).parent / "notebooks").glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        text = text.replace("](../README.md#notebooks)", "](../start.md#notebooks)")
        (folder / notebook.name).write_text(text, encoding="utf-8")


def _rejoin(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what a property's first sentence says before a colon for its type."""
    types = [line for line in lines if what == "property" and line.startswith(":type: ")]
    for line in types:
        lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"
        lines.remove(line)
