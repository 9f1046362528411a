"""The notebooks: stored without outputs, opened in Colab by their first cell, and every cell runs.

Here they run in this process, with short trainings (see `reading.shortened`). `make docs` executes them as they are,
in a kernel, and so does `pytest tests/docs -m learn`.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from phlogiston.errors import PhlogistonWarning

from .reading import ROOT, shortened

FOLDER = ROOT / "docs" / "notebooks"
NAMES = ("own_pair", "scenes", "sequences", "tables", "video")
COLAB = re.compile(
    r"\[Open in Colab\]\(https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(\S+)\)"
)


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def cells(name: str, kind: str = "code") -> list[str]:
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == kind]


def test_the_five_are_there_and_no_other() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_as_it_is_read(name: str) -> None:
    notebook = read(name)
    assert notebook["nbformat"] == 4
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are made when the site is built"
        assert cell.get("execution_count") is None
    words = cells(name, "markdown")
    assert words[0].startswith("# ")
    assert any(part.startswith("## How far to trust it") or "## Is it right?" in part for part in words)
    links = re.findall(r"\]\((\.\./[^)]+)\)", "\n".join(words))
    assert links
    assert not [link for link in links if not (FOLDER / link).is_file()]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_opens_it_in_colab_and_installs_only_what_is_missing(name: str) -> None:
    found = COLAB.search(cells(name, "markdown")[0])
    assert found is not None
    assert found[2] == f"docs/notebooks/{name}.ipynb"
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    assert found[1] in (urls.get("Repository", "") or urls.get("Source", "") or found[1])
    first = cells(name)[0]
    assert first == cells(NAMES[0])[0], "the same in all of them"
    head, _, rest = first.partition("except ImportError:")
    assert "pip" not in head.replace("# ", "")
    assert rest.strip().startswith("%pip install --quiet phlogiston\n")


def run(name: str) -> None:
    """Execute the cells one after the other, as a kernel would; show what the last line of each gives."""
    import IPython.core.inputtransformer2 as transformer

    manager, names = transformer.TransformerManager(), {"__name__": "__main__"}
    for number, source in enumerate(cells(name)):
        tree = ast.parse(manager.transform_cell(source), f"{name}, cell {number}")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{name}, cell {number}", "exec"), names)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), f"{name}, cell {number}", "eval"), names)
            getattr(shown, "_repr_html_", lambda: None)()


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_a_notebook_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("IPython")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / ".cache"))
    with shortened(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PhlogistonWarning)  # of answers by models that were trained for three steps
        run(name)
    pyplot.close("all")
    assert capsys.readouterr().out.startswith("phlogiston ")


@pytest.mark.learn
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs_in_a_kernel_as_it_is(name: str, tmp_path: Path) -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
