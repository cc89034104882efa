"""Reports of runs, on workdirs made by hand."""

import json

import pytest

from ptft_jax.errors import UserError
from ptft_jax.reporting import plots, run_report


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


def test_where_the_time_went(tmp_path):
    """Of a finished run, of one that goes on, as its last checkpoint has it, and none of one that an earlier version made."""
    first = {"import": 2.0, "compile": 6.5, "steps": 12.0, "other": 0.25}
    dirs = [run(tmp_path / name, 1.0, finished=name != "going") for name in ("done", "going", "old")]
    summary = json.loads((dirs[0] / "summary.json").read_text())
    (dirs[0] / "summary.json").write_text(json.dumps({**summary, "seconds": 20.75, "seconds_by": first}))
    for step, steps in ((2, 1.5), (4, 3.25)):
        folder = dirs[1] / f"checkpoints/{step}/meta"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text(json.dumps({"step": step, "seconds_by": {**first, "steps": steps}}))
    run_report.write(dirs, tmp_path / "report.html")
    found = json.loads((tmp_path / "results.json").read_text())
    assert {name: row["seconds_by"] for name, row in found.items()} == {
        "done": first, "going": {**first, "steps": 3.25}, "old": {},
    }  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    section = html.partition("Where the time went")[2].partition("<h2>")[0]
    assert "20.750" in section and "12.000" in section and "3.250" in section and "old" not in section
    assert "<svg" in section and "Wall time" in section and ">12.0<" in section
    run_report.write(dirs[2:], tmp_path / "old.html")
    assert "Where the time went" not in (tmp_path / "old.html").read_text()


def test_stages_of_one_chain(tmp_path):
    """A run keeps its color in all figures, its data are said where they differ, and its steps are counted on from its parent's."""
    base, child = run(tmp_path / "base", 2.0), run(tmp_path / "child", 1.0)
    for folder, source, rate in ((base, "jsonl:a", 0.1), (child, "jsonl:b", 0.2)):
        config = {
            "data": {"source": source},
            "optimizer": {"learning_rate": rate, "b1": 0.9},
            "tune": {"method": "lora"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "environment.json").write_text(json.dumps({"run_id": folder.name}))
    entry = {"workdir": f"/long/{'folder/' * 20}base", "step": 40, "run_id": "base"}
    (child / "lineage.json").write_text(json.dumps([entry]))
    rows = [{"step": s, "kind": "eval", "validation/nll": 1.0, "source/nll": 2.0} for s in (0, 30)]
    (child / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_report.write([base, child], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    summary, figures = html.partition("<h2>Before and after")[0].split("Settings that differ:")
    assert "base@40" in summary and "/long/" not in summary and "jsonl:b" in summary and "lora" in summary
    settings = figures.partition("</table>")[0]
    assert "optimizer.learning_rate" in settings and "data.source" in settings and "optimizer.b1" not in settings
    _, source, validation, chain = figures.split("<svg")
    assert "source/nll" in source and plots.COLORS[1].lower() in source and plots.COLORS[0].lower() not in source
    assert "base, on jsonl:a" in validation and "child, on jsonl:b" in validation
    assert "one stage after another" in chain and ">70<" in chain, "40 of the parent and 30 of its own"


def test_one_figure_of_each_measure_of_behavior():
    """The first that may be better, whatever a loss of the same name has for its unit; all of a measure that is not known."""
    names = ["behavior/shares/kl", "behavior/shares/total_variation", "behavior/groups/mean", "behavior/groups/gap", "behavior/own/x"]  # fmt: skip
    assert [run_report.drawn(name, ()) for name in names] == ["kl", "", "", "gap", "x"]
    losses = ["validation/kl", "validation/top5", "validation/answers/f1"]
    assert [run_report.drawn(name, ("top5",)) for name in losses] == ["nats per token", "top5", "f1"]
    assert run_report.drawn("validation/top5", ()) == ""
