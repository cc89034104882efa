"""Reports of runs, on workdirs made by hand."""

import json

import pytest

from ptft_jax.errors import UserError
from ptft_jax.reporting import run_report


def run(workdir, loss, *, finished=True):
    """The files that a run leaves, with one evaluation."""
    workdir.mkdir(parents=True)
    group = {"group": "trainable", "rate": "1", "leaves": 1, "parameters": 7, "bytes": 28, "paths": ["x"]}
    part = {"part": "embed", "distance": loss, "norm": 10.0, "relative": loss / 10}
    summary = {
        "reason": "steps", "step": 3, "best_step": 3, "optimizer_bytes": 8, "seconds": 1.0, "before": {},
        "after": {"validation/nll": loss}, "drift": [part], "cost": None, "step_seconds": 0.5,
        "parameters": {"trainable": 7}, "trainable_bytes": 28,
    }  # fmt: skip
    files = {
        "config": {},
        "data": [],
        "partition": [group],
        "lineage": [],
        **({"summary": summary} if finished else {}),
    }
    for name, content in files.items():
        (workdir / f"{name}.json").write_text(json.dumps(content))
    (workdir / "metrics.jsonl").write_text(json.dumps({"step": 3, "kind": "eval", "validation/nll": loss}) + "\n")
    (workdir / "samples.jsonl").write_text(json.dumps({"step": 3, "prompt": "p", "text": f"t{loss}"}) + "\n")
    return workdir


def test_runs_of_one_folder_name_are_told_apart(tmp_path):
    dirs = [run(tmp_path / "a/full", 1.0), run(tmp_path / "b/full", 2.0), run(tmp_path / "b/lora", 3.0, finished=False)]
    run_report.write([tmp_path / "b/../a/full", *dirs], tmp_path / "report.html")
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: row["evals"][0]["validation/nll"] for name, row in results.items()} == {
        str(folder): loss for folder, loss in zip(dirs, (1.0, 2.0, 3.0))
    }, "the run that is given twice once"
    html = (tmp_path / "report.html").read_text()
    for name in results:
        assert html.count(f"<p>{name}</p>") >= 1 and html.count(f">{name}<") >= 3, "a legend, tables and samples"
    assert html.count("<svg") == 2 and "unfinished" in html


def test_runs_go_by_their_folder_where_that_is_enough(tmp_path):
    run_report.write([run(tmp_path / "a/full", 1.0), run(tmp_path / "b/lora", 2.0)], tmp_path / "report.html")
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"full", "lora"}


def test_a_folder_without_a_run_is_named(tmp_path):
    run(tmp_path / "full", 1.0)
    with pytest.raises(UserError, match="--run=.*ful: no run there .*did you mean '.*/full'"):
        run_report.write([tmp_path / "ful"], tmp_path / "report.html")
