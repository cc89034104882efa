"""Runs with regularization: each setting in a run, stopped and continued, and what is refused."""

import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.parallel import sharding
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import source as restore
from ptft_jax.runs.files import read_rows
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, checkpoint
from tests.helpers import happen, quiet_train, tiny_config


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    quiet_train(child(text_file, "", training__steps=12), folder)
    return folder


def child(text_file, parent, **changes):
    options = {"init__from_": str(parent), "training__steps": 6, "eval__every": 3, **changes}
    config = tiny_config(text_file, **options)
    config.eval.update(test=False, tokens=256)
    return config


def stopped_and_continued(config, folder, step):
    """The checksums of the last checkpoint of a run that was stopped after `step`, and of one that was not."""
    quiet_train(config, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        happen(f"sigterm@{step - 1}", patch.setattr)
        stopped = quiet_train(config, folder / "part")
    assert (stopped["reason"], stopped["step"]) == ("sigterm", step)
    quiet_train(config, folder / "part")
    last = Workdir(folder / "whole").steps()[-1]
    return [checkpoint.read_meta(folder / name, last)["checksums"] for name in ("whole", "part")]


@pytest.mark.slow
@pytest.mark.heavy
def test_everything_at_once_continues_exactly(text_file, tmp_path, base):
    config = child(
        text_file, base, data__prefetch=0, model__dropout=0.1, training__ema_decay=0.5,
        optimizer__schedule="slanted_triangular", optimizer__warmup_steps=0, optimizer__cut_frac=0.3,
        tune__phases=((0, "last:1"), (3, "all", 0.5)), tune__l2_sp=0.1, tune__start_decay=0.1,
        tune__ewc__weight=1.0, tune__ewc__rows=16, tune__distill__weight=0.5, tune__mixout__rate=0.2,
        tune__smooth__method="smart", tune__smooth__bregman=0.5,
    )  # fmt: skip
    whole, part = stopped_and_continued(config, tmp_path, 4)
    assert whole == part and any(path.startswith("anchor/") for path in whole["training"]) and whole["fisher"]
    rows = [r for r in read_rows(tmp_path / "whole/metrics.jsonl") if r["kind"] == "train"]
    assert {"distill", "smooth", "bregman", "l2_sp", "ewc", "nll"} <= rows[-1].keys()
    assert rows[0]["l2_sp"] == rows[0]["ewc"] == 0.0 < rows[-1]["ewc"]
    # Peak 1e-2 after int(0.3 * 6) = 1 step; then 4 more down to 1/32 of it, in the last phase by half.
    falling = [r["learning_rate"] for r in rows]
    assert falling[1] == pytest.approx(1e-2) and falling[3] < falling[2] / 2
    # The dropout is the child's own; evaluation is without any of it.
    assert Workdir(tmp_path / "whole").read_config().model.dropout == 0.1
    assert Workdir(base).read_config().model.dropout == 0.0


@pytest.mark.slow
@pytest.mark.heavy
def test_the_next_stage_continues_the_importance(text_file, tmp_path, base):
    """Online EWC: gamma times what the parent was kept by, and its own."""
    ewc = dict(tune__ewc__weight=1.0, tune__ewc__rows=16, training__steps=2, optimizer__warmup_steps=0)
    quiet_train(child(text_file, base, **ewc), tmp_path / "second")

    def importance(gamma):
        quiet_train(child(text_file, tmp_path / "second", tune__ewc__gamma=gamma, **ewc), tmp_path / f"third{gamma}")
        return stored(tmp_path / f"third{gamma}")

    def stored(folder):
        source = restore.find(str(folder))
        return {p: np.asarray(a) for p, a in restore.fisher(source, sharding.on_one_device).items()}

    before, alone, half = stored(tmp_path / "second"), importance(0.0), importance(0.5)
    assert all(np.any(a) for a in before.values()) and all(np.all(a >= 0) for a in alone.values())
    for path in before:
        np.testing.assert_allclose(half[path], alone[path] + 0.5 * before[path], rtol=1e-5, err_msg=path)
    # What trains only now has no importance kept.
    quiet_train(child(text_file, base, tune__train="last:1", **ewc), tmp_path / "top")
    with pytest.raises(UserError, match="did not train these, or not in all layers.*\n  blocks/attention"):
        quiet_train(child(text_file, tmp_path / "top", **ewc), tmp_path / "none")


@pytest.mark.heavy
@pytest.mark.parametrize("changes", [dict(parallel__compile="pmap"), dict(parallel__fsdp=4)], ids=str)
def test_the_importance_does_not_depend_on_the_program(changes, text_file, tmp_path, base):
    ewc = dict(tune__ewc__weight=1.0, tune__ewc__rows=12, tune__ewc__labels="data", training__steps=0)
    found = []
    for more in ({}, changes):
        config = child(text_file, base, optimizer__warmup_steps=0, **ewc, **more)
        state, _ = (run := assembly.Run(config, tmp_path / "none", Reporter(quiet=True))).start.state(run.importance)
        found.append(flatten(run.trainer.program.whole(state).fisher))
    largest = max(float(array.max()) for array in found[0].values())
    for path, array in found[0].items():
        # Gradients of keys' biases are 0 but for rounding (1e-7 of others', squared 1e-14), which is anything.
        close = max(1e-5 * float(array.max()), 1e-12 * largest)
        np.testing.assert_allclose(found[1][path], array, rtol=1e-3, atol=close, err_msg=path)


@pytest.mark.heavy
def test_a_budget_of_forgetting(text_file, tmp_path, base):
    """Trained on other text at a high rate, the source is forgotten at once."""
    other = tmp_path / "other.txt"
    other.write_text("\n".join(f"{i * 7919 % 1000} {i * 104729 % 1000}" for i in range(600)) + "\n")
    options = dict(optimizer__learning_rate=3e-2, training__steps=8, eval__every=2)
    free = quiet_train(child(other, base, **options), tmp_path / "free")
    assert free["best_step"] > 0 and free["after"]["source/nll"] > free["before"]["source/nll"] + 0.05
    kept = quiet_train(child(other, base, select__source_budget=0.05, **options), tmp_path / "kept")
    assert kept["best_step"] == 0 and kept["step"] == 8, "nothing else was within the budget"
    assert checkpoint.best_step(tmp_path / "kept") == 0
    ended = child(other, base, select__source_budget=0.05, select__stop_over_budget=True, **options)
    ended = quiet_train(ended, tmp_path / "ended")
    assert (ended["reason"], ended["step"], ended["best_step"]) == ("source_budget", 2, 0)
    loose = quiet_train(child(other, base, select__source_budget=50.0, **options), tmp_path / "loose")
    assert loose["best_step"] == free["best_step"]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(init__from_="", tune__ewc__weight=1.0), "tune.ewc.weight = 1.0: .* init.from names none"),
        (dict(init__from_="", tune__distill__weight=1.0), "tune.distill.weight = 1.0: .* init.from names none"),
        (dict(init__from_="", tune__mixout__rate=0.5), "tune.mixout.rate = 0.5: .* init.from names none"),
        (dict(init__from_="", tune__l2_sp=0.5), "tune.l2_sp = 0.5: .* init.from names none"),
        (dict(init__from_="", select__source_budget=0.5), "forgetting is not measured: init.from names no parent"),
        (dict(select__source_budget=0.5, eval__parent_data=False), "forgetting is not measured: set eval.source"),
        (dict(select__stop_over_budget=True), "select.stop_over_budget = True is set, but nothing"),
        (dict(tune__ewc__weight=1.0, eval__parent_data=False), "eval.parent_data is off: name it with eval.source"),
        (dict(tune__ewc__weight=1.0, tune__ewc__rows=10**6), "tune.ewc.rows = 1000000: the training split of .* has"),
        (dict(tune__ewc__weight=1.0, tune__method="lora"), "keeps parameters of the parent, and tune.method = 'lora'"),
        (dict(tune__ewc__gamma=0.5), "tune.ewc.gamma = 0.5 is set, but nothing"),
        (dict(tune__distill__weight=1.0, tokenizer__add=("<x>",)), "the parent knows no tokens of tokenizer.add"),
        (
            dict(tune__distill__weight=1.0, tune__method="prompt", tune__prompt__length=4, data__length=28),
            "with tune.method = 'prompt' a run does not start as its parent",
        ),
        (
            dict(tune__distill__weight=1.0, tune__method="lora+prefix", tune__prefix__length=4, data__length=28),
            "with tune.method = 'lora.prefix' a run does not start as its parent",
        ),
        (dict(tune__mixout__rate=0.5, tune__mixout__parameters=("head/.*",)), "'head/.*' matches nothing that trains"),
        (dict(tune__mixout__rate=0.5, tune__method="lora"), "'.*/kernel' matches nothing that trains"),
        (dict(tune__smooth__weight=2.0), "tune.smooth.weight = 2.0 is set, but nothing"),
        (dict(tune__smooth__method="r3f", model__dtype="bfloat16"), "tune.smooth.noise = 1e-05: rounded away"),
        (dict(tune__smooth__method="r3f", tune__smooth__steps=3), "tune.smooth.steps = 3 is set, but nothing"),
        (dict(tune__smooth__method="smart", tune__smooth__bregman=1.0), "there is none: set training.ema_decay"),
        (dict(tune__phases=((0, "head"),)), "'head' from step 0 on: rule 1 'head/.*' matches no parameter"),
        (dict(tune__phases=((0, "last:1"), (9, "all"))), "'all' from step 9 on: the run ends after 6 steps"),
        (dict(tune__train="last:9"), "tune.train = 'last:9': rule 1 'blocks.-9:./.*': the model has . layers"),
        (dict(tune__train="norms", tune__phases=((0, "attention"),)), "trains nothing of what the run trains"),
        (dict(optimizer__schedule="slanted_triangular"), "optimizer.warmup_steps = 2 is set, but nothing"),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_what_is_refused(changes, words, text_file, tmp_path, base):
    config = child(text_file, base, **changes)
    with pytest.raises(UserError, match=words):
        assembly.Run(config, tmp_path / "none", Reporter(quiet=True))


@pytest.mark.heavy
@pytest.mark.parametrize("method, rate", [("lora", 1e-2), ("ia3", 0.3)])
def test_an_adapter_is_kept_near_what_its_parent_predicts(method, rate, text_file, tmp_path, base):
    config = child(
        text_file, base, tune__method=method, tune__distill__weight=5.0, tune__phases=((0, "last:1"), (3, "all"))
    )
    config.optimizer.learning_rate = rate
    summary = quiet_train(config, tmp_path / "run")
    rows = [r for r in read_rows(tmp_path / "run/metrics.jsonl") if r["kind"] == "train"]
    # At first the two differ by float32 rounding in the sums over the vocabulary.
    assert rows[0]["distill"] == pytest.approx(0.0, abs=1e-7) and rows[-1]["distill"] > 1e-6
    assert summary["finished"]
