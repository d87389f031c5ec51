"""Execute the notebooks of this folder, offline, and store what they show.

Usage:
    make notebooks                    store the outputs that say something else than before
    make notebooks ARGS=--check       store nothing; fail where outputs would have to be stored
    make notebooks ARGS=PATH          one notebook

Outputs say the same where they are of the same kinds, and their words are the same and their
decimals nearly so: the last digit differs between processors. Of a picture the alternative text
counts. In a cell with the tag "varies" the kinds alone count. Clear a cell's outputs to have them
stored afresh.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parent
DECIMAL = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.0015


def offline() -> dict[str, str]:
    """The environment without what leads to DashScope, or to a download."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASHSCOPE_")}
    return kept | {"HF_HUB_OFFLINE": "1"}


def executed(path: Path, env: Mapping[str, str] | None = None) -> NotebookNode:
    """The notebook with the outputs of a run from start to end, in its folder.

    Args:
        path: The notebook's file, which is only read.
        env: The environment of the run; None for `offline`.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags")
            cell.update(outputs=[], execution_count=None, metadata={"tags": tags} if tags else {})
    client = NotebookClient(
        notebook,
        timeout=120,
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.create_kernel_manager()
    # The interpreter that runs this, whatever kernels the user has installed under the same name.
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    asyncio.run(client.async_execute(env=offline() if env is None else dict(env)))
    for output in chain.from_iterable(cell.get("outputs", ()) for cell in notebook.cells):
        if "image/png" in output.get("data", ()):
            output.data["image/png"] = _with_palette(output.data["image/png"])
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    return notebook


def _with_palette(picture: str) -> str:
    """A PNG in base64 with 256 colours, which a plot hardly exceeds: a third as large."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        few = image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE)
        few.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def outdated(stored: NotebookNode, new: NotebookNode) -> list[int]:
    """The places of the cells whose stored outputs say something else than the new ones."""
    return [
        place
        for place, (old, cell) in enumerate(zip(stored.cells, new.cells, strict=True))
        if cell.cell_type == "code" and not _same(_said(old), _said(cell))
    ]


def _said(cell: NotebookNode) -> str:
    """What a cell's outputs say, as far as it is to be the same in every run."""
    does_vary = "varies" in cell.metadata.get("tags", [])
    parts = _kinds if does_vary else _words
    return "\n".join(chain.from_iterable(map(parts, cell.outputs)))


def _kinds(output: NotebookNode) -> list[str]:
    return [output.output_type, output.get("name", ""), *sorted(output.get("data", ()))]


def _words(output: NotebookNode) -> list[str]:
    shown = sorted(output.get("data", {}).items())
    return [
        *_kinds(output),
        output.get("text", ""),
        *(
            output.metadata.get(kind, {}).get("alt", "") if kind.startswith("image/") else str(data)
            for kind, data in shown
        ),
    ]


def _same(old: str, new: str) -> bool:
    if DECIMAL.sub("0.0", old) != DECIMAL.sub("0.0", new):
        return False
    pairs = zip(DECIMAL.findall(old), DECIMAL.findall(new), strict=True)
    return all(math.isclose(float(a), float(b), abs_tol=TOLERANCE) for a, b in pairs)


def _stored_anew(stored: NotebookNode, new: NotebookNode, places: list[int]) -> NotebookNode:
    """The new notebook, with the outputs stored before in all cells but these."""
    for place, (old, cell) in enumerate(zip(stored.cells, new.cells, strict=True)):
        if cell.cell_type == "code" and place not in places:
            cell.outputs = old.outputs
            for output in cell.outputs:
                if "execution_count" in output:  # another one, if a cell came before it
                    output.execution_count = cell.execution_count
    return new


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute notebooks and store what they show.")
    parser.add_argument("--check", action="store_true", help="store nothing; fail if it had to be")
    parser.add_argument("paths", nargs="*", type=Path, help="all of this folder by default")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.paths] or sorted(FOLDER.glob("*.ipynb"))
    failed = [path for path in paths if not _is_well(path, options.check)]
    return int(bool(failed))


def _is_well(path: Path, check: bool) -> bool:
    """Execute one notebook, and store it or say what is out of date."""
    start = time.perf_counter()
    stored = nbformat.read(path, as_version=4)
    try:
        new = executed(path)
    except CellExecutionError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return False
    places = outdated(stored, new)
    print(f"{path.name}: {time.perf_counter() - start:.1f} s", flush=True)
    if not check:
        nbformat.write(_stored_anew(stored, new, places), path)
        return True
    for place in places:
        was, now = (_said(notebook.cells[place]) for notebook in (stored, new))
        print(f"Cell {place} says\n{now}\nand its stored outputs\n{was}\n", file=sys.stderr)
    if places:
        print(f"{path.name} is out of date: run make notebooks.", file=sys.stderr)
    return not places


if __name__ == "__main__":
    sys.exit(main())
