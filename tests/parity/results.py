"""What the live comparisons found, kept where $PTFT_PARITY_RESULTS says, for the table of docs/models.md."""

import json
import os
import pathlib

import numpy as np


def difference(ours, theirs):
    """The largest difference of two arrays of logits over the largest of theirs."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def record(case, column, value, model_type=""):
    """Appends one number of a case, if results are kept."""
    folder = os.environ.get("PTFT_PARITY_RESULTS")
    if folder:
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        line = {"case": case.name, "model": case.model, "column": column, "value": value, "model_type": model_type}
        with open(path / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
