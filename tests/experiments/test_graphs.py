"""Graphs as data, the identity of their nodes, and what a launch would do with them."""

import dataclasses
import json
import pathlib
import shutil
import types

import jax
import pytest

import ptft_jax as pt
from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation import behavior
from ptft_jax.experiments import data_places, estimates, identity, launch, plan, scheduler, work
from ptft_jax.experiments.axes import grid
from ptft_jax.experiments.executors.base import Outcome, Task
from ptft_jax.experiments.graph import with_changes
from ptft_jax.experiments.nodes import Graph, config_of
from ptft_jax.experiments.store import Kept, Store
from ptft_jax.model import presets
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel.leaves import Leaf
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading, meant
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, completion
from tests.helpers import SPEC, quiet_train, tiny_config


def config(source, **changes):
    made = configs.default()
    made.data.update(source=f"text:{source}", length=16)
    made.tokenizer.kind = "byte"
    for path, value in changes.items():
        section, name = path.split("__")
        made[section][name] = value
    return made


def chain(source, **changes):
    """Three stages; `changes` are of the second."""
    g = Graph()
    base = g.run("base", config(source))
    mid = g.run("mid", config(source, **changes), init=f"{base}@last")
    g.run("end", config(source), init=mid)
    g.evaluation("measured", "end", f"text:{source}")
    return g


def finish(folder, graph):
    """Records every node of a graph as finished, as if it had been carried out; what was done with each."""
    store = Store(folder)
    steps = plan.plan(graph, store)
    for step in steps:
        result = {"status": "finished", "message": "", "values": {}, "seconds": 1.0}
        kept = Kept(step.folder, step.identity.fingerprint, step.node.name, step.identity.as_dict(), result)
        if step.action not in ("cached", "same"):
            kept.write()
            summary = {"finished": True, "step": 100, "seconds": 50.0, "cost": {"peak_bytes": 2**20}}
            Workdir(step.folder).summary.write_text(json.dumps(summary))
    return {step.node.name: step.action for step in steps}


def planned(folder, graph, reuse=()):
    return {step.node.name: step for step in launch.look(graph, folder, reuse)}


def actions(folder, graph, reuse=()):
    return {name: step.action for name, step in planned(folder, graph, reuse).items()}


@pytest.fixture
def source(tmp_path, text_file):
    return pathlib.Path(shutil.copy(text_file, tmp_path / "verses.txt"))


NAMES = ("base", "mid", "end", "measured")
ALL_CACHED = dict.fromkeys(NAMES, "cached")


def test_a_graph_is_ordered_by_who_uses_whom(source):
    g = Graph()
    g.merge("soup", "soup", ["b", "node:c@last"])
    g.run("c", config(source), init="a@10")
    g.run("b", config(source), init="a")
    g.run("a", config(source))
    names = [node.name for node in g.ordered()]
    assert names[0] == "a" and names[-1] == "soup" and sorted(names) == ["a", "b", "c", "soup"]


def test_bad_graphs_are_refused_before_anything_runs(source, tmp_path):
    def refused(words, build):
        with pytest.raises(UserError, match=words):
            launch.launch(build(), tmp_path / "x", by=launch.executor("inline", 1))
        assert not (tmp_path / "x").exists()

    def cycle():
        g = Graph()
        g.run("a", config(source), init="b")
        g.run("b", config(source), init="a")
        return g

    def lost():
        g = Graph()
        g.run("base", config(source))
        g.evaluation("e", "bsae", f"text:{source}")
        return g

    def twice():
        g = Graph()
        g.run("a", config(source))
        g.run("a", config(source))
        return g

    def named(name):
        g = Graph()
        g.run(name, config(source))
        return g

    refused("cycle: (a -> b -> a|b -> a -> b)", cycle)
    refused("node 'e': no node 'bsae'.*did you mean 'base'", lost)
    refused("'a' is declared twice", twice)
    refused("no nodes", Graph)
    for name in ("a/b", "a@1", "", "..", "x" * 200):
        refused("expected a name", lambda name=name: named(name))
    refused("node 'a'.*nowhere.txt", lambda: chain_of("a", config(tmp_path / "nowhere.txt")))
    refused("node 'a'.*patience", lambda: chain_of("a", config(source, eval__every=0.0, select__patience=3)))
    refused("node 'mid'.*did you mean 'lora'", lambda: chain(source, tune__method="lor"))
    rank = with_changes(config(source), **{"tune.lora.rank": 2})
    refused("node 'a'.*tune.lora.rank = 2 is set, but .*needs tune.method=lora", lambda: chain_of("a", rank))
    refused("node 'mid'.*data.length = 256.*model.max_length 128", lambda: chain(source, data__length=256))


