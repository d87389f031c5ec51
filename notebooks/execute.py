"""Execute the notebooks of this folder (`make notebooks`) and store what they print."""

from __future__ import annotations

from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent


def executed(path: Path, cwd: Path = FOLDER) -> NotebookNode:
    """The notebook with the outputs of a run from start to end in the folder `cwd`.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None, metadata={})
    client = NotebookClient(
        notebook,
        timeout=120,
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(cwd)}},
    )
    client.create_kernel_manager()
    # The interpreter that runs this, whatever kernels the user has installed under the same name.
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    client.execute()
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    return notebook


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        print(path.name)
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
