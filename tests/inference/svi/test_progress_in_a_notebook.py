"""Progress in Jupyter: a bar that is drawn in its place, seen by executing a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

from phlogiston.console import in_notebook

CELL = """
import phlogiston as ph

data = ph.datasets.load("swissroll", n=300)
system = ph.DRMM(num_layers=1, num_components=3, steps=40).fit(data)
"""


def test_this_process_is_no_notebook() -> None:
    assert not in_notebook()


@pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_bar_ends_full_in_the_cell_that_trains(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell("system")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    bars = [output for output in notebook.cells[0].outputs if output.output_type == "display_data"]
    assert len(bars) == 1, "one bar, drawn anew in its place"
    assert "40/40" in bars[0].data["text/plain"]
    assert "loss" in bars[0].data["text/html"]
    noise = [o.text for o in notebook.cells[0].outputs if o.output_type == "stream"]
    assert not noise
    assert "ResidualNormal" in notebook.cells[1].outputs[0].data["text/html"]