def chain_of(name, config):
    g = Graph()
    g.run(name, config)
    return g


def test_a_sweep_names_its_points(source):
    g = Graph()
    refs = g.sweep("lr", config(source), [grid("optimizer.learning_rate", 1e-4, 3e-4)], seeds=2)
    assert refs == [f"node:lr-learning_rate={rate}-seed{seed}" for rate in ("0.0001", "0.0003") for seed in (0, 1)]
    node = g.nodes["lr-learning_rate=0.0003-seed1"]
    assert node.settings["config"]["seed"] == 1 == node.seed and node.point == {"optimizer.learning_rate": 3e-4}
    [one] = g.sweep("b", config(source), [grid("optimizer.b1", 0.8), grid("optimizer.b2", 0.9)])
    assert one == "node:b-b1=0.8-b2=0.9-seed0"


def test_finished_nodes_are_cached_wherever_the_folder_lies(source, tmp_path, cache):
    assert finish(tmp_path / "x", chain(source)) == dict.fromkeys(NAMES, "new")
    assert actions(tmp_path / "x", chain(source)) == ALL_CACHED
    shutil.copytree(tmp_path / "x", tmp_path / "copied")
    (tmp_path / "x").rename(tmp_path / "moved")
    # what is trained on may lie elsewhere, too
    other = shutil.copy(source, tmp_path / "same.txt")
    for folder in ("copied", "moved"):
        assert actions(tmp_path / folder, chain(other)) == ALL_CACHED
    assert actions(tmp_path / "new", chain(source)) == dict.fromkeys(NAMES, "new")
    found = planned(tmp_path / "new", chain(source), [tmp_path / "moved"])
    assert {step.action for step in found.values()} == {"cached"}
    assert found["mid"].folder == tmp_path / "moved/runs/mid" and "moved" in found["mid"].reason


def test_a_change_reruns_what_follows_and_says_why(source, tmp_path, cache):
    finish(tmp_path, chain(source))
    found = planned(tmp_path, chain(source, training__steps=7))
    assert {name: step.action for name, step in found.items()} == {
        "base": "cached", "mid": "rerun", "end": "rerun", "measured": "rerun",
    }  # fmt: skip
    assert found["mid"].reason == "because training.steps: as by default -> 7"
    assert found["end"].reason == "because init.from: the node it names has changed"
    assert found["measured"].reason == "because of: the node it names has changed"
    # 50 s for 100 steps, before
    assert found["mid"].seconds == 3.5 and found["mid"].peak_bytes == 2**20 and found["base"].seconds == 0
    # into a new folder; the old one is found when the change is taken back
    assert found["mid"].folder.name == "mid.2"
    finish(tmp_path, chain(source, training__steps=7))
    assert actions(tmp_path, chain(source, training__steps=7)) == ALL_CACHED == actions(tmp_path, chain(source))
    # how a run is carried out and where its checkpoints go is no part of what it is
    assert actions(tmp_path, chain(source, checkpoint__every=5.0, data__prefetch=7)) == ALL_CACHED


def test_other_content_is_other_data(source, tmp_path, cache):
    finish(tmp_path / "x", chain(source))
    with open(source, "a") as f:
        f.write("one line more\n")
    found = planned(tmp_path / "x", chain(source))
    assert {step.action for step in found.values()} == {"rerun"}
    assert found["base"].reason == "because data.source: its content has changed"


def test_other_code_computes_again(source, tmp_path, cache, monkeypatch):
    g = chain(source)
    g.call("note", "tests.experiments.functions:add", after=["base"])
    finish(tmp_path / "x", g)
    code = identity.CODE
    monkeypatch.setattr(identity, "CODE", {**code, "training": 99})
    found = planned(tmp_path / "x", g)
    assert found["base"].reason == f"because version of training: {code['training']} -> 99"
    monkeypatch.setattr(identity, "CODE", {**code, "combining": 99})
    assert set(actions(tmp_path / "x", g).values()) == {"cached"}, "of which nothing here makes use"


