"""docs/notebook.ipynb runs from its first cell to its last, and shows what it says."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from support.making import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
SHOWS = """
assert activations.shape[1:] == (127, 256) and 50 < activations.norm(dim=-1).mean() < 90
assert trained.metrics.explained_variance > 0.3 and abs(trained.metrics.l0 - 16) < 2
assert clean < with_sae < with_zeros
assert (folder / "cfg.json").is_file()
assert not any(point.fwd_hooks for point in bridge.hook_dict.values())
"""


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs() -> None:
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(code) > 5 and all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    notebook = read()
    notebook.cells.append(nbformat.v4.new_code_cell(SHOWS))
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "jumprelu" in said and "CE loss recovered" in said and "norm of a decoder row 1.0" in said
