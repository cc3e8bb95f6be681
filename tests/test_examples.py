"""Every notebook in examples/ runs from top to bottom, as a reader would run it."""

import re
from pathlib import Path

import pytest

from graticule.probes.core.verdict import NOT_DECIDED, STRUCTURE

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own machinery


def printed_by(name: str, folder: Path) -> str:
    """What a notebook prints, run from top to bottom as a reader would run it."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.slow
@pytest.mark.gemma
def test_own_activations(tmp_path):
    printed = printed_by("own_activations", tmp_path)
    assert f"{STRUCTURE}: gain" in printed  # as the notebook's own text has it
    assert "cross-fitted over 2 × 5 folds, because one held-out part would have 55 effective" in printed
    assert f"twin_0 in the probe's place: {STRUCTURE}" not in printed


@pytest.mark.slow
def test_known_world(tmp_path):
    printed = printed_by("known_world", tmp_path)
    assert f"{NOT_DECIDED}: model baselines missing" in printed
    for words in ("write direction and the truth", "read direction and the best reader"):
        cosines = re.search(rf"{words}: \[(.*?)\]", printed)[1].split()
        assert len(cosines) == 6 and min(map(float, cosines)) > 0.98
    assert float(re.search(r"best linear R²: (\S+)", printed)[1]) < 0.2


def test_every_notebook_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {"own_activations", "known_world"}