def test_names_are_no_part_of_what_nodes_are(source, tmp_path, cache):
    finish(tmp_path, chain(source))
    g = Graph()
    first = g.run("first", config(source))
    g.run("again", config(source))
    g.run("second", config(source), init=f"{first}@last")
    found = planned(tmp_path, g)
    assert found["first"].action == found["second"].action == "cached"
    assert found["second"].folder.name == "mid" and found["again"].action == "same"
    assert found["again"].same_as == "first"


def test_what_was_begun_goes_on(source, tmp_path, cache):
    [step] = plan.plan(chain_of("base", config(source)), Store(tmp_path))
    Kept(step.folder, step.identity.fingerprint, "base", step.identity.as_dict(), None).write()
    (step.folder / "checkpoints/30").mkdir(parents=True)
    found = planned(tmp_path, chain_of("base", config(source)))["base"]
    assert (found.action, found.reason, found.folder) == ("resume", "from step 30", step.folder)
    # what somebody else put there stays
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "runs/other/notes.txt").touch()
    found = planned(tmp_path, chain_of("other", config(source, training__steps=3)))["other"]
    assert found.action == "new" and found.folder.name == "other.2"


def test_a_result_that_was_removed_is_none(source, tmp_path, cache):
    finish(tmp_path, chain(source))
    Workdir(tmp_path / "runs/mid").summary.unlink()
    assert actions(tmp_path, chain(source)) == {**ALL_CACHED, "mid": "resume"}


def test_what_a_recipe_suggested_is_no_more_than_that(source):
    """The settings of a node come to the config that the recipe gives."""
    recipe = with_changes(pt.recipe("pretrain/shakespeare:tiny"), **{"training.steps": 10, "eval.every": 0.0})
    g = Graph()
    g.run("a", recipe)
    made = configs.check(config_of(json.loads(json.dumps(g.nodes["a"].settings))), complete=False)
    mine = configs.settled(recipe)
    assert made.as_dict() == mine.as_dict()
    assert "training.steps" not in made.suggested and "samples.max_new_tokens" in made.suggested


