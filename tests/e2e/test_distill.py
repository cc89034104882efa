"""Runs that learn from a teacher: what they learn, what is kept of it, and runs that were killed."""

import functools

import jax
import numpy as np
import pytest

from ptft_jax.data import cache
from ptft_jax.errors import UserError
from ptft_jax.evaluation import standalone
from ptft_jax.objectives.distill import Distill
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly
from tests.helpers import TIMED, happen, quiet_train, random_batch, tiny_config

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def teacher(text_file, tmp_path_factory):
    """Wider, deeper and of other parts than its pupils."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    options = dict(
        model__width=48,
        model__positions="rotary",
        model__norm="rms",
        training__steps=60,
        eval__every=30,
        data__prefetch=0,
        checkpoint__every=30,
        checkpoint__keep_latest=2,
    )
    quiet_train(tiny_config(text_file, **options), folder)
    return folder


def pupil(text_file, teacher, **changes):
    options = dict(
        objective__name="distill", objective__distill__teacher=str(teacher), objective__distill__data_weight=0.0,
        model__layers=1, model__width=16, data__prefetch=0,
    )  # fmt: skip
    return tiny_config(text_file, **(options | changes))


def assembled(config, folder):
    return assembly.Run(config, folder, Reporter(quiet=True))


def stored():
    return sorted((cache.root() / "references").glob("*.npy"))


def test_a_pupil(text_file, teacher, tmp_path, monkeypatch):
    """It comes nearer to the teacher. Killed and resumed, a run is the same, also where the
    teacher is no longer there, as long as what it said is."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    gone = tmp_path / "teacher"
    gone.symlink_to(teacher)
    config = pupil(text_file, gone)
    summary = quiet_train(config, tmp_path / "whole")
    assert len(stored()) == 6  # ids and log-probabilities of train, validation, test
    run = assembled(config, tmp_path / "whole")
    assert not jax.tree.leaves(run.trainer.state_like.anchor)
    before, after = summary["before"] or Workdir(tmp_path / "whole").read_metrics()[0], summary["after"]
    assert after["validation/kl"] < 0.8 * before["validation/kl"] and 0 < after["validation/agreement"] <= 1
    assert 0.5 < after["validation/teacher_mass"] < 1 and after["validation/loss"] == after["validation/kl"]

    with pytest.raises(OSError), pytest.MonkeyPatch.context() as patch:
        happen("error@10", patch.setattr)
        quiet_train(config, tmp_path / "again")
    gone.unlink()
    quiet_train(config, tmp_path / "again")

    def kept(name):
        rows = Workdir(tmp_path / name).read_metrics()
        return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]

    assert kept("again") == kept("whole") and len(stored()) == 6
    assert quiet_train(config, tmp_path / "whole") == summary
    with pytest.raises(UserError, match="config.objective.distill.teacher"):
        quiet_train(config, tmp_path / "new")

    found = standalone.evaluate(loading.load(tmp_path / "whole"), tokens=512, batch_size=8)
    # Nothing is known of a teacher where a run is measured by itself.
    assert found["nll"] == pytest.approx(after["validation/nll"], rel=1e-4) and "kl" not in found


@pytest.mark.slow
def test_a_pupil_is_nearer_than_one_that_learns_from_the_data_alone(text_file, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    quiet_train(pupil(text_file, teacher), tmp_path / "whole")
    quiet_train(tiny_config(text_file, model__layers=1, model__width=16), tmp_path / "alone")
    theirs, batch = loading.load(teacher), random_batch(0, 4, 32)
    batch["inputs"] = np.tile(np.frombuffer(text_file.read_bytes()[:33], np.uint8), (4, 1))[:, :32].astype(np.int32)
    objective = Distill(data_weight=0.0)
    made = batch | objective.reference_of(theirs.model, theirs.params, batch)
    apart = {}
    for name in ("whole", "alone"):
        loaded = loading.load(tmp_path / name)
        apart[name] = float(objective.loss(loaded.model, loaded.params, made).total)
    assert apart["whole"] < apart["alone"]


OTHERS = (
    dict(teacher="@30"),
    dict(objective__distill__top=0),
    dict(objective__distill__temperature=2.0),
    dict(objective__distill__quantize="int8"),
    dict(data__length=24),
)


@pytest.mark.parametrize("others", [OTHERS[:2], pytest.param(OTHERS[2:], marks=pytest.mark.slow)], ids=["few", "more"])
def test_what_is_kept_is_of_this_teacher_and_these_rows(others, text_file, teacher, tmp_path, monkeypatch):
    """Another step of the teacher, other rows, another temperature, a teacher in int8, and damage: nothing is taken for it."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))

    def asked(number, teacher=teacher, **changes):
        run = assembled(pupil(text_file, teacher, training__steps=2, **changes), tmp_path / str(number))
        run.ask_teacher(lambda: None)
        return run.data.sets[0].reference, run.reference

    first, fingerprint = asked(0)
    first = {name: np.array(values) for name, values in first.items()}  # files are damaged below, and mapped
    files = stored()
    again, same = asked(1)
    assert stored() == files and same == fingerprint
    assert all(np.array_equal(again[name], values) for name, values in first.items())
    for number, changes in enumerate(others, 2):
        before = set(stored())
        values, other = asked(number, **changes | ({"teacher": f"{teacher}@30"} if "teacher" in changes else {}))
        made = set(stored()) - before
        assert len(made) == (3 if changes.get("objective__distill__top") == 0 else 6), changes
        assert (other != fingerprint) == ("teacher" in changes)
        if "objective__distill__quantize" in changes:
            apart = np.abs(values["teacher_log_probs"][..., 0] - first["teacher_log_probs"][..., 0])
            assert 0 < apart.max() < 0.2
        if "objective__distill__top" in changes:
            np.testing.assert_allclose(np.exp(values["teacher_log_probs"]).sum(-1), 1, rtol=1e-5)
            assert "teacher_ids" not in values
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    repaired, _ = asked(9)
    assert all(np.array_equal(repaired[name], values) for name, values in first.items())


@pytest.mark.slow
def test_a_run_that_is_its_own_teacher(text_file, teacher, tmp_path, monkeypatch):
    """It starts at no distance from it, and stays nearer than without."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{n} times {n} is {n * n}\n" for n in range(400)))
    own = functools.partial(
        tiny_config,
        other,
        init__from_=str(teacher),
        objective__name="distill",
        optimizer__learning_rate=3e-3,
        model__width=48,
    )
    kl = {}
    for share in (0.1, 0.999):
        summary = quiet_train(own(objective__distill__data_weight=share), tmp_path / str(share))
        assert abs(summary["before"]["validation/kl"]) < 1e-5
        kl[share] = summary["last"]["validation/kl"]
    assert 0 < kl[0.1] < 0.5 * kl[0.999]
    with pytest.raises(UserError, match="config.objective.distill.teacher = '': the teacher is then the parent"):
        assembled(own(init__from_=""), tmp_path / "none")
