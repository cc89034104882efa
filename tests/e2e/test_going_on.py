"""Going on from another run's checkpoint with its optimizer, and starting from a run that is still going on."""

import json
import signal

import pytest

from ptft_jax import config as configs
from ptft_jax.combining import models
from ptft_jax.errors import UserError
from ptft_jax.parallel import processes
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import checkpoint, loading
from ptft_jax.runs import source as restore
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, completion
from tests.helpers import TIMED, on_look, quiet_train, stop_at, tiny_config


def config(text_file, **changes):
    made = dict(
        training__steps=6, eval__every=3, checkpoint__every=3, checkpoint__keep_latest=9, model__dropout=0.1,
        training__ema_decay=0.5, optimizer__schedule="constant",
    )  # fmt: skip
    return tiny_config(text_file, **(made | changes))


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    quiet_train(config(text_file), folder)
    return folder


def going_on(text_file, run, **changes):
    return config(text_file, **{"init__from_": str(run), "init__optimizer": True, **changes})


def sums(workdir, step):
    return checkpoint.read_meta(workdir, step)["checksums"]


def train_rows(workdir):
    rows = [row for row in Workdir(workdir).read_metrics() if row["kind"] == "train"]
    return {row["step"]: {k: v for k, v in row.items() if k not in TIMED} for row in rows}