@pytest.mark.heavy
def test_a_run_that_was_begun_elsewhere_goes_on(source, tmp_path, cache):
    """Its folder, its parent's and its data were moved: it comes to what it would have, to the bit."""

    def graph(data):
        made = tiny_config(data, training__steps=4, eval__every=2, eval__source=f"text:{data}")
        g = Graph()
        base = g.run("base", with_changes(made, **{"eval.source": ""}))
        end = {"objective.name": "distill", "objective.distill.teacher": base, "training.steps": 6, "eval.source": ""}
        g.run("end", with_changes(made, **end), init=base)
        return g

    by = launch.executor("inline", 1)
    quiet = Reporter(quiet=True)
    launch.launch(graph(source), tmp_path / "whole", by=by, reporter=quiet)
    shutil.copytree(tmp_path / "whole/runs/base", tmp_path / "x/runs/base")
    step = planned(tmp_path / "x", graph(source))["end"]
    Kept(step.folder, step.identity.fingerprint, "end", step.identity.as_dict(), None).write()
    settings = config_of(step.settings({"base": tmp_path / "x/runs/base"}))
    left = quiet_train(settings, step.folder, hooks=[(pt.every(3), lambda at: at.leave())])
    assert (left["finished"], left["reason"], left["step"]) == (False, "hook", 3)
    (tmp_path / "x").rename(tmp_path / "y")
    source.rename(tmp_path / "moved.txt")
    step = planned(tmp_path / "y", graph(tmp_path / "moved.txt"))["end"]
    assert (step.action, step.reason) == ("resume", "from step 3")
    launch.launch(graph(tmp_path / "moved.txt"), tmp_path / "y", by=by, reporter=quiet)
    assert Workdir(tmp_path / "y/runs/end").steps()[-1] == 6
    assert not (tmp_path / "y/runs/end.old").exists()
    for name in ("summary.json", "table.csv"):
        assert (tmp_path / "y" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_data_of_a_finished_run_are_found_where_they_were_moved(source, tmp_path, cache):
    """Which a run that starts from it is measured on, where it names none itself."""
    finish(tmp_path / "x", chain_of("base", config(source)))
    folder = tmp_path / "x/runs/base"
    begun = {"config": config(source).to_dict(), "environment": {"folder": str(pathlib.Path.cwd())}}
    for name, values in begun.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    moved = source.rename(tmp_path / "moved.txt")
    g = chain_of("base", config(moved))
    g.run("end", config(moved, training__steps=7), init="node:base")
    store = Store(tmp_path / "x")
    steps = plan.plan(g, store)
    assert [step.action for step in steps] == ["cached", "new"]
    read = Workdir(folder).read_config()
    assert meant.from_here(folder, read)["data"]["source"] == f"text:{source}"
    data_places.note(steps, store)
    assert meant.from_here(folder, read)["data"]["source"] == f"text:{moved}"
    moved.rename(source)
    data_places.note(plan.plan(chain(source), Store(tmp_path / "x")), store)
    assert meant.from_here(folder, read)["data"]["source"] == f"text:{source}", "and back"


def test_files_of_nodes_are_taken_by_others(source, tmp_path, cache):
    """What a call has written as data of a run, as a file, and as an argument."""
    g = Graph()
    made = g.call("rows", "m:f", number=3)
    mixture = ((f"jsonl:{made}/more.jsonl?field=a", 1.0),)
    g.run("trained", config(f"{made}/rows.txt"))
    g.call("read", "m:f", path=f"{made}/out.txt")
    assert [g.nodes[name].parents() for name in ("trained", "read")] == [["rows"], ["rows"]]
    folders = {"rows": tmp_path / "rows.2"}
    steps = planned(tmp_path, g)
    assert steps["trained"].settings(folders)["config"]["data"]["source"] == f"text:{tmp_path}/rows.2/rows.txt"
    assert steps["read"].settings(folders)["arguments"] == {"path": f"{tmp_path}/rows.2/out.txt"}
    mixed = Graph()
    mixed.call("rows", "m:f", number=3)
    mixed.run("mixed", with_changes(config(source), **{"data.mixture": mixture, "data.source": ""}))
    [(name, _)] = planned(tmp_path, mixed)["mixed"].settings(folders)["config"]["data"]["mixture"]
    assert name == f"jsonl:{tmp_path}/rows.2/more.jsonl?field=a"
    other = Graph()
    other.call("rows", "m:f", number=4)
    other.run("trained", config(f"{made}/rows.txt"))
    assert planned(tmp_path, other)["trained"].identity != steps["trained"].identity


def test_arguments_are_of_json(source):
    for value, words in ((source, "node 'a': arguments.x: .*Path"), ({1: 2}, "key 1 is no text")):
        with pytest.raises(UserError, match=words):
            Graph().call("a", "m:f", x=value)


def test_more_that_is_part_of_what_nodes_are(source, tmp_path, cache):
    def known(**changes):
        return planned(tmp_path, chain_of("a", with_changes(config(source), **changes)))["a"].identity

    assert known(**{"eval.metrics": ("top5",)}) != known()
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages }}")
    g = chain(source)
    g.evaluation("asked", "end", f"text:{source}", template=str(template))
    before = planned(tmp_path, g)["asked"].identity
    moved = template.rename(tmp_path / "u.jinja")
    again = chain(source)
    again.evaluation("asked", "end", f"text:{source}", template=str(moved))
    assert planned(tmp_path, again)["asked"].identity == before
    moved.write_text("{{ other }}")
    assert planned(tmp_path, again)["asked"].identity != before


def test_a_run_that_goes_on_is_from_the_last_checkpoint(source, tmp_path, cache, monkeypatch):
    asked = []
    found = type("Found", (), {"workdir": tmp_path, "meta": {"fingerprint": "f"}, "step": 3})
    monkeypatch.setattr(identity.restore, "find_run", lambda *_, bare, **__: asked.append(bare) or found)
    for on in (True, False):
        g = chain_of("a", with_changes(config(source), **{"init.from": str(tmp_path), "init.optimizer": on}))
        identity.Identities().of(g.nodes["a"])
    assert asked == ["last", "best"]


