"""Every notebook in examples/ runs from top to bottom, as a reader would run it."""

from pathlib import Path

import pytest

from graticule.probes.scores.verdict import NO_BETTER, NOT_DECIDED, STRUCTURE

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.gemma
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own machinery
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notebook(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert any(f"{words}: gain" in printed for words in (STRUCTURE, NO_BETTER, NOT_DECIDED))
    assert "twin_0 in the probe's place: no better than the baselines" in printed


def test_there_are_examples():
    assert EXAMPLES
