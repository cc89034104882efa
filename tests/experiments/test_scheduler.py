"""Graphs carried out: whatever fails, is killed or stops, the rest goes on, and the table comes to be the same."""

import errno
import json
import math
import os
import signal
import sys
import threading
import time

import pytest

from ptft_jax import config as configs
from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.experiments import launch, plan, results, scheduler
from ptft_jax.experiments.executors import local
from ptft_jax.experiments.executors.base import Outcome
from ptft_jax.experiments.executors.local import shared_out
from ptft_jax.experiments.nodes import Graph
from ptft_jax.experiments.scheduler import Scheduler, Stopped
from ptft_jax.experiments.store import Store
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import lease
from ptft_jax.runs.workdir import Workdir
from tests.processes import ROOT, ended, start

F = "tests.experiments.functions:"
QUIET = Reporter(quiet=True)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


def carry(graph, folder, by="inline", slots=1, **options):
    return launch.launch(graph, folder, by=launch.executor(by, slots), reporter=QUIET, **options)


def read(folder):
    return {name: (folder / name).read_bytes() for name in ("summary.json", "table.csv", "table.md", "experiment.md")}


def status(outcomes):
    return {name: outcome["status"] for name, outcome in outcomes.items()}


def sums(*names, of=("start",)):
    """Numbers, each added to those before."""
    g = Graph()
    g.call("start", F + "add", number=1)
    for number, name in enumerate(names):
        g.call(name, F + "add", number=number, of=[f"node:{one}" for one in of])
    g.call("all", F + "add", of=[f"node:{name}" for name in names])
    return g


def test_processes_give_what_this_one_gives(tmp_path):
    g = sums("a", "b", "c")
    carry(g, tmp_path / "inline")
    carry(g, tmp_path / "local", "local", 2)
    assert read(tmp_path / "inline") == read(tmp_path / "local")
    nodes = json.loads((tmp_path / "local/summary.json").read_bytes())["nodes"]
    assert {node["name"]: node["result"] for node in nodes}["all"] == {"sum": 1 + 0 + 1 + 1 + 1 + 2}
    # once more is nothing more
    done = carry(g, tmp_path / "local", "local", 2)
    assert {outcome["plan"] for outcome in done.values()} == {"cached"}
    assert (tmp_path / "local/runs/all/times.txt").read_text() == "x"
    assert read(tmp_path / "inline") == read(tmp_path / "local")


def test_what_fails_takes_its_descendants_along_and_nothing_else(tmp_path):
    g = sums("a", "b")
    g.call("bad", F + "fail", unless=str(tmp_path / "luck"))
    g.call("after", F + "add", of=["node:bad"])
    g.call("later", F + "add", of=["node:after"])
    g.call("short", F + "memory")
    g.call("lost", "no.such.module:function")
    found = carry(g, tmp_path / "x")
    assert status(found) == {
        "start": "finished", "a": "finished", "b": "finished", "all": "finished", "bad": "failed", "after": "skipped",
        "later": "skipped", "short": "out_of_memory", "lost": "failed",
    }  # fmt: skip
    assert found["bad"]["message"] == "ValueError: no luck" and found["after"]["message"] == "as bad failed"
    assert "no.such" in found["lost"]["message"] and "RESOURCE_EXHAUSTED" in found["short"]["message"]
    assert "ValueError: no luck" in (tmp_path / "x/logs/bad.log").read_text()
    state = json.loads((tmp_path / "x/state.json").read_bytes())
    assert state["waiting"] == [] and state["nodes"]["after"]["status"] == "skipped"
    # tried again, and only that
    (tmp_path / "luck").touch()
    again = carry(g, tmp_path / "x")
    assert status(again)["later"] == "finished" and again["a"]["plan"] == "cached"


