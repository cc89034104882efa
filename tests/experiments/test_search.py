"""Searches by Optuna: its own trials, whatever is killed on the way; what is pruned, fails or has no value."""

import collections
import concurrent.futures
import json
import math
import os
import re
import shutil
import time

import numpy as np
import pytest
from absl import flags as absl

from ptft_jax.dashboard.views import Views
from ptft_jax.errors import UserError
from ptft_jax.experiments import launch, report_page
from ptft_jax.experiments.axes import Axis, choice, grid, loguniform, uniform, zipped
from ptft_jax.experiments.executors.base import Outcome
from ptft_jax.experiments.search import Search, look, search
from ptft_jax.experiments.store import Kept
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.hooks import Moment
from ptft_jax.verbs import sweep
from tests.experiments.test_graphs import config, planned

optuna = pytest.importorskip("optuna")

RATE, DECAY, WIDTH = "optimizer.learning_rate", "optimizer.b2", "model.width"
AXES = (loguniform(RATE, 1e-4, 1e-1), uniform(DECAY, 0.9, 0.999))
STEPS = (10, 20, 30)


def value(at, step=40):
    """A figure that falls with the steps, with a valley in the rate and the decay."""
    return (math.log10(at[0]) + 2) ** 2 + 30 * (at[1] - 0.95) ** 2 + 4 / step


class Fake:
    """Carries nothing out, but leaves what a run with `value` does; `ends`: name -> an outcome in its place, or what is raised."""

    slots, here = 1, False

    def __init__(self, ends=None, of=value):
        self._ends, self._of, self._done, self.begun = ends or {}, of, [], []

    def start(self, task):
        self.begun.append(task.name)
        from pathlib import Path

        from ptft_jax.experiments.trial import Trial

        optimizer, here = task.settings["config"]["optimizer"], Workdir(Path(task.folder))
        at = (optimizer["learning_rate"], optimizer["b2"])
        kept = Kept(here.path, task.fingerprint, task.name, task.identity, None)
        kept.write()
        end = self._ends.get(task.name, Outcome("finished"))
        if isinstance(end, BaseException):
            del self._ends[task.name]
            raise KeyboardInterrupt  # nothing that the driver could answer
        trial = Trial(here.path, task.trial)
        for step in STEPS if end.status == "finished" else ():
            moment = Moment(step, first=False, last=False, evaluates=True)
            moment.evaluated = {"validation/nll": self._of(at, step)}
            [(when, do)] = trial.hooks
            assert when(moment)
            do(moment)
            if moment.leaves:
                end = Outcome("pruned", trial.pruned)
                break
        if end.status in ("finished", "diverged"):
            summary = {"finished": True, "step": 40, "seconds": 1.0, "after": {"validation/nll": self._of(at)}}
            here.summary.write_text(json.dumps(summary))
            result = {"status": end.status, "message": "", "values": None, "seconds": 1.0}
            Kept(here.path, task.fingerprint, task.name, task.identity, result).write()
        self._done.append((task.name, end))

    def ended(self, timeout):
        return self._done.pop(0) if self._done else None

    def stop(self):
        pass

    close = stop


@pytest.fixture
def quick(monkeypatch):
    """SQLite does not wait for the disk, which no machine of the tests turns off; pages are drawn where they are looked at alone."""
    monkeypatch.setattr(report_page, "write", lambda *_: None)
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


@pytest.fixture
def base(tmp_path, text_file, cache, quick):
    shutil.copy(text_file, tmp_path / "verses.txt")
    return config(tmp_path / "verses.txt", eval__every=10.0)


def carried(base, folder, asked, by=None):
    return search(base, asked, folder, by=by or Fake(), reporter=Reporter(quiet=True))


def trials(folder):
    return json.loads((folder / "summary.json").read_bytes())["trials"]


def seeds(place):
    return int(np.random.SeedSequence([5, place]).generate_state(1)[0])


SAMPLERS = {
    "tpe": lambda place: optuna.samplers.TPESampler(seed=seeds(place)),
    "random": lambda place: optuna.samplers.RandomSampler(seed=seeds(place)),
    "cmaes": lambda place: optuna.samplers.CmaEsSampler(seed=seeds(place)),
}


