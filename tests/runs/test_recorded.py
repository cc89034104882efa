"""The parent that a run was started from, by its own record: what "the best" and "the last" are may have changed since."""

import json

import pytest

from ptft_jax.runs import source as restore

ENTRY = {"workdir": "/runs/base", "step": 3, "fingerprint": "f", "run_id": "r", "checkpoint": "best"}


def made(folder, reference, *, begun, entry=ENTRY):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"init": {"from_": reference}}))
    (folder / "lineage.json").write_text(json.dumps([entry]))
    if begun:
        (folder / "checkpoints/0").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "reference, begun, asked, expected",
    [
        ("runs/base", True, "runs/base", "runs/base@3"),
        ("runs/base@last", True, "runs/base@last", "runs/base@3"),
        ("runs/base#a", True, "runs/base#a", "runs/base@3#a"),
        ("runs/base", True, "/abs/runs/base", "/abs/runs/base@3"),  # the same run by another name
        ("runs/base", False, "runs/base", "runs/base@3"),  # ended before its first step was saved
        (
            "runs/base",
            False,
            "runs/base@last",
            "runs/base@last",
        ),  # another config, before anything is made of the first
        ("runs/base", False, "runs/other", "runs/other"),
        ("runs/base", False, "hf:weights", "hf:weights"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_what_a_run_started_from_stays_what_it_starts_from(tmp_path, reference, begun, asked, expected, earlier):
    """`earlier`: a record that does not say how the step was named."""
    entry = {name: value for name, value in ENTRY.items() if not (earlier and name == "checkpoint")}
    assert restore.recorded(asked, made(tmp_path / "run", reference, begun=begun, entry=entry)) == expected
