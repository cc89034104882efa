"""A run that has to leave at any moment, and what it finds when it comes back: the folder of one that was never disturbed."""

import json
import signal

import pytest

from ptft_jax.runs import checkpoint
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import execution
from tests import helpers
from tests.helpers import on_look, quiet_train, repeats, stop_at, tiny_config

TIMED = (*helpers.TIMED, "seconds", "seconds_by", "workdir")


def config(text_file, **changes):
    made = tiny_config(
        text_file, training__steps=6, eval__every=3, eval__tokens=600, checkpoint__every=2, training__ema_decay=0.5,
        **changes,
    )  # fmt: skip
    made.samples.update(prompts=("the", "a dog"), max_new_tokens=20, every=3)
    return made


def left(workdir):
    """All that a run wrote, less times."""
    rows = [{k: v for k, v in row.items() if k not in TIMED} for row in Workdir(workdir).read_metrics()]
    summary = json.loads((workdir / "summary.json").read_bytes())
    checkpoints = {}
    for step in Workdir(workdir).steps():
        meta = checkpoint.read_meta(workdir, step)
        checkpoints[step] = {k: v for k, v in meta.items() if k not in TIMED and k != "pending"}
    files = sorted(p.name for p in workdir.iterdir())
    return (
        rows,
        Workdir(workdir).read_samples(),
        {k: v for k, v in summary.items() if k not in TIMED},
        checkpoints,
        files,
    )


@pytest.fixture(scope="module")
def whole(text_file, tmp_path_factory):
    """What is left by a run that was never disturbed, and how often it looked whether it has to leave."""
    folder, looks = tmp_path_factory.mktemp("whole") / "run", []
    with pytest.MonkeyPatch.context() as patch:
        on_look(patch, looks.append)
        quiet_train(config(text_file), folder)
    return left(folder), len(looks)


def _ask_at(patch, number):
    """SIGTERM at the look of this number."""
    on_look(patch, lambda n: signal.raise_signal(signal.SIGTERM) if n == number else None)


# In the first evaluation, the first samples, the evaluation in the middle, its samples, the last evaluation, the test, the last samples.
@pytest.mark.parametrize("share", repeats([0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0], 0.85))
@pytest.mark.heavy
def test_sigterm_is_heard_between_batches_and_nothing_is_lost(text_file, tmp_path, whole, share):
    expected, looks = whole
    with pytest.MonkeyPatch.context() as patch:
        _ask_at(patch, 1 + round(share * (looks - 1)))
        stopped = quiet_train(config(text_file), tmp_path / "run")
    assert (stopped["finished"], stopped["reason"]) == (False, "sigterm")
    assert not (tmp_path / "run/summary.json").exists()
    assert quiet_train(config(text_file), tmp_path / "run")["finished"]
    assert left(tmp_path / "run") == expected