def test_with_nothing_changed_it_is_the_same_run(text_file, tmp_path, base):
    summary = quiet_train(going_on(text_file, f"{base}@3"), tmp_path / "run")
    assert sums(tmp_path / "run", 6) == sums(base, 6), "parameters, average, optimizer and rng, bit for bit"
    mine, theirs = train_rows(tmp_path / "run"), train_rows(base)
    assert list(mine) == [4, 5, 6] and all(mine[step] == theirs[step] for step in mine)
    assert [r["step"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval"] == [3, 6]
    assert summary["step"] == 6 and summary["tokens_seen"] == 3 * 8 * 32
    here, *before = json.loads((tmp_path / "run/lineage.json").read_bytes())
    assert here["workdir"] == str(base) and here["step"] == 3 and here["optimizer"] and not before


@pytest.mark.heavy
def test_another_rate_length_and_plan(text_file, tmp_path, base):
    """The moments are those of the checkpoint: the first update is that of Adam's next step with them at the new rate."""
    changed = going_on(
        text_file, f"{base}@3", optimizer__learning_rate=1e-4, data__length=16, training__steps=5, eval__every=1,
        optimizer__schedule="linear", select__patience=9,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        stop_at(1, patch)
        stopped = quiet_train(changed, tmp_path / "run")
    assert (stopped["reason"], stopped["step"]) == ("max_seconds", 4)
    summary = quiet_train(changed, tmp_path / "run")  # continued like any other
    assert summary["finished"] and [
        r["step"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval"
    ] == [
        3,
        4,
        5,
    ]
    whole = quiet_train(changed, tmp_path / "whole")
    assert sums(tmp_path / "run", 5) == sums(tmp_path / "whole", 5) and summary["after"] == whole["after"]
    # From 0.1 of the way on: linear from 1e-4 over 5 steps, of which 3 are over.
    rates = [row["learning_rate"] for row in train_rows(tmp_path / "run").values()]
    ends = [1e-4 * (1 - 0.9 * (step - 2) / 3) for step in (3, 4)]
    assert rates == pytest.approx(ends, rel=1e-5)


@pytest.mark.heavy
def test_an_adapter_on_its_base(text_file, tmp_path, base):
    tuned = dict(tune__method="lora", training__ema_decay=0.0)
    child = quiet_train(config(text_file, init__from_=str(base), **tuned), tmp_path / "lora")
    on = quiet_train(going_on(text_file, f"{tmp_path / 'lora'}@3", **tuned), tmp_path / "on")
    assert sums(tmp_path / "on", 6) == sums(tmp_path / "lora", 6) and on["after"] == child["after"]
    chain = json.loads((tmp_path / "on/lineage.json").read_bytes())
    assert [(e["workdir"], e["step"]) for e in chain] == [(str(tmp_path / "lora"), 3), (str(base), 6)]
    # What is not said of how it is tuned is as there.
    said = quiet_train(going_on(text_file, f"{tmp_path / 'lora'}@3", training__ema_decay=0.0), tmp_path / "inherited")
    assert sums(tmp_path / "inherited", 6) == sums(tmp_path / "lora", 6) and said["transfer"]


@pytest.mark.slow
@pytest.mark.heavy
def test_a_run_that_went_on_is_gone_on_from(text_file, tmp_path, base):
    """What a chain of them was tuned from is what its first run started from."""
    tuned = dict(tune__method="lora", training__ema_decay=0.0, checkpoint__every=1)
    whole = quiet_train(config(text_file, init__from_=str(base), **tuned), tmp_path / "whole")
    quiet_train(going_on(text_file, f"{tmp_path / 'whole'}@2", **tuned), tmp_path / "second")
    third = quiet_train(going_on(text_file, f"{tmp_path / 'second'}@4", **tuned), tmp_path / "third")
    assert sums(tmp_path / "third", 6) == sums(tmp_path / "whole", 6)
    assert third["after"] == whole["after"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"init__from_": ""}, "init.from is missing"),
        ({"init__from_": "hf:somewhere"}, "has no optimizer"),
        ({"training__steps": 3}, "config.training.steps = 3: expected more than the 3"),
        ({"model__layers": 3}, "config.model.layers = 3, but the run that init.optimizer goes on from"),
        ({"optimizer__name": "lion"}, "extra optimizer/"),
        ({"training__ema_decay": 0.0}, "saved with 'ema', which this run has not"),
        ({"tokenizer__add": ("<x>",)}, "config.tokenizer.add"),
        ({"model__vocab_size": 999}, "config.model.vocab_size = 999, but the run that init.optimizer goes on from"),
        ({"tune__method": "lora"}, "config.tune.method = 'lora', but the run that init.optimizer goes on from"),
        ({"tune__lora__alpha": 64.0}, "config.tune.lora.alpha = 64.0, but the run that init.optimizer goes on from"),
    ],
)
def test_what_cannot_be_gone_on_with(text_file, tmp_path, base, changes, words):
    with pytest.raises(UserError) as error:
        quiet_train(going_on(text_file, f"{base}@3", **changes), tmp_path / "run")
    assert words in str(error.value)
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.heavy
def test_a_run_that_goes_on_keeps_what_its_children_started_from(text_file, tmp_path, capsys):
    """Step 2 of the parent is the base of an adapter that is continued later, and of a run that reads the parent again."""
    made = config(text_file, training__steps=8, checkpoint__every=1, checkpoint__keep_latest=1, eval__every=0)
    parent = tmp_path / "parent"

    def go_on_to(step):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(step, patch)
            return quiet_train(made, parent)

    assert go_on_to(2)["step"] == 2
    alone = [restore.find(str(parent)), completion.continued(configs.check(going_on(text_file, parent)))]
    assert [(run.step, run.how) for run in alone] == [(0, "best"), (2, "last")]
    assert [run.said for run in alone] == [
        f"{parent}: step 0, the best by validation/nll (@last is 2)",
        f"{parent}: step 2, the last",
    ]
    child = config(
        text_file, init__from_=f"{parent}@last", tune__method="lora", training__ema_decay=0.0, eval__parent_data=False
    )
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        assembly.train(child, tmp_path / "child", reporter=Reporter())
    said = " ".join(capsys.readouterr().err.split())
    assert f"{parent} has not finished: this run starts from its step 2, which is kept for it" in said
    assert go_on_to(2)["step"] == 4
    assert Workdir(parent).steps() == [0, 2, 4], "the best, what the child needs, and the latest"
    # The latest is another now; the child goes on from what it started from.
    summary = quiet_train(child, tmp_path / "child")
    assert summary["finished"] and json.loads((tmp_path / "child/lineage.json").read_bytes())[0]["step"] == 2
    whole = quiet_train(
        config(
            text_file,
            **{
                **dict(init__from_=f"{parent}@2", tune__method="lora", training__ema_decay=0.0, eval__parent_data=False)
            },
        ),
        tmp_path / "whole",
    )
    assert sums(tmp_path / "child", 6) == sums(tmp_path / "whole", 6) and summary["after"] == whole["after"]
    assert quiet_train(made, parent)["finished"] and 2 in Workdir(parent).steps()


@pytest.mark.slow
@pytest.mark.heavy
def test_the_loss_before_is_that_of_the_step_that_the_run_started_from(text_file, tmp_path):
    """Of a head that is re-initialized, it is the parent's own; the parent has gone on since."""
    made = config(text_file, training__steps=6, checkpoint__every=1, checkpoint__keep_latest=1, eval__every=1)
    parent, child = tmp_path / "parent", tmp_path / "child"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        quiet_train(made, parent)
    then = [row for row in Workdir(parent).read_metrics() if row["kind"] == "eval"][-1]
    renewed = config(text_file, init__from_=str(parent), init__fresh=("final_norm/.*",))
    with pytest.MonkeyPatch.context() as patch:  # it leaves while it measures its start
        on_look(patch, lambda number: signal.raise_signal(signal.SIGTERM))
        assert quiet_train(renewed, child)["reason"] == "sigterm" and not Workdir(child).steps()
    assert quiet_train(made, parent)["finished"]
    summary = quiet_train(renewed, child)
    here = Workdir(child).read_lineage()[0]
    assert (here["step"], here["checkpoint"]) == (2, "best") and restore.find(str(parent)).step != 2
    assert then["step"] == 2 and summary["before"]["validation/nll"] == pytest.approx(then["validation/nll"], abs=1e-6)


@pytest.mark.parametrize("optimizer", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_processes_that_found_another_latest_step_do_not_start(text_file, tmp_path, base, optimizer):
    """The same words, but between the two the run has gone on: what each of the processes says of itself differs."""
    made = config(text_file, init__from_=str(base), init__optimizer=optimizer, training__steps=9)
    resolve, check_same, said = checkpoint.resolve, processes.check_same, []

    def first(values):
        if "step of config.init.from" not in values:  # versions are compared first
            return
        said.append(json.loads(json.dumps(values)))
        raise KeyboardInterrupt

    def second(values):
        if "step of config.init.from" not in values:
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "gather", lambda mine: [*said, json.loads(json.dumps(mine))])
            check_same(values)

    for step, stand_in, error in ((3, first, KeyboardInterrupt), (6, second, UserError)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(error) as found:
            patch.setattr(checkpoint, "resolve", lambda *args, step=step: (resolve(*args)[0], step))
            patch.setattr(processes, "check_same", stand_in)
            quiet_train(made, tmp_path / "run")
    assert "process 1 was started with something else than process 0" in str(found.value)
    assert "step of config.init.from: [3] -> [6]" in str(found.value)


@pytest.mark.slow
@pytest.mark.heavy
def test_what_a_run_was_fine_tuned_from_is_not_what_it_went_on_from(text_file, tmp_path, base):
    """base -> child, which then goes on in two runs of its own: a task vector is the difference to the base."""
    fine = {"training__ema_decay": 0.0, "eval__parent_data": False}
    child, on, further = tmp_path / "child", tmp_path / "on", tmp_path / "further"
    quiet_train(config(text_file, init__from_=str(base), training__steps=3, **fine), child)
    quiet_train(going_on(text_file, child, training__steps=4, **fine), on)
    quiet_train(going_on(text_file, on, training__steps=5, **fine), further)
    reader = models.Reader()
    for run in (child, on, further):
        assert reader.parent(restore.find(str(run))).source.workdir == base
    plain = tmp_path / "plain"
    quiet_train(going_on(text_file, base, training__steps=7), plain)
    with pytest.raises(UserError, match="--base is missing: .* did not start from another model"):
        reader.parent(restore.find(str(plain)))


@pytest.mark.heavy
def test_files_of_a_tokenizer_that_were_lost_are_there_again(text_file, tmp_path, capsys):
    made, run = config(text_file, training__steps=4, checkpoint__every=2), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        quiet_train(made, run)
    files = {path: path.read_bytes() for path in run.glob("tokenizer*")}
    assert files
    for path in files:
        path.unlink()
    quiet_train(made, run)
    assert {path: path.read_bytes() for path in run.glob("tokenizer*")} == files
    assert loading.load(str(run)).tokenizer.decode([97, 98]) == "ab"