def test_a_process_that_is_killed_is_begun_again(tmp_path, monkeypatch):
    g = Graph()
    g.call("taken", F + "kill", times=2, number=5)
    g.call("hopeless", F + "kill", times=99)
    # what this process can import, its workers can; what ends with a status of its own is not tried again
    (tmp_path / "beside.py").write_text("def number(folder):\n    return {'number': 4}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    g.call("helped", "beside:number")
    g.call("ended", F + "give", what="end")
    found = carry(g, tmp_path, "local", 2)
    assert status(found) == {"taken": "finished", "hopeless": "killed", "helped": "finished", "ended": "failed"}
    assert found["ended"]["attempts"] == 1
    assert found["ended"]["message"] == "its process ended with status 3: this is why"
    assert not list((tmp_path / "logs").glob("*.json"))
    assert found["taken"]["attempts"] == found["hopeless"]["attempts"] == 3
    assert "SIGKILL" in found["hopeless"]["message"]


DRIVER = """
import json
import sys
from ptft_jax.experiments import launch, scheduler
from tests.experiments.test_scheduler import waiting, QUIET
try:
    by = launch.executor(sys.argv[3], int(sys.argv[4]), **json.loads(sys.argv[5]))
    launch.launch(waiting(sys.argv[2]), sys.argv[1], by=by, reporter=QUIET)
except scheduler.Stopped as e:
    print(e)
    sys.exit(e.status)
"""


def waiting(until):
    g = sums("a", "b")
    for number, name in enumerate(("c", "d")):
        g.call(name, F + "wait", until=until, number=number)
    g.call("sum", F + "add", of=["node:c", "node:d", "node:all"])
    return g


def _began(folder, *names, alive=lambda: True):
    while not all((folder / "runs" / name / "began").exists() for name in names):
        assert alive()
        time.sleep(0.05)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "number,code",
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_the_driver_may_end_at_any_moment(number, code, tmp_path):
    driver_ends(number, code, tmp_path, "local")


def driver_ends(number, code, tmp_path, by, **options):
    """A launch that gets a signal while two nodes go on, and another that ends as one that was left alone."""
    luck, folder = tmp_path / "luck", tmp_path / "x"
    words = (folder, luck, by, 2, json.dumps(options))
    one = start(sys.executable, "-c", DRIVER, *words, JAX_PLATFORMS="cpu")
    _began(folder, "c", "d", alive=lambda: one.process.poll() is None)
    with pytest.raises(lease.Busy, match=f"--out={folder}: process {one.process.pid}.*another --out"):
        carry(waiting(str(luck)), folder)
    one.process.send_signal(number)
    [done] = ended(one)
    assert done.returncode == code, done.stderr
    if number != signal.SIGKILL and not options:  # submitit says more
        assert len((done.stdout + done.stderr).splitlines()) == 1
    luck.touch()
    found = launch.launch(waiting(str(luck)), folder, by=launch.executor(by, 2, **options), reporter=QUIET)
    assert status(found)["sum"] == "finished" and found["a"]["plan"] == "cached"
    carry(waiting(str(luck)), tmp_path / "whole")
    assert read(folder) == read(tmp_path / "whole")


def test_asked_to_leave_between_nodes(tmp_path):
    """SIGTERM in the middle of what cannot be stopped: that ends, nothing more begins, and the rest is for the next launch."""
    luck, folder = tmp_path / "luck", tmp_path / "x"

    def ask():
        _began(folder, "c", alive=threading.main_thread().is_alive)
        os.kill(os.getpid(), signal.SIGTERM)
        luck.touch()

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Stopped) as error:
        carry(waiting(str(luck)), folder)
    thread.join()
    assert error.value.status == 143
    state = json.loads((folder / "state.json").read_bytes())
    assert state["nodes"]["c"]["status"] == "finished" and state["waiting"] == ["d", "sum"]
    assert carry(waiting(str(luck)), folder)["c"]["plan"] == "cached"


class Stub:
    """Ends what it is given as it is told to: name -> outcomes, one after the other."""

    slots, here = 2, False

    def __init__(self, outcomes):
        self._outcomes, self._begun, self.most = outcomes, [], 0

    def start(self, task):
        self._begun.append(task.name)
        self.most = max(self.most, len(self._begun))

    def ended(self, timeout):
        if not self._begun:
            return None
        name = self._begun.pop(0)
        return name, self._outcomes.get(name, [Outcome("finished")]).pop(0)

    def stop(self):
        self._begun.append("asked to leave")

    def close(self):
        self.closed = list(self._begun)