def test_a_checkpoint_that_was_not_kept_is_said_before_anything_runs(source, tmp_path, cache):
    g = Graph()
    g.run("base", config(source))
    finish(tmp_path, g)
    (tmp_path / "runs/base/checkpoints/40").mkdir(parents=True)
    g.run("good", config(source), init="base@40")
    assert planned(tmp_path, g)["good"].action == "new"
    g.run("bad", config(source), init="base@20")
    with pytest.raises(UserError, match="node 'bad': init.from: base@20: .* steps 40 alone"):
        planned(tmp_path, g)


def test_a_merge_that_was_removed_is_made_anew(source, tmp_path, cache):
    g = Graph()
    g.run("a", config(source))
    g.merge("soup", "soup", ["a", "a"])
    finish(tmp_path, g)
    Workdir(tmp_path / "runs/soup").summary.unlink()
    found = planned(tmp_path, g)["soup"]
    assert found.action == "rerun" and found.folder.name == "soup.2"
    # one that was ended before it was recorded is what it is
    here = Workdir(found.folder)
    here.path.mkdir()
    here.recipe.write_text(json.dumps({"fingerprint": "f" * 32}))
    here.summary.write_text(json.dumps({"finished": True}))
    asked = {"name": "soup", "kind": "merge", "folder": str(here.path), "settings": {}, "log": ""}
    done = work.carry_out(Task(**asked, fingerprint=found.identity.fingerprint, identity=found.identity.as_dict()))
    assert done.values == {"fingerprint": "f" * 32} and planned(tmp_path, g)["soup"].action == "cached"


def test_data_that_change_before_a_run_begins(source, tmp_path, cache, monkeypatch):
    """They are not what was planned, and are not recorded as that."""
    monkeypatch.setattr(scheduler, "_FRESH", 0.0)
    store, begun = Store(tmp_path), []

    class Editing:
        slots, here = 1, False

        def start(self, task):
            begun.append(task.name)
            source.write_text("other words\n" * 200)

        def ended(self, timeout):
            return begun[-1], Outcome("finished")

        def stop(self):
            pass

        close = stop

    steps = plan.plan(chain(source), store)
    found = scheduler.Scheduler(steps, store, Editing(), Reporter(quiet=True)).carry_out()
    assert begun == ["base"] and found["mid"]["status"] == "failed" and found["end"]["status"] == "skipped"
    assert "data.source: its content has changed" in found["mid"]["message"]


def test_a_run_that_was_finished_but_not_recorded_is_done(source, tmp_path, cache, monkeypatch):
    """Its process was killed between the two, and its data were moved since."""
    [step] = plan.plan(chain_of("base", config(source)), Store(tmp_path / "x"))
    Kept(step.folder, step.identity.fingerprint, "base", step.identity.as_dict(), None).write()
    Workdir(step.folder).summary.write_text(json.dumps({"finished": True}))
    monkeypatch.setattr(assembly, "train", lambda *_, **__: pytest.fail("it is trained again"))
    task = {"name": "base", "kind": "run", "folder": str(step.folder), "settings": step.settings({}), "log": ""}
    done = work.carry_out(Task(**task, fingerprint=step.identity.fingerprint, identity=step.identity.as_dict()))
    assert done.status == "finished" and Kept.read(step.folder).result["status"] == "finished"


def test_behavior_is_measured_in_a_graph(source, tmp_path, cache, monkeypatch):
    """Of a node's model, by questions whose content is part of what the node is; what it measures is what is measured alone."""
    questions = [tmp_path / f"{name}.jsonl" for name in "ab"]
    for path in questions:
        path.write_text("".join(json.dumps({"question": f"{n}", "answer": "ab"[n % 2]}) + "\n" for n in range(4)))

    def declared(tasks=("recall",)):
        g = chain(source)
        g.evaluation("knows", "end", f"jsonl:{questions[0]}", tasks=tasks, also=[f"jsonl:{questions[1]}"])
        return g

    before = planned(tmp_path, declared())["knows"].identity
    assert planned(tmp_path, declared())["knows"].identity == before
    assert planned(tmp_path, declared(("options",)))["knows"].identity != before
    questions[1].write_text(questions[1].read_text() + json.dumps({"question": "9", "answer": "b"}) + "\n")
    step = planned(tmp_path, declared())["knows"]
    assert step.identity != before and step.identity.settings["also"][0]["kind"] == "jsonl"
    model = Transformer(dataclasses.replace(SPEC, vocab_size=258, layers=1))
    params = model.init(jax.random.key(0))
    one = types.SimpleNamespace(name="end", config=configs.check({}))
    loaded = types.SimpleNamespace(
        model=model, params=params, tokenizer=tok.ByteTokenizer(), source=one, reads_prompt=False
    )
    monkeypatch.setattr(loading, "load", lambda reference, **_: loaded)
    task = Task("knows", "evaluation", str(tmp_path / "node"), step.node.settings, step.identity.fingerprint, {}, "")
    outcome = work.carry_out(task)
    assert outcome.status == "finished", outcome.message
    made = behavior.of_loaded(
        loaded, f"jsonl:{questions[0]}", ("recall",), settings={"also": (f"jsonl:{questions[1]}",)}
    )
    assert made.total == 9 and outcome.values == made.measured(params)[0]
    for more, words in (({"tasks": "recall"}, "expected a list of tasks"), ({"also": ["x"]}, "goes with tasks")):
        with pytest.raises(UserError, match=words):
            Graph().evaluation("e", "end", f"jsonl:{questions[0]}", **more)


