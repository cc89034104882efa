"""Selection and early stopping, non-finite losses, interruption: on real runs of a few steps."""

import json
import time
import types

import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.reporting.clock import Clock
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.files import read_rows
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, checkpoint
from ptft_jax.training.loop import Loop, NonFinite, Selection, _values
from tests.helpers import TIMED, happen, quiet_train, tiny_config


def test_selection():
    s = Selection("x", "min", patience=2, min_delta=0.1)
    gains = [s.update(step, {"x": v}) for step, v in enumerate([5.0, 4.0, 3.95, float("nan")])]
    assert gains == [True, True, True, False]
    assert (s.best, s.best_step, s.ended) == (3.95, 2, "early_stopping"), "0.05 is better, but no gain"
    s = Selection("x", "max", patience=0, min_delta=0.0)
    assert [s.update(i, {"x": v}) for i, v in enumerate([1.0, 2.0, 1.5])] == [True, True, False]
    assert not s.ended
    with pytest.raises(UserError, match="config.select.metric = 'x': evaluations give y"):
        s.update(0, {"y": 1.0})


def test_an_evaluation_of_which_no_answer_has_a_score_is_not_the_best():
    loop = types.SimpleNamespace(
        _evaluate=lambda *_: {"answers/judge_unscored": 1.0}, selection=Selection("answers/judge", "max", 0, 0.0),
        _advance=lambda *_: None, _task=None,
    )  # fmt: skip
    Loop._evaluate_here(loop, types.SimpleNamespace(loop_state=None, step=1))
    assert loop._selected is None and not loop._better and loop.selection.best_step == -1
    # It is saved as any other.
    saved = []
    loop.program, loop._clock, loop.meta = types.SimpleNamespace(whole=lambda state: state), Clock(), {}
    loop.checkpoints, loop.stored_params = (
        types.SimpleNamespace(save=lambda *args: saved.append(args)),
        lambda state: None,
    )
    Loop._save(loop, None, 1, {"answers/judge_unscored": 1.0})
    [(_, _, meta, value)] = saved
    assert value is None and meta["metrics"] == {"answers/judge_unscored": 1.0}


def test_a_mean_over_nothing_is_left_out():
    """A batch of bad answers alone has no cross-entropy of good ones."""
    assert _values({"loss": (1.0, 2.0), "nll": (0.0, 0.0), "rate": 0.1, "halted": 0}) == {"loss": 0.5, "rate": 0.1}


@pytest.mark.heavy
def test_early_stopping_keeps_the_best(text_file, tmp_path):
    config = tiny_config(text_file, optimizer__learning_rate=0.3, training__steps=40, eval__every=2, select__patience=3)
    summary = quiet_train(config, tmp_path / "run")
    evals = [r for r in read_rows(tmp_path / "run/metrics.jsonl") if r["kind"] == "eval"]
    values = {r["step"]: r["validation/nll"] for r in evals}
    assert summary["reason"] == "early_stopping" and summary["step"] < 40
    assert summary["best_step"] == min(values, key=values.get)
    assert summary["step"] == summary["best_step"] + 6, "three evaluations without a gain"
    assert summary["after"]["validation/nll"] == min(values.values())
    assert summary["best_step"] in Workdir(tmp_path / "run").steps()


@pytest.mark.heavy
def test_a_run_that_stopped_before_its_first_step_counts_its_start_once(text_file, tmp_path):
    """Its rows are there once, and patience is not used up by measuring it again."""
    made = dict(optimizer__learning_rate=1e-9, eval__every=2, select__patience=2, select__min_delta=1.0)
    whole = quiet_train(tiny_config(text_file, **made), tmp_path / "whole")
    assert whole["reason"] == "early_stopping" and whole["step"] == 4
    stopped = quiet_train(tiny_config(text_file, **made), tmp_path / "run", max_seconds=1e-6)
    assert (stopped["reason"], stopped["step"]) == ("max_seconds", 0)
    summary = quiet_train(tiny_config(text_file, **made), tmp_path / "run")
    assert (summary["reason"], summary["step"]) == ("early_stopping", 4)
    kept = [[row for row in _curve(tmp_path / name) if row["kind"] != "train"] for name in ("whole", "run")]
    assert kept[0] == kept[1] and [row["step"] for row in kept[0] if row["kind"] == "eval"] == [0, 2, 4]


def test_a_batch_that_is_not_finite_stops_with_the_last_good_state(text_file, tmp_path, monkeypatch):
    happen("nan@3", monkeypatch.setattr)
    with pytest.raises(NonFinite, match="step 4: the loss or its gradient is not finite") as error:
        quiet_train(tiny_config(text_file, data__prefetch=0), tmp_path / "run")
    assert "The last good state (step 3) is saved" in str(error.value) and "learning_rate" in str(error.value)
    assert f"--config.init.from={tmp_path / 'run'}@3 --config.init.optimizer=True" in str(error.value)
    assert Workdir(tmp_path / "run").steps()[-1] == 3 and checkpoint.shapes(tmp_path / "run", 3)
    with np.load(tmp_path / "run/nonfinite_step_4.npz") as rows:
        assert rows["inputs"].shape == (8, 32)
    assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize("average", [pytest.param(0.0, marks=pytest.mark.slow), 0.999])