@pytest.mark.heavy
def test_sigterm_in_the_middle_of_an_evaluation(text_file, tmp_path, whole):
    expected, looks = whole
    with pytest.MonkeyPatch.context() as patch:
        _ask_at(patch, round(0.4 * looks))
        stopped = quiet_train(config(text_file), tmp_path / "run")
    assert stopped["reason"] == "sigterm" and Workdir(tmp_path / "run").steps()[-1] == stopped["step"] == 3
    assert checkpoint.read_meta(tmp_path / "run", 3)["pending"]
    assert "checksum" not in checkpoint.read_meta(tmp_path / "run", 3)
    assert [r["step"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval"] == [0]
    quiet_train(config(text_file), tmp_path / "run")
    assert left(tmp_path / "run") == expected


@pytest.mark.heavy
def test_what_was_found_out_about_a_step_since_is_checked_too(text_file, tmp_path, whole):
    """Of what a run that left in an evaluation adds to its checkpoint, the value is read as a better one."""
    with pytest.MonkeyPatch.context() as patch:
        _ask_at(patch, round(0.4 * whole[1]))
        quiet_train(config(text_file), tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(1, patch)
        quiet_train(config(text_file), tmp_path / "run")
    amended = Workdir(tmp_path / "run").checkpoint(3).amended
    found = json.loads(amended.read_bytes())
    amended.write_text(json.dumps({**found, "selected": found["selected"] - 1}))
    with pytest.raises(checkpoint.Damaged, match="amended.json: is not what was written"):
        checkpoint.read_meta(tmp_path / "run", 3)


@pytest.mark.slow
@pytest.mark.heavy
def test_sigterm_while_the_importance_of_parameters_is_estimated(text_file, tmp_path):
    quiet_train(config(text_file), tmp_path / "base")
    made = config(text_file, init__from_=str(tmp_path / "base"))
    made.tune.ewc.update(weight=1.0, rows=32)  # 4 batches
    quiet_train(made, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        _ask_at(patch, 3)
        stopped = quiet_train(made, tmp_path / "run")
    assert (stopped["reason"], stopped["step"]) == ("sigterm", 0) and not Workdir(tmp_path / "run").steps()
    assert not Workdir(tmp_path / "run").metrics.exists()
    quiet_train(made, tmp_path / "run")
    assert left(tmp_path / "run") == left(tmp_path / "whole")


class Killed(BaseException):
    """As kill -9: nothing of ours handles it."""


@pytest.mark.heavy
@pytest.mark.parametrize("name", repeats(["test row", "samples", "summary.json"], "summary.json"))
def test_the_end_is_done_anew(text_file, tmp_path, whole, name):
    """Killed after the last rows, or before the summary: no row is there twice."""
    expected, _ = whole

    def killed(*_, **__):
        raise Killed

    def killed_at_summary(path, value):
        if path.name == "summary.json":
            raise Killed
        write(path, value)

    write = execution.write_json
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        if name == "summary.json":
            patch.setattr(execution, "write_json", killed_at_summary)
        else:
            patch.setattr(execution.outcome, {"test row": "step_cost", "samples": "gains"}[name], killed)
        quiet_train(config(text_file), tmp_path / "run")
    quiet_train(config(text_file), tmp_path / "run")
    assert left(tmp_path / "run") == expected


def test_values_that_tie_keep_the_first_and_the_run_ends(text_file, tmp_path):
    made = tiny_config(
        text_file, training__steps=6, optimizer__learning_rate=1e-12, eval__every=2, checkpoint__keep_latest=1
    )
    summary = quiet_train(made, tmp_path / "run")
    values = {r["step"]: r["validation/nll"] for r in Workdir(tmp_path / "run").read_metrics() if r["kind"] == "eval"}
    assert len(values) == 4 and len(set(values.values())) < 4, "the rate is too small to change a float32"
    first = min(step for step, value in values.items() if value == min(values.values()))
    assert summary["best_step"] == first and first in Workdir(tmp_path / "run").steps()
    assert quiet_train(made, tmp_path / "run")["best_step"] == first


@pytest.mark.heavy
@pytest.mark.parametrize("moment", repeats(["before the end", "before the last launch"], "before the end"))
def test_where_the_best_is_damaged_the_next_best_is_used_and_said(text_file, tmp_path, capsys, moment):
    """With a rate that makes it worse and worse, the best is the start, the next best the first evaluation after it."""
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.training import assembly

    changes = dict(
        optimizer__learning_rate=3.0,
        optimizer__warmup_steps=0,
        eval__every=2,
        checkpoint__keep_best=3,
        checkpoint__every=2,
    )
    made = tiny_config(text_file, training__steps=6, **changes)
    workdir, best = tmp_path / "run", execution.Execution._best

    def damage():
        for file in (workdir / "checkpoints/0/params").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")

    def damaged(self, *args):
        damage()
        return best(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        if moment == "before the end":
            patch.setattr(execution.Execution, "_best", damaged)
            summary = assembly.train(made, workdir, reporter=Reporter())
        else:
            patch.setattr(execution.Execution, "_finish", lambda *_: (_ for _ in ()).throw(Killed()))
            with pytest.raises(Killed):
                quiet_train(made, workdir)
            patch.undo()
            damage()
            summary = assembly.train(made, workdir, reporter=Reporter())
    values = {r["step"]: r["validation/nll"] for r in Workdir(workdir).read_metrics() if r["kind"] == "eval"}
    second = min((v, s) for s, v in values.items() if s)[1]
    assert summary["finished"] and summary["best_step"] == second
    assert summary["after"]["validation/nll"] == values[second] == summary["selected"]["value"]
    said = " ".join(capsys.readouterr().err.split())
    assert "checkpoint 0, the best, is damaged and was moved to checkpoints-damaged/" in said
    assert f"the best is now that of step {second}" in said and (workdir / "checkpoints-damaged/0").is_dir()


@pytest.mark.heavy
def test_of_a_run_that_stops_early_the_last_state_has_its_value(text_file, tmp_path):
    """So it takes the place of a best one that is lost before the end."""
    made = tiny_config(
        text_file, training__steps=40, optimizer__learning_rate=3.0, optimizer__warmup_steps=0, eval__every=2,
        checkpoint__every=0, select__patience=2,
    )  # fmt: skip
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution.Execution, "_finish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            quiet_train(made, workdir)
    values = {r["step"]: r["validation/nll"] for r in Workdir(workdir).read_metrics() if r["kind"] == "eval"}
    assert list(values) == [0, 2, 4] and Workdir(workdir).steps() == [0, 4]
    for file in (workdir / "checkpoints/0/params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    summary = quiet_train(made, workdir)
    assert summary["best_step"] == 4 and summary["selected"]["value"] == values[4]
    assert [row["step"] for row in Workdir(workdir).read_metrics() if row["kind"] == "test"] == [4]


@pytest.mark.heavy
def test_a_damaged_best_without_a_record_of_files_is_replaced_too(text_file, tmp_path):
    """As earlier versions left them: only reading finds the damage, after which the last state is the best there is."""
    made = tiny_config(
        text_file, training__steps=4, optimizer__learning_rate=3.0, optimizer__warmup_steps=0, eval__every=2,
        checkpoint__every=0, checkpoint__keep_latest=1,
    )  # fmt: skip
    workdir, best = tmp_path / "run", execution.Execution._best

    def damaged(self, *args):
        (workdir / "checkpoints/0/files.json").unlink()
        for file in (workdir / "checkpoints/0/params").rglob("d/*"):
            file.unlink()
        return best(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution.Execution, "_best", damaged)
        summary = quiet_train(made, workdir)
    assert summary["finished"] and summary["best_step"] == 4 and (workdir / "checkpoints-damaged/0").is_dir()