def test_the_time_of_a_plan_is_that_of_its_longest_chain():
    """Of 10 + 20 s one after the other and 5 s beside them; of many beside each other it is their sum over the slots."""

    def steps(*nodes):
        g = Graph()
        for name, parents, _ in nodes:
            g.call(name, "m:f", of=[f"node:{parent}" for parent in parents])
        return [
            plan.Step(g.nodes[name], None, "new", pathlib.Path(name), seconds=seconds) for name, _, seconds in nodes
        ]

    chain = steps(("a", (), 10.0), ("b", ("a",), 20.0), ("c", (), 5.0))
    assert [plan.totals(chain, slots) for slots in (1, 4)] == [
        "3 nodes: 3 new; about 35 s",
        "3 nodes: 3 new; about 30 s",
    ]
    many = steps(*((f"n{n}", (), 10.0) for n in range(8)))
    assert plan.totals(many, 2) == "8 nodes: 8 new; about 40 s"


def test_time_and_memory_before_any_run_was_finished(source, tmp_path, cache):
    """Of arithmetic: as the compiler plans the step, to a quarter, and as long as the products take; then by the speed of another model."""
    from ptft_jax.planning.plan import plan as compiled
    from ptft_jax.planning.topologies import Topology

    def declared(**model):
        made, g = config(source), Graph()
        made.model.update(layers=1, width=16, heads=2, max_length=16, **model)
        tuned = config(source)
        tuned.tune.method = "full"
        tuned.training.steps = 50
        g.run("child", tuned, init=g.run("base", made))
        g.evaluation("measured", "child", f"text:{source}")
        return g, made

    def looked(g):
        return {step.node.name: step for step in launch.look(g, tmp_path / "x", estimated=True)}

    g, made = declared()
    before = looked(g)
    made.model.vocab_size = 258
    needs = compiled(made, Topology("here", jax.devices(), len(jax.devices()), None)).needs
    assert before["base"].peak_bytes == pytest.approx(needs, rel=0.25)
    assert before["base"].seconds > before["child"].seconds > 0 and before["measured"].seconds is None
    assert {step.source for step in before.values()} == {"arithmetic", ""}
    assert "; at least about " in plan.totals(list(before.values()), 1)
    assert not (tmp_path / "x").exists()
    finish(tmp_path / "x", g)
    for name, flops in (("base", 4e6), ("child", 2e6)):
        summary = {"finished": True, "step": 100, "seconds": 2.0, "model_flops": flops, "cost": {"peak_bytes": 2**20}}
        (tmp_path / f"x/runs/{name}/summary.json").write_text(json.dumps(summary))
    g, made = declared(mlp_width=32)
    after = looked(g)
    per_token = 2 * (4 * 16**2 + 2 * 16 * 32) + 2 * 2 * 16 * 16 + 2 * 16 * 258  # kernels, scores and weights, logits
    tokens = made.training.steps * made.data.batch_size * 16
    assert after["base"].seconds == pytest.approx(3 * per_token * tokens / ((4e6 + 2e6) / 4.0), rel=0.05)
    assert after["measured"].seconds == 1.0 and after["base"].source == "other runs"
    assert [plan.table([after[name]])[0]["by"] for name in ("base", "measured")] == ["other runs", "runs like it"]