def test_what_is_preempted_goes_on_and_what_diverges_is_a_result(tmp_path):
    g = Graph()
    for name in ("preempted", "diverges", "twin"):
        g.call(name, F + "add", number=1 if name == "twin" else 2 if name == "diverges" else 3)
    g.call("child", F + "add", of=["node:diverges"])
    g.call("same", F + "add", number=1)
    stub = Stub(
        {
            "preempted": [Outcome("interrupted", "by sigterm"), Outcome("finished")],
            "diverges": [Outcome("diverged", "at step 3")],
        }
    )
    store = Store(tmp_path)
    found = Scheduler(plan.plan(g, store), store, stub, QUIET).carry_out()
    assert status(found) == {
        "preempted": "finished", "diverges": "diverged", "twin": "finished", "child": "skipped", "same": "finished",
    }  # fmt: skip
    assert found["preempted"]["attempts"] == 2 and found["same"]["attempts"] == 0 and stub.most == 2
    assert found["child"]["message"] == "as diverges diverged"


def climbing(most):
    """Numbers that are each twice the one before, up to a number, and one beside them that fails; what follows from what."""
    g = Graph()
    g.call("double1", F + "add", number=1)
    g.call("unlucky", F + "fail", unless="nowhere")

    def more(graph, rows):
        asked.append([row["name"] for row in rows])
        last = next(row for row in reversed(rows) if row["name"] != "unlucky")
        if last["result"]["sum"] < most:
            reference = f"node:{last['name']}"
            graph.call(f"double{int(2 * last['result']['sum'])}", F + "add", of=[reference, reference])

    asked = []
    g.then(more)
    return g, asked


def test_what_follows_from_results_is_carried_out_too(tmp_path):
    g, asked = climbing(3)
    said = []
    reporter = Reporter(quiet=True)
    reporter.say, reporter.table = said.append, lambda title, rows: said.append(rows)
    found = launch.launch(g, tmp_path / "a", by=launch.executor("inline", 1), reporter=reporter)
    assert [len(names) for names in asked] == [2, 3, 4], "until there is no more"
    assert status(found) == {name: "failed" if name == "unlucky" else "finished" for name in g.nodes}
    assert set(g.nodes) == {"double1", "unlucky", "double2", "double4"}
    assert found["unlucky"]["attempts"] == 1 and {found[name]["plan"] for name in g.nodes} == {"new"}
    assert sum("unlucky failed" in str(line) for line in said) == 1 and len(said[-1]) == 4, "one table, at the end"
    assert sum(isinstance(line, list) for line in said) == 1
    # in processes the same, and once more what failed alone is tried again
    again, _ = climbing(3)
    carry(again, tmp_path / "b", "local", 2)
    assert read(tmp_path / "a") == read(tmp_path / "b")
    again, _ = climbing(3)
    done = carry(again, tmp_path / "b")
    assert [name for name, outcome in done.items() if outcome["plan"] != "cached"] == ["unlucky"]


def test_a_look_goes_as_far_as_results_are_known(tmp_path):
    def declared(most):
        g, _ = climbing(most)
        del g.nodes["unlucky"]
        return g

    g = declared(4)
    assert [step.action for step in launch.look(g, tmp_path / "a")] == ["new"]
    carry(g, tmp_path / "a")
    g = declared(8)
    steps = launch.look(g, tmp_path / "a")
    assert [(step.node.name, step.action) for step in steps] == [
        ("double1", "cached"), ("double2", "cached"), ("double4", "cached"), ("double8", "new"),
    ]  # fmt: skip


def test_who_is_asked_to_leave_begins_nothing_that_would_follow(tmp_path):
    g, asked = climbing(4)
    del g.nodes["unlucky"]

    class Asking(Stub):
        def start(self, task):
            super().start(task)
            os.kill(os.getpid(), signal.SIGTERM)

        def stop(self):
            """What has begun ends as it would have."""

    with pytest.raises(Stopped) as stopped:
        launch.launch(g, tmp_path, by=Asking({}), reporter=QUIET)
    assert stopped.value.status == 143 and asked == []