@pytest.mark.parametrize(
    "name", ["tpe", pytest.param("random", marks=pytest.mark.heavy), pytest.param("cmaes", marks=pytest.mark.heavy)]
)
def test_trials_are_those_of_optuna(name, base, tmp_path):
    """By its own loop over the same function, with the seeds that are documented: parameters, states and the best."""
    count = 12 if name == "tpe" else 5  # TPE begins to learn after ten
    carried(base, tmp_path / "x", Search(AXES, name, trials=count, pruner="median", seed=5))
    theirs = optuna.create_study(pruner=optuna.pruners.MedianPruner())
    for place in range(count):
        theirs.sampler = SAMPLERS[name](place)
        trial = theirs.ask()
        at = trial.suggest_float(RATE, 1e-4, 1e-1, log=True), trial.suggest_float(DECAY, 0.9, 0.999)
        for step in STEPS:
            trial.report(value(at, step), step)
            if trial.should_prune():
                theirs.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            theirs.tell(trial, value(at))
    mine = trials(tmp_path / "x")
    assert [trial["point"] for trial in mine] == [trial.params for trial in theirs.trials]
    named = {"COMPLETE": "finished", "PRUNED": "pruned"}
    assert [trial["state"] for trial in mine] == [named[trial.state.name] for trial in theirs.trials]
    assert name != "tpe" or {"pruned", "finished"} == {trial["state"] for trial in mine}
    best = json.loads((tmp_path / "x/best.json").read_bytes())["optimizer"]
    assert (best["learning_rate"], best["b2"]) == tuple(theirs.best_params[name] for name in (RATE, DECAY))


def test_a_grid_is_whole(base, tmp_path):
    """Every point once; halving keeps what Optuna's would."""
    axes = [grid(RATE, 1e-3, 1e-2, 1e-1), zipped([DECAY, WIDTH], (0.9, 32), (0.99, 64))]
    by = Fake()
    carried(base, tmp_path / "x", Search(axes, "grid", pruner="halving"), by)
    found = {(t["point"][RATE], t["point"][DECAY], t["point"][WIDTH]) for t in trials(tmp_path / "x")}
    assert found == {(rate, *both) for rate in (1e-3, 1e-2, 1e-1) for both in ((0.9, 32), (0.99, 64))}
    assert len(by.begun) == 6
    lines = (tmp_path / "x/table.md").read_text().splitlines()
    assert sum("| best |" in line for line in lines) == 1 and any("pruned at step 10" in line for line in lines)