def test_memory_by_hand():
    """Of 32 tokens of texts of 8: a block of width 16 has per token 8 * 16 + 2 * 64 + 2 * 2 * 8 = 288 numbers of four bytes, its input 16."""
    for changes, numbers in (
        ({}, 4 * 288),
        ({"remat": "full"}, 4 * 16 + 288),
        ({"remat": "offload"}, 4 * 16 + 288),  # what it keeps beside is with the host
        ({"remat": "dots"}, 4 * (5 * 16 + 64) + 288),
        ({"remat": "full", "remat_layers": 1}, 16 + 3 * 288 + 288),
    ):
        spec = ModelSpec(
            vocab_size=10, max_length=8, layers=4, width=16, heads=2, mlp_width=64, head="classes", **changes
        ).resolved
        found = estimates._kept(spec, 32, 8, 0)
        assert found == 4 * 32 * numbers + 2 * 32 * 4, changes  # and one score
    tower = dict(max_length=5, layers=2, width=8, heads=2, mlp_width=32, image_size=4, patch_size=2, channels=1)
    spec = ModelSpec(
        vocab_size=10, max_length=8, layers=1, width=16, heads=2, remat="full", tower=tuple(tower.items())
    ).resolved
    assert estimates._kept_of_images(spec, 3) == 4 * 3 * 5 * 2 * (8 * 8 + 2 * 32 + 2 * 2 * 5), (
        "of which nothing is computed again"
    )
    leaves = [Leaf(path, (), "", (), size, False) for path, size in (("trainable/a", 5), ("optimizer/a", 10))]
    assert [estimates._peak(leaves, memory, 20) for memory in ("device", "host")] == [35, 25]
    assert estimates._peak(leaves, "host", 1) == 15  # on the device for the update


def test_memory_of_points_that_differ_in_what_decides_it(source):
    """Of a mesh with parts of positions as much as of one with parts of rows, which have as many tokens; of moments in 8 bits less."""
    points = {
        "rows": dict(parallel__replica=8),
        "positions": dict(parallel__replica=4, parallel__context=2),
        "faster": dict(parallel__replica=8, optimizer__learning_rate=0.5),
        "8bit": dict(parallel__replica=8, optimizer__moments="8bit"),
    }
    sections = {}
    for name, changes in points.items():
        made = config(source, **changes)
        made.model.update(layers=1, width=64, heads=2, max_length=16)
        made.data.batch_size = 8
        sections[name] = completion.resolve(made)[0]
    assert plan._decides(sections["rows"], 257) == plan._decides(sections["faster"], 257)
    peaks = {name: estimates.of(sections[name], 257).peak_bytes for name in ("rows", "positions", "8bit")}
    assert peaks["rows"] == peaks["positions"] > peaks["8bit"]
    assert len({plan._decides(section, 257) for section in sections.values()}) == 3
    with_tokens = [config(source, tokenizer__add=("[A]",), tokenizer__new_rows=rows) for rows in ("mean", "normal")]
    assert len({plan._decides(configs.check(made, complete=False), 258) for made in with_tokens}) == 2


def test_memory_of_texts_beside_images():
    """One more block of width 16 has 4 * (16 * 16 + 16) + 2 * 16 * 64 + 64 + 16 + 4 * 16 = 3280 parameters, each with its gradient and two
    moments; and keeps of 2 texts of 12 tokens on each of 8 devices 8 * 16 + 2 * 64 + 2 * 2 * 12 numbers per token."""
    peaks = []
    for layers in (1, 2):
        made = configs.default()
        made.model.update(
            presets.family("clip")
            | dict(layers=1, width=16, heads=2, mlp_width=32, image_size=8, patch_size=4, channels=1)
        )
        made.model.update(max_length=5, vector_width=8, text_layers=layers, text_width=16, text_heads=2, text_length=12)
        made.objective.name, made.data.source, made.data.batch_size = "clip", "images:letters", 16
        section = completion.resolve(made)[0]
        assert estimates.vocabulary(section, None) == 257
        peaks.append(estimates.of(section, 257).peak_bytes)
    assert peaks[1] - peaks[0] == 4 * 4 * 3280 + 4 * 24 * (128 + 128 + 48)
