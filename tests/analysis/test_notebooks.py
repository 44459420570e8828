"""The notebooks run from the committed records alone, and show what they showed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def texts(notebook) -> list[str]:
    """The text of every output: tables and printed lines, not pictures."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text") or data.get("text/markdown") or data.get("text/html")
            if text is not None:
                found.append(text)
    return found


def test_there_are_notebooks_of_tables_scales_and_the_design_space():
    assert NOTEBOOKS == ["ap_by_scale.ipynb", "design_space.ipynb", "paper_tables.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_executed_and_has_no_logic_of_its_own(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs, cell.source
            for word in ("def ", "for ", "while ", "if ", "class "):
                assert not any(line.startswith(word) for line in cell.source.splitlines()), word


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_again_what_it_showed(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    shown = texts(notebook)
    assert shown
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert texts(notebook) == shown