def test_the_driver_may_be_killed(base, tmp_path):
    """Wherever it was: what continues comes to the same summary, and nothing that came to something is carried out again."""
    asked = Search(AXES, "tpe", trials=5, pruner="halving", seed=5)
    whole = Fake()
    carried(base, tmp_path / "whole", asked, whole)
    begun = []
    for name in ("trial-0", "trial-3", ""):
        by = Fake({name: KeyboardInterrupt()})
        try:
            carried(base, tmp_path / "x", asked, by)
        except KeyboardInterrupt:
            assert name
        begun += by.begun
    assert sorted(begun) == sorted([*whole.begun, "trial-0", "trial-3"])
    for file in ("summary.json", "table.csv", "table.md", "best.json"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    # one that the process asked for, and no more
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/x/search.db")
    study.ask()
    by = Fake()
    carried(base, tmp_path / "x", Search(AXES, "tpe", trials=6, pruner="halving", seed=5), by)
    assert by.begun == ["trial-5"] and len(trials(tmp_path / "x")) == 6
    assert look(base, Search(AXES, trials=7, pruner="halving", seed=5), tmp_path / "x")[0] == (
        "1 of 7 trials by tpe would be asked for"
    )


def test_what_fails_diverges_or_is_nan(base, tmp_path):
    """The first is tried again by the next launch; the others are the worst there is."""
    ends = {"trial-1": Outcome("failed", "no luck"), "trial-2": Outcome("diverged", "at step 3")}
    asked = Search(AXES, "random", trials=4)
    carried(base, tmp_path / "x", asked, Fake(ends, lambda at, step=40: math.nan if step == 40 else value(at, step)))
    assert [t["state"] for t in trials(tmp_path / "x")] == ["finished", "failed", "diverged", "finished"]
    assert not (tmp_path / "x/best.json").exists() and trials(tmp_path / "x")[0]["value"] == "nan"
    points = [t["point"] for t in trials(tmp_path / "x")]
    by = Fake()
    carried(base, tmp_path / "x", asked, by)
    assert by.begun == ["trial-1"] and [t["point"] for t in trials(tmp_path / "x")] == points
    theirs = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/x/search.db").trials
    assert [t.state.name for t in theirs] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert theirs[0].value == theirs[2].value == math.inf and theirs[4].params == theirs[1].params
    assert trials(tmp_path / "x")[1]["state"] == "finished" and (tmp_path / "x/best.json").exists()


def test_what_is_there_is_not_run_again(base, tmp_path):
    """Runs of another search, and a point that is drawn twice."""
    carried(base, tmp_path / "x", Search(AXES, "random", trials=3))
    by = Fake()
    search(
        base,
        Search(AXES, "random", trials=4, name="b"),
        tmp_path / "y",
        by=by,
        reuse=[tmp_path / "x"],
        reporter=Reporter(quiet=True),
    )
    assert by.begun == ["b-3"]
    theirs = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/y/search.db").trials
    assert [len(t.intermediate_values) for t in theirs] == [0, 0, 0, 3], "metrics.jsonl has none here"
    few = Fake()
    carried(base, tmp_path / "z", Search([choice(RATE, 1e-3, 1e-2)], "random", trials=4), few)
    assert len(few.begun) == 2 and len(trials(tmp_path / "z")) == 4


def test_axes_that_depend_on_others(base, tmp_path):
    axes = [grid("optimizer.name", "adamw", "sgd"), loguniform(RATE, 1e-3, 1e-1).when("optimizer.name", "sgd")]
    carried(base, tmp_path / "x", Search(axes, "tpe", trials=4))
    for trial in trials(tmp_path / "x"):
        assert (RATE in trial["point"]) == (trial["point"]["optimizer.name"] == "sgd")


def test_a_search_ends_in_a_report(base, tmp_path, monkeypatch):
    """As every experiment: what was pruned, failed or is refused is said; two points that are one count once."""
    drawn = []
    monkeypatch.setattr(report_page, "write", lambda *given: drawn.append(given))
    axes = [grid(RATE, 1e-2, 1e-3, 1e-1), grid(DECAY, 0.95, 0.99), grid("model.heads", 2, 3)]
    ends = {"trial-1": Outcome("failed", "no luck"), "trial-2": Outcome("diverged", "at step 3")}
    asked = Search(axes, "grid", pruner="halving", seed=1)
    words = ["ptft", "sweep", "--search=grid", "--out=x", "--halve_micro_batch", "--max_parallel", "2"]
    outcomes = search(base, asked, tmp_path / "x", by=Fake(ends), reporter=Reporter(quiet=True), command=words)
    counts = collections.Counter(trial["state"] for trial in trials(tmp_path / "x"))
    assert counts["refused"] == 6 and counts["pruned"] and counts["finished"] and len(outcomes) == 6
    text = (tmp_path / "x/experiment.md").read_text()
    assert text.startswith("# ptft sweep --search=grid\n\n12 nodes: ")
    assert all(f"{count} {state}" in text for state, count in counts.items())
    best = json.loads((tmp_path / "x/summary.json").read_bytes())["best"]
    assert (
        f"The best is {best['name']}, whose config is best.json." in text
        and "12 trials by grid, pruned by halving" in text
    )
    table = [line for line in text.splitlines() if line.startswith("| learning_rate=")]
    assert len(table) == 12 and f"{best['value']:.4g}" in table[0] and "| 0/1, 1 refused |" in table[-1]
    [given] = drawn
    assert given[6]["trial-1"]["message"] == "no luck" and "heads" in given[6][refused(tmp_path / "x")]["message"]
    asked = json.loads((tmp_path / "x/experiment.json").read_bytes())
    assert len(asked["nodes"]) == 12 and asked["search"]["--trials"] == 12 and asked["command"] == words
    views = Views(tmp_path)
    [one] = views.experiments()
    assert one["nodes"] == dict(counts)
    shown = {node["name"]: node for node in views.experiment("x")["nodes"]}
    assert "heads" in shown[refused(tmp_path / "x")]["message"] and shown["trial-1"]["status"] == "failed"


def refused(folder):
    return next(trial["name"] for trial in trials(folder) if trial["state"] == "refused")


def test_one_driver_at_a_time(base, tmp_path):
    """A second is refused, and names the first, which goes on as if nothing had been; a look asks nobody."""
    asked, seen = Search(AXES, "random", trials=2), []

    class Second(Fake):
        def start(self, task):
            with pytest.raises(UserError, match=rf"--out=.*process {os.getpid()} .* is running in it"):
                carried(base, tmp_path / "x", asked)
            seen.append(look(base, asked, tmp_path / "x")[-1])
            super().start(task)

    outcomes = carried(base, tmp_path / "x", asked, Second())
    assert [outcome["status"] for outcome in outcomes.values()] == ["finished"] * 2 and len(trials(tmp_path / "x")) == 2
    assert seen == ["there are 1 begun", "there are 1 finished, 1 begun"]


BAD = {
    "--search=tpee: .*did you mean 'tpe'": {"sampler": "tpee"},
    "--pruner=medain: .*did you mean 'median'": {"pruner": "medain"},
    "--trials=0: expected": {"trials": 0},
    "--search=grid: --axis optimizer.learning_rate=loguniform.0.0001,0.1. has no list": {"sampler": "grid"},
    "--trials=3: the grid has 2 points": {"sampler": "grid", "axes": [grid(WIDTH, 32, 64)]},
    "--search=cmaes: there are 1 axes of numbers": {"sampler": "cmaes", "axes": [AXES[0], grid(WIDTH, 32, 64)]},
    "--axis is missing": {"axes": []},
    "--axis optimizer.rate: .*not a setting": {"axes": [Axis(("optimizer.rate",), ((1,),))]},
    "--direction=max: smaller values": {"direction": "max"},
    "--direction is missing": {"metric": "what/ever"},
}


def test_bad_searches_are_refused_before_anything_is_written(base, tmp_path):
    for words, given in BAD.items():
        with pytest.raises(UserError, match=words):
            carried(base, tmp_path / "x", Search(**{"axes": AXES, "trials": 3, **given}))
    assert not (tmp_path / "x").exists()


def test_another_search_in_the_folder_is_refused(base, tmp_path):
    carried(base, tmp_path / "x", Search(AXES, trials=2))
    narrow = (loguniform(RATE, 1e-4, 1e-2), AXES[1])
    other = config(tmp_path / "verses.txt", eval__every=10.0, training__steps=7)
    for words, given in (
        ("--axis optimizer.learning_rate: .*0.1.* -> .*0.01", {"asked": Search(narrow, trials=2)}),
        ("--axis optimizer.b2: .*0.999.* -> not there", {"asked": Search(AXES[:1], trials=2)}),
        ("--pruner: none -> median", {"asked": Search(AXES, trials=2, pruner="median")}),
        ("training.steps: not there -> 7", {"asked": Search(AXES, trials=2), "base": other}),
    ):
        with pytest.raises(UserError, match=words):
            carried(given.get("base", base), tmp_path / "x", given["asked"])
    (tmp_path / "x/search.db").write_bytes(b"no database")
    with pytest.raises(UserError, match="search.db: cannot be read as a study"):
        carried(base, tmp_path / "x", Search(AXES, trials=2))


def test_a_metric_that_there_is_not_ends_the_search(base, tmp_path):
    """As the first run says; the folder takes another search."""
    by = Fake({"trial-0": Outcome("refused", "--metric=validation/nl: this run gives validation/nll")})
    with pytest.raises(UserError, match="--metric=validation/nl:"):
        carried(base, tmp_path / "x", Search(AXES, trials=9, metric="validation/nl", direction="min"), by)
    assert by.begun == ["trial-0"]
    carried(base, tmp_path / "x", Search(AXES, trials=1))


@pytest.mark.heavy
def test_runs_that_are_pruned_go_on(tmp_path, text_file):
    """Of a search as it is typed: a run that was ended is listed as that, is begun again by nobody, and comes to what it would have."""
    from ptft_jax.catalog import facts
    from tests.helpers import quiet_train, tiny_config

    made = tiny_config(text_file)
    asked = Search([grid(RATE, 1e-5, 1e-2)], "grid", pruner="halving")
    outcomes = search(made, asked, tmp_path / "x", by=launch.executor("local", 1), reporter=Reporter(quiet=True))
    assert sorted(o["status"] for o in outcomes.values()) == ["finished", "pruned"]
    [name] = [name for name, o in outcomes.items() if o["status"] == "pruned"]
    folder = tmp_path / "x/runs" / name
    assert facts.state(folder) == "pruned" and Workdir(folder).read_pruned()["step"] == 4
    made.optimizer.learning_rate = 1e-5
    summary, whole = (quiet_train(made, place) for place in (folder, tmp_path / "whole"))
    assert summary["after"] == whole["after"] and summary["finished"] and not Workdir(folder).read_pruned()
    best = tmp_path / "x/best.json"
    assert json.loads(best.read_bytes())["optimizer"]["learning_rate"] == 1e-2
    import ptft_jax as pt

    assert planned(tmp_path / "x", _one(pt.recipe(str(best))))["again"].action == "cached"
    with pytest.raises(
        UserError, match="--metric=validation/nl: evaluations of this run give .*did you mean 'validation/nll'"
    ):
        wrong = Search(asked.axes, "grid", pruner="halving", metric="validation/nl", direction="min")
        search(made, wrong, tmp_path / "y", by=launch.executor("inline", 1), reporter=Reporter(quiet=True))


@pytest.mark.heavy
def test_several_workers_at_the_command_line(tmp_path, text_file):
    """Two at a time, each trial told to the one study; a second driver is refused meanwhile, and names the first."""
    from tests.helpers import tiny_config
    from tests.processes import ptft

    made = tiny_config(text_file, training__steps=4, eval__every=4).to_dict()
    (tmp_path / "tiny.json").write_text(json.dumps(made))
    words = ["sweep", f"--config={tmp_path / 'tiny.json'}", "--axis", f"{RATE}=loguniform(1e-4,1e-1)", "--search=tpe"]
    words += ["--trials=4", "--executor=local", "--max_parallel=2", f"--out={tmp_path / 'x'}"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(ptft, *words)
        while not (tmp_path / "x/search.db").is_file() and not first.done():
            time.sleep(0.1)
        second = ptft(*words)
        done = first.result()
    assert done.returncode == 0, done.stderr
    assert second.returncode == 2 and re.search(r"--out=.* process \d+ .* is running in it", second.stderr), (
        second.stderr
    )
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'x/search.db'}").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    assert len({trial.params[RATE] for trial in trials}) == 4
    for number, trial in enumerate(trials):
        summary = Workdir(tmp_path / f"x/runs/sweep-{number}").read_summary()
        assert trial.value == pytest.approx(summary["selected"]["value"])


@pytest.mark.parametrize(
    "given, words",
    [
        ({"search": "tpe", "seeds": 2}, "--seeds=2: a trial is one run"),
        ({"search": "tpe", "samples": 3}, "--samples=3: a trial is one run"),
        ({"search": "tpe", "baseline": "x"}, "--baseline=x: trials of a search are compared with the best"),
        ({"trials": 3}, "--trials=3: it is of --search alone"),
        ({"metric": "gain"}, "--metric=gain: it is of --search alone"),
        ({"direction": "max"}, "--direction=max: it is of --search alone"),
        ({"pruner": "median"}, "--pruner=median: it is of --search alone"),
    ],
)
def test_flags_of_the_other_kind_of_sweep(given, words, monkeypatch):
    flags = absl.FlagValues()
    with monkeypatch.context() as patch:
        patch.setattr(absl, "FLAGS", flags)
        for name, default in (("search", ""), ("metric", ""), ("direction", ""), ("pruner", "none"), ("baseline", "")):
            absl.DEFINE_string(name, default, "", flag_values=flags)
        for name, default in (("seeds", 1), ("samples", 1), ("trials", None)):
            absl.DEFINE_integer(name, default, "", flag_values=flags)
        flags(["sweep", *(f"--{name}={value}" for name, value in given.items())])
        with pytest.raises(UserError, match=words):
            sweep._check_search()


def _one(made):
    from ptft_jax.experiments.nodes import Graph

    g = Graph()
    g.run("again", made)
    return g