def test_a_state_whose_own_loss_is_not_finite_is_not_called_good(text_file, tmp_path, average):
    # A finite rate that overflows float32 logits after a step, and parameters within two.
    config = tiny_config(
        text_file, optimizer__name="sgd", optimizer__learning_rate=1e30, optimizer__clip_norm=0.0,
        optimizer__warmup_steps=0, optimizer__weight_decay=0.0, training__ema_decay=average,
    )  # fmt: skip
    with pytest.raises(NonFinite) as error:
        quiet_train(config, tmp_path / "run")
    batch = next((tmp_path / "run").glob("nonfinite_step_*.npz"))
    bad = int(batch.stem.rsplit("_")[-1])
    assert f"step {bad}" in str(
        error.value
    ) and f"The state before (step {bad - 1}) has a loss that is not finite" in str(error.value)
    assert "The last good state is that of step 0" in str(error.value) and "run@0 --config.init.optimizer" in str(
        error.value
    )
    assert Workdir(tmp_path / "run").steps() == [0] and not (tmp_path / "run/summary.json").exists()


@pytest.mark.slow  # tests/e2e/test_kill.py does it to a process, unmarked
def test_sigterm_saves_and_the_rest_follows(text_file, tmp_path):
    config = tiny_config(text_file, training__steps=30, log__every=1, data__prefetch=0)
    whole = quiet_train(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        happen("sigterm@5", patch.setattr)
        stopped = quiet_train(config, tmp_path / "part")
    assert (stopped["finished"], stopped["reason"], stopped["step"]) == (False, "sigterm", 6)
    assert Workdir(tmp_path / "part").steps()[-1] == stopped["step"]
    again = quiet_train(config, tmp_path / "part")
    assert again["finished"] and again["after"] == whole["after"]
    assert _curve(tmp_path / "part") == _curve(tmp_path / "whole")
    last = [checkpoint.read_meta(tmp_path / n, 30)["checksums"] for n in ("part", "whole")]
    assert last[0] == last[1], "parameters, optimizer and rng, bit for bit"


def test_max_seconds_stops_and_the_same_command_continues(text_file, tmp_path):
    config = tiny_config(text_file, training__steps=6)
    first = quiet_train(config, tmp_path / "run", max_seconds=1e-6)
    assert first["reason"] == "max_seconds" and first["step"] == 0
    assert quiet_train(config, tmp_path / "run")["step"] == 6


class Told(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.mark.heavy
@pytest.mark.parametrize("began, limit, reason", [(100.0, 90.0, "max_seconds"), (0.0, 3000.0, "steps")])
def test_max_seconds_counts_from_when_the_command_was_given(began, limit, reason, text_file, tmp_path):
    """What an import and the start took is spent: of a command given 100 s ago a limit of 90 s is over."""
    config = tiny_config(text_file, training__steps=1, eval__every=0, eval__test=False, optimizer__warmup_steps=0)
    told, clock = Told(), Clock(began=time.monotonic() - began)
    done = assembly.train(config, tmp_path / "run", max_seconds=limit, clock=clock, reporter=told)
    assert (done["reason"], done["step"]) == ((reason, 0) if began else (reason, 1))
    assert any("no step was made: max_seconds = 90 is less" in line for line in told.lines) == bool(began)


@pytest.mark.heavy
def test_what_is_compiled_is_no_part_of_a_steps_time(text_file, tmp_path):
    config = tiny_config(text_file, training__steps=6, log__every=2, eval__every=0)
    config.tune.phases = ((0, "all"), (4, "last:1"))
    summary = quiet_train(config, tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run/metrics.jsonl") if row["kind"] == "train"]
    # The step of the first program, and that of the second one, were waited for.
    assert [(row["step"], "step_seconds" in row) for row in rows] == [(1, False), (2, True), (4, False), (6, True)]
    timed = [row["step_seconds"] for row in rows if "step_seconds" in row]
    assert summary["step_seconds"] == pytest.approx(sum(timed) / 2)
    short = quiet_train(tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0), tmp_path / "short")
    assert short["step_seconds"] is None


def _curve(workdir):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_rows(workdir / "metrics.jsonl")]


@pytest.mark.heavy
def test_a_finished_run_is_not_run_again(text_file, tmp_path):
    config = tiny_config(text_file, training__steps=2)
    first = quiet_train(config, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").stat().st_mtime_ns
    assert quiet_train(config, tmp_path / "run") == json.loads(json.dumps(first))
    assert (tmp_path / "run/metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.heavy
def test_another_config_in_the_same_folder_is_refused(text_file, tmp_path):
    quiet_train(tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0), tmp_path / "run")
    with pytest.raises(UserError, match="optimizer.learning_rate: 0.01 -> 0.5"):
        quiet_train(
            tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0, optimizer__learning_rate=0.5),
            tmp_path / "run",
        )


@pytest.mark.heavy
def test_micro_batches_and_average_in_a_run(text_file, tmp_path):
    one = quiet_train(tiny_config(text_file, training__ema_decay=0.5), tmp_path / "one")
    config = tiny_config(text_file, training__ema_decay=0.5, data__batch_size=16, training__micro_batches=2)
    two = quiet_train(config, tmp_path / "two")
    assert one["tokens_seen"] * 2 == two["tokens_seen"]
    assert "ema" in checkpoint.read_meta(tmp_path / "one", 12)["checksums"]