def test_half_the_rows_where_memory_is_not_enough(tmp_path, text_file, cache):
    """As often as they can be divided; what the run is stays the same, and the table says what it had."""
    short = lambda times: [Outcome("out_of_memory", "RESOURCE_EXHAUSTED")] * times  # noqa: E731
    made = configs.default()
    made.data.update(source=f"text:{text_file}", batch_size=6)
    made.tokenizer.kind = "byte"
    tried = []

    class Short(Stub):
        def start(self, task):
            super().start(task)
            config = task.settings["config"]
            tried.append((task.fingerprint, config["data"]["batch_size"], config["training"]["micro_batches"]))

    g, store = Graph(), Store(tmp_path)
    g.run("a", made)
    steps = plan.plan(g, store)
    found = Scheduler(steps, store, Short({"a": [*short(1), Outcome("finished")]}), QUIET, 0, True).carry_out()
    assert status(found) == {"a": "finished"} and [counts for _, *counts in tried] == [[6, 1], [6, 2]]
    assert {fingerprint for fingerprint, *_ in tried} == {steps[0].identity.fingerprint}
    here = Workdir(steps[0].folder)
    here.path.mkdir(parents=True)
    here.summary.write_text("{}")
    for count, row in ((2, {"micro_batches": 2}), (1, {})):
        here.config.write_text(json.dumps({"training": {"micro_batches": count}}))
        [collected] = results.collect(steps, found)
        assert {k: v for k, v in collected.items() if k == "micro_batches"} == row
    tried.clear()
    found = Scheduler(steps, store, Short({"a": short(3)}), QUIET, 0, True).carry_out()
    assert status(found) == {"a": "out_of_memory"} and [count for *_, count in tried] == [1, 2], (
        "three rows have no half"
    )
    found = Scheduler(steps, store, Short({"a": short(1)}), QUIET).carry_out()
    assert status(found) == {"a": "out_of_memory"} and found["a"]["attempts"] == 1, "nobody asked for it"


def test_a_process_that_the_system_killed_for_memory(tmp_path, monkeypatch):
    """By the count of its control group."""
    group = tmp_path / "sys/fs/cgroup/user/one"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    assert local.killed_for_memory(str(tmp_path)) == 0
    (tmp_path / "proc/self/cgroup").write_text("1:memory:/old\n0::/user/one\n")
    (group / "memory.events").write_text("low 0\nhigh 7\noom 3\noom_kill 2\n")
    assert local.killed_for_memory(str(tmp_path)) == 2
    counts = iter(range(9))
    monkeypatch.setattr(local, "killed_for_memory", lambda: next(counts))
    g = Graph()
    g.call("taken", F + "kill", times=1)
    [found] = carry(g, tmp_path / "x", "local").values()
    assert found["status"] == "out_of_memory" and found["attempts"] == 1 and "memory was full" in found["message"]


def test_what_cannot_be_kept_is_a_node_that_failed(tmp_path):
    g = Graph()
    for what in ("exit", "keys", "path", "infinite"):
        g.call(what, F + "give", what=what)
    found = carry(g, tmp_path)
    assert status(found) == {"exit": "failed", "keys": "failed", "path": "failed", "infinite": "finished"}
    assert found["exit"]["message"] == "it called sys.exit(0)" and "as JSON" in found["keys"]["message"]

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    # the figures of a call beside columns of the same names
    [line] = [line for line in summary["table"] if line["name"] == "infinite"]
    assert line["runs"] == 1 and line["result/runs"] == 7 and line["loss"] == "nan" and line["loss_sd"] is None
    assert summary["nodes"][3]["result"] == {"runs": 7, "loss": "inf"}
    points = [{"group": "g", "point": {}, "status": "finished", "result": {"loss": v}} for v in (math.inf, 1.0)]
    [line] = results.table(points)
    assert math.isnan(line["loss"]) and math.isnan(line["loss_sd"])


def numbers(*names):
    g = Graph()
    for number, name in enumerate(names):
        g.call(name, F + "add", number=number)
    return g


