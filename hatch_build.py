"""Package metadata that contains the repository's address, which stands once in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


class RepositoryHook(MetadataHookInterface):
    """Sets the project's URLs, and makes the README's links absolute, as PyPI needs them.

    While `repository` is empty, there are no URLs and the links stay as they are.
    """

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README and the URLs to the project's metadata."""
        repository = self.config["repository"].rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository:
            text = with_absolute_links(text, repository)
            metadata["urls"] = {
                "Repository": repository,
                "Documentation": f"{repository}/blob/main/docs/index.md",
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_absolute_links(markdown: str, repository: str) -> str:
    """Point relative links to the repository's pages, and images to their raw files."""

    def absolute(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        view = "raw" if image else "blob"
        return f"{image}[{text}]({repository}/{view}/main/{target})"

    return RELATIVE_LINK.sub(absolute, markdown)
