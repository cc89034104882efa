"""The notebooks of examples/ run from their first cell to their last, and are kept without what they printed."""

import json

import pytest

from tests.processes import HURRY, ROOT

NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
FETCHES = {"lora_smollm2"}  # weights, and takes minutes
SLOW = FETCHES | {"forgetting"}  # six runs


def cells(path):
    return json.loads(path.read_text())["cells"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert len(code) >= 3 and cells(path)[0]["source"][0].startswith("# ")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def carried_out(path, folder, monkeypatch):
    """What each cell printed."""
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "" if path.stem in FETCHES else HURRY)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    texts = [
        [out.get("text", "") for out in cell.get("outputs", ()) if out.get("name") == "stdout"]
        for cell in notebook.cells
    ]
    return ["".join(text) for text in texts if text]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else pytest.mark.heavy) for p in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_runs(path, tmp_path, monkeypatch):
    printed = carried_out(path, tmp_path, monkeypatch)
    assert len(printed) >= 3
    CHECKS[path.stem]("\n".join(printed))


def by_hand(text):
    first, second = (
        [float(n) for n in line.replace("old text", "").split(", new text")]
        for line in text.splitlines()
        if line.startswith("old")
    )
    assert second[1] < first[1] - 1 and second[0] > first[0], (
        "the new text is learned, and some of the old one forgotten"
    )
    [difference] = [float(line.split(":")[1]) for line in text.splitlines() if line.startswith("largest")]
    assert difference < 1e-3 and "Der Hund hat" in text


def forgetting(text):
    found = {line.split()[0]: line.split() for line in text.splitlines() if "forgetting" in line}
    gains = {name: float(words[2]) for name, words in found.items()}
    lost = {name: float(words[4]) for name, words in found.items()}
    assert set(found) == {"plain", "l2_sp", "replay"} and all(gain > 0 for gain in gains.values())
    assert lost["replay"] < lost["plain"] and lost["l2_sp"] < lost["plain"]


def smollm2(text):
    gain = float(next(line for line in text.splitlines() if line.startswith("gain")).split()[1])
    assert gain > 0.1 and "MiB of checkpoints" in text


CHECKS = {"core_by_hand": by_hand, "forgetting": forgetting, "lora_smollm2": smollm2}