def test_a_full_disk_and_a_process_that_cannot_be_begun(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("no space left")

    class Crowded(Stub):
        def start(self, task):
            if task.name == "a":
                raise OSError("Cannot allocate memory")
            super().start(task)

    monkeypatch.setattr(scheduler.files, "write_json", full)
    store = Store(tmp_path)
    found = Scheduler(plan.plan(numbers("a", "b"), store), store, Crowded({}), QUIET).carry_out()
    assert status(found) == {"a": "failed", "b": "finished"} and "allocate" in found["a"]["message"]


def test_a_disk_that_is_full_in_the_middle(tmp_path, monkeypatch):
    """What could not be written has failed, nothing is half there, and with room again the same comes of it."""
    full, write = [False], cache.write_atomic

    def crowded(path, fill):
        full[0] |= "runs/b/" in str(path)
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, fill)

    monkeypatch.setattr(cache, "write_atomic", crowded)
    with pytest.raises(OSError, match="No space left on device"):  # for the summary
        carry(sums("a", "b", "c"), tmp_path / "x")
    found = {kept.name: kept.result and kept.result["status"] for kept in Store(tmp_path / "x").all}
    assert found == {"start": "finished", "a": "finished"} and not (tmp_path / "x/summary.json").exists()
    monkeypatch.setattr(cache, "write_atomic", write)
    again = carry(sums("a", "b", "c"), tmp_path / "x")
    assert [again[name]["plan"] for name in "ab"] == ["cached", "new"]
    carry(sums("a", "b", "c"), tmp_path / "whole")
    assert read(tmp_path / "x") == read(tmp_path / "whole")


def test_whatever_goes_wrong_what_runs_may_save(tmp_path):
    class Lost(Stub):
        def ended(self, timeout):
            if "asked to leave" not in self._begun:
                raise RuntimeError("no connection")
            self._begun.remove("asked to leave")
            return self._begun.pop(), Outcome("interrupted")

    lost, store = Lost({}), Store(tmp_path)
    lost.slots = 1
    with pytest.raises(RuntimeError, match="no connection"):
        Scheduler(plan.plan(numbers("a"), store), store, lost, QUIET).carry_out()
    assert lost.closed == []


def test_devices_are_shared_out(tmp_path):
    (tmp_path / "dev").mkdir()
    for n in range(4):
        (tmp_path / f"dev/nvidia{n}").touch()
    (tmp_path / "dev/nvidiactl").touch()
    given = lambda slots, **env: [d.get("CUDA_VISIBLE_DEVICES") for d in shared_out(slots, env, str(tmp_path))]  # noqa: E731
    assert given(2) == ["0,1", "2,3"] and given(3) == ["0", "1", "2"] and given(1) == [None]
    assert given(2, CUDA_VISIBLE_DEVICES="") == given(2, CUDA_VISIBLE_DEVICES="-1") == [None, None], "they are hidden"
    assert given(2, CUDA_VISIBLE_DEVICES="5,7") == ["5", "7"] and given(2, JAX_PLATFORMS="cpu") == [None, None]
    with pytest.raises(UserError, match="there are 4"):
        given(5)
    for n in (0, 2):
        (tmp_path / f"dev/nvidia{n}").unlink()
    assert given(2) == ["0", "1"], "as CUDA counts what a container has of a machine"
    with pytest.raises(UserError, match="--max_parallel=0"):
        given(0)
    with pytest.raises(UserError, match="--executor=local"):
        launch.executor("inline", 2)
    with pytest.raises(UserError, match="did you mean 'local'"):
        launch.executor("lokal", 2)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.heavy)])
def test_many_nodes(count, tmp_path):
    g = Graph()
    for n in range(count):
        g.call(f"n{n}", F + "add", number=n, of=[f"node:n{n - 7}"] if n >= 7 else [])
    found = carry(g, tmp_path)
    assert len(found) == count and set(status(found).values()) == {"finished"}
    assert {outcome["plan"] for outcome in carry(g, tmp_path).values()} == {"cached"}


def test_what_another_process_carries_out_is_left_alone(tmp_path):
    """Of a node's own files those are removed that a worker of a driver that is gone has left: on a cluster others have theirs beside."""
    logs = tmp_path / "logs"
    logs.mkdir()
    names = ("start.1-1", "start.more.7-1", "other.7-1")
    for name in names:
        (logs / f"{name}.outcome.json").write_text("{}")
    carry(sums(), tmp_path, "local")
    assert sorted(path.name for path in logs.glob("*.json")) == [
        "other.7-1.outcome.json",
        "start.more.7-1.outcome.json",
    ]
