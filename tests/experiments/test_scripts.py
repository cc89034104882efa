"""What experiments with a report of their own share: where their data go, and when there is nothing to report."""

import types

import pytest

from ptft_jax.errors import UserError
from ptft_jax.experiments.nodes import Graph
from ptft_jax.reporting.progress import Reporter
from ptft_jax.verbs import carrying, scripts
from tests.processes import ROOT

F = "tests.experiments.functions:"


@pytest.fixture
def args(tmp_path, monkeypatch):
    """The flags of an experiment."""
    monkeypatch.chdir(ROOT)
    values = {"out": str(tmp_path / "out"), "dry_run": False, "executor": "inline", "max_parallel": 1, "job": []}
    args = types.SimpleNamespace(**values, retries=0, reuse=[], halve_micro_batch=False)
    for module in (scripts, carrying):
        monkeypatch.setattr(module, "flags", types.SimpleNamespace(FLAGS=args))
    return args


def test_a_dry_run_writes_no_data(args, tmp_path):
    def declare(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.txt").write_text("a")
        return folder

    data = tmp_path / "out/data"
    args.dry_run = True
    with scripts.on_data(data, declare) as place:
        assert (place / "a.txt").read_text() == "a"
    assert not place.exists() and not data.exists()
    args.dry_run = False
    with scripts.on_data(data, declare) as place:
        assert place == data
    args.dry_run = True
    with scripts.on_data(data, declare) as place:
        assert place == data, "they are there as they would be written"
    (data / "a.txt").write_text("of another size")
    with scripts.on_data(data, declare) as place:
        assert place != data
    assert (data / "a.txt").read_text() == "of another size"
    args.dry_run, args.executor = False, "locla"
    with pytest.raises(UserError, match="--executor=locla.*'local'"), scripts.on_data(tmp_path / "new", declare):
        pass
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_reported_ends_an_experiment(args, tmp_path, capsys):
    said, reporter = [], Reporter(quiet=True)
    reporter.say = said.append
    graph = Graph()
    graph.call("one", F + "add", number=1)
    args.dry_run = True
    with pytest.raises(SystemExit, match="0"):
        scripts.carry_out(graph, reporter)
    assert "one   call  new" in capsys.readouterr().out and not (tmp_path / "out").exists()
    args.dry_run = False
    done = scripts.carry_out(graph, reporter)
    assert done.values("one") == {"sum": 1} and done.place("one") == tmp_path / "out/runs/one"
    graph.call("unlucky", F + "fail", unless="nowhere")
    with pytest.raises(SystemExit, match="1"):
        scripts.carry_out(graph, reporter)
    assert said[-1] == "there is no report: unlucky failed (ValueError: no luck)"
