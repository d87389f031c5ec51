"""Run the notebooks in this folder, offline, and save their outputs.

Usage:
    make notebooks                    save the outputs that changed
    make notebooks ARGS=--check       save nothing; fail if an output changed
    make notebooks ARGS=PATH          run one notebook

An output has changed if its type or its text has. Decimals may differ slightly, because the last
digit depends on the processor. Pictures are compared by their alternative text. In a cell with the
tag "varies", only the types are compared. To save new outputs for such a cell, clear it first.
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
    """The environment without DashScope settings, and with downloads turned off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASHSCOPE_")}
    return kept | {"HF_HUB_OFFLINE": "1"}


def executed(path: Path, env: Mapping[str, str] | None = None) -> NotebookNode:
    """The notebook with the outputs of a complete run, in the notebook's folder.

    Args:
        path: The notebook file. It is not changed.
        env: The environment variables of the run; None for `offline()`.

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
    # Use this interpreter, even if the user has installed another kernel with the same name.
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
    """The base64 PNG with 256 colours, enough for a plot and a third of the size."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        reduced = image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE)
        reduced.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def outdated(stored: NotebookNode, new: NotebookNode) -> list[int]:
    """The indices of the cells whose outputs changed."""
    return [
        index
        for index, (old, cell) in enumerate(zip(stored.cells, new.cells, strict=True))
        if cell.cell_type == "code" and not _nearly_equal(_stable_part(old), _stable_part(cell))
    ]


def _stable_part(cell: NotebookNode) -> str:
    """The part of a cell's outputs that should be the same in every run."""
    does_vary = "varies" in cell.metadata.get("tags", [])
    parts = _types if does_vary else _texts
    return "\n".join(chain.from_iterable(map(parts, cell.outputs)))


def _types(output: NotebookNode) -> list[str]:
    return [output.output_type, output.get("name", ""), *sorted(output.get("data", ()))]


def _texts(output: NotebookNode) -> list[str]:
    shown = sorted(output.get("data", {}).items())
    return [
        *_types(output),
        output.get("text", ""),
        *(
            output.metadata.get(kind, {}).get("alt", "") if kind.startswith("image/") else str(data)
            for kind, data in shown
        ),
    ]


def _nearly_equal(old: str, new: str) -> bool:
    if DECIMAL.sub("0.0", old) != DECIMAL.sub("0.0", new):
        return False
    pairs = zip(DECIMAL.findall(old), DECIMAL.findall(new), strict=True)
    return all(math.isclose(float(a), float(b), abs_tol=TOLERANCE) for a, b in pairs)


def _with_changes(stored: NotebookNode, new: NotebookNode, changed: list[int]) -> NotebookNode:
    """The new notebook, with the stored outputs in all cells that have not changed."""
    for index, (old, cell) in enumerate(zip(stored.cells, new.cells, strict=True)):
        if cell.cell_type == "code" and index not in changed:
            cell.outputs = old.outputs
            for output in cell.outputs:
                if "execution_count" in output:  # differs if a cell was added before
                    output.execution_count = cell.execution_count
    return new


def main() -> int:
    parser = argparse.ArgumentParser(description="Run notebooks and save their outputs.")
    parser.add_argument("--check", action="store_true", help="fail if outputs changed; save none")
    parser.add_argument("paths", nargs="*", type=Path, help="default: all in this folder")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.paths] or sorted(FOLDER.glob("*.ipynb"))
    failed = [path for path in paths if not _run(path, options.check)]
    return int(bool(failed))


def _run(path: Path, check: bool) -> bool:
    """Run one notebook and save it, or report what changed. Returns whether it succeeded."""
    start = time.perf_counter()
    stored = nbformat.read(path, as_version=4)
    try:
        new = executed(path)
    except CellExecutionError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return False
    changed = outdated(stored, new)
    print(f"{path.name}: {time.perf_counter() - start:.1f} s", flush=True)
    if not check:
        nbformat.write(_with_changes(stored, new, changed), path)
        return True
    for index in changed:
        was, now = (_stable_part(notebook.cells[index]) for notebook in (stored, new))
        print(f"Output of cell {index}:\n{now}\nStored output:\n{was}\n", file=sys.stderr)
    if changed:
        print(f"{path.name} is out of date. Run `make notebooks`.", file=sys.stderr)
    return not changed


if __name__ == "__main__":
    sys.exit(main())
