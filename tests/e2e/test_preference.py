"""Runs that learn from pairs of answers: what they are held near, what is measured of them, and what pairs are refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from ptft_jax.data import batches, cache
from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly
from ptft_jax.training import reference as references
from tests.helpers import TIMED, happen, quiet_train, tiny_config


def pairs(folder, more=()):
    """A source: answers that say yes are better than those that say no; `more` are the last that are trained on."""
    folder.mkdir()
    for split, first, count in (("train", 0, 40), ("validation", 40, 10), ("test", 50, 10)):
        numbers = range(first, first + count)
        rows = [{"prompt": f"is it {i}?", "chosen": f" yes, {i}", "rejected": " no"} for i in numbers]
        rows += more if split == "train" else []
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pair_config(text_file, path, **changes):
    options = dict(
        data__source=f"jsonl:{path}", data__length=64, model__max_length=64, objective__name="dpo", optimizer__learning_rate=1e-2
    )  # fmt: skip
    return tiny_config(text_file, **(options | changes))


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    quiet_train(tiny_config(text_file, model__max_length=64, training__steps=4), folder)
    return folder


def assembled(config, folder):
    return assembly.Run(config, folder, Reporter(quiet=True))


def test_rows_hold_whole_pairs(text_file, base, tmp_path):
    """Each answer is a segment of its own after its prompt, which has no loss; a mixture's rows say of as many pairs."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"prompt": f"{i}", "chosen": "a", "rejected": "bc"}) + "\n" for i in range(30)))
    path = pairs(tmp_path / "pairs")
    config = pair_config(text_file, path, init__from_=str(base), tune__method="lora")
    config.data.mixture = ((f"jsonl:{path}", 1.0), (f"jsonl:{few}", 1.0))
    run = assembled(config, tmp_path / "run")
    batch = next(run.batches(start=0))
    assert batch["pairs"].shape == (8, run.data.sets[1].pairs) and run.data.sets[0].pairs == run.data.sets[1].pairs
    for row, segments, weights, there in zip(*(batch[n] for n in ("targets", "segments", "weights", "pairs"))):
        assert 2 * there.sum() == segments.max() > 0
        for number in range(1, int(segments.max()) + 1):
            here = segments == number
            text = bytes(row[here & (weights == 0)].astype(np.uint8)).decode()
            learned = row[here & (weights == 1)]
            assert ("?" in text) != (text.isdigit() or not text)
            assert (
                bytes(learned[learned < 256].astype(np.uint8))
                .decode()
                .startswith((" yes", "a") if number % 2 else (" no", "bc"))
            )


@pytest.mark.heavy
def test_dpo_starts_as_its_parent_and_measures_what_it_forgets(text_file, base, tmp_path, monkeypatch):
    """The start is the reference, whatever trains; what the parent learned is measured as the parent learned it. Killed and resumed,
    a run is the same."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    path = pairs(tmp_path / "pairs")
    config = pair_config(
        text_file, path, init__from_=str(base), tune__method="lora", training__steps=16, eval__every=8, data__prefetch=0
    )
    summary = quiet_train(config, tmp_path / "dpo")
    before, after = summary["before"], summary["after"]
    assert before["validation/loss"] == pytest.approx(np.log(2), abs=1e-5) and before["validation/accuracy"] == 0.5
    assert abs(before["validation/chosen_shift"]) < 1e-4 and abs(before["validation/kl"]) < 1e-5
    assert after["validation/accuracy"] > 0.9 and after["validation/loss"] < 0.6 and after["validation/kl"] > 0
    assert summary["selected"]["metric"] == "validation/loss"
    # Both are cross-entropies per token: of the better answers, and of the text that the parent was trained on.
    parent = Workdir(base).read_summary()
    assert before["source/nll"] == pytest.approx(parent["after"]["validation/nll"], rel=1e-3)
    assert "source/bits_per_byte" in after and "source/margin" not in after
    assert {"gain", "forgetting"} <= set(summary["transfer"]["target"]) | set(summary["transfer"]["source"])

    goes_on(config, tmp_path, "dpo")
    precomputed(config, tmp_path, summary)


def precomputed(config, folder, live):
    """The reference's log-probabilities, computed once, give the same run, and nothing of the reference is kept. They are found again by
    a run that goes on, or are made again; rows that were cut otherwise never get them."""
    config.objective.preference.precompute = True
    with pytest.raises(OSError), pytest.MonkeyPatch.context() as patch:
        happen("error@10", patch.setattr)
        quiet_train(config, folder / "once")
    stored = cache.root() / "references"
    found = {path: np.load(path) for path in stored.glob("*.npy")}
    assert len(found) == 3 and all((values < 0).all() for values in found.values())  # train, validation, test
    shutil.rmtree(stored)
    summary = quiet_train(config, folder / "once")
    again = {path: np.load(path) for path in stored.glob("*.npy")}
    assert found.keys() == again.keys() and all(np.array_equal(found[path], again[path]) for path in found)
    for name in ("validation/loss", "validation/chosen_shift", "test/margin", "source/nll"):
        assert summary["after"][name] == pytest.approx(live["after"][name], rel=1e-3, abs=1e-4), name
    assert "validation/kl" not in summary["after"]
    run = assembled(config, folder / "once")
    assert not jax.tree.leaves(run.trainer.state_like.anchor)
    config.data.update(length=60, overlong="truncate")
    quiet_train(config, folder / "cut")
    assert len(list(stored.glob("*.npy"))) == 6


REFUSED = {
    "alike": (
        [{"prompt": "a", "chosen": "b", "rejected": "b"}],
        {},
        r"train.jsonl, line 41.*: both answers are the same, so neither is better: set config.data.untrainable to 'drop'",
    ),
    "alike once cut": (
        [{"prompt": "a", "chosen": "b" * 40 + "c", "rejected": "b" * 40 + "d"}],
        {"data__overlong": "truncate"},
        r"train.jsonl, line 41.*: both answers are the same once they are cut to fit a row \(config.data.length = 64\)",
    ),
    "too long": (
        [{"prompt": "a", "chosen": "b" * 40, "rejected": "c" * 40}],
        {},
        r"train.jsonl, line 41.* and the 1 that belong to it: 8\d positions are more than a row has .*'drop' or 'truncate'",
    ),
    "cut to nothing": (
        [{"prompt": "a" * 70, "chosen": "b", "rejected": "c"}],
        {"data__overlong": "truncate"},
        r"train.jsonl, line 41.*: both answers are the same once they are cut to fit a row",
    ),
    "cut apart": (
        [],
        {"data__overlong": "split"},
        "config.data.overlong = 'split': .* expected 'raise', 'drop' or 'truncate'",
    ),
    "no parent": ([], {"init__from_": ""}, "objective.name = 'dpo': it compares a model with its parent"),
    "no parent to learn from": (
        [],
        {"init__from_": "", "objective__name": "simpo"},
        "config.init.from is missing: .* objective.preference.from_random=True",
    ),
    "no parent to score from": (
        [],
        {"init__from_": "", "objective__name": "reward", "model__head": "classes", "model__classes": 1},
        "config.init.from is missing: .* or set objective.from_random=True",
    ),
    "prompts too": (
        [],
        {"data__train_on": "all"},
        "config.data.train_on = 'all': of pairs the answers alone are learned from",
    ),
    "another's reference": (
        [],
        {"init__optimizer": True},
        "config.init.optimizer = True: objective.name = 'dpo' compares .* with init.optimizer=False",
    ),
    "a reference of many": (
        [],
        {"objective__preference__precompute": True, "init__optimizer": True},
        "config.init.optimizer = True: .* has not kept that for it",
    ),
    "unread": (
        [],
        {"objective__name": "simpo", "objective__preference__label_noise": 0.1},
        "objective.preference.label_noise",
    ),
    "no noise": ([], {"objective__preference__loss": "robust"}, "label_noise = 0: .* a share above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, text_file, base, tmp_path):
    extra, changes, message = REFUSED[name]
    path = pairs(tmp_path / "pairs", extra)
    config = pair_config(text_file, path, **({"init__from_": str(base)} | changes))
    with pytest.raises(UserError, match=message):
        assembled(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_that_say_nothing_are_counted(text_file, base, tmp_path):
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    long = {"prompt": "a", "chosen": "b" * 40 + "c", "rejected": "b" * 40}
    path = pairs(tmp_path / "pairs", [*[same] * 4, *[long] * 3])
    options = {"data__untrainable": "drop", "data__overlong": "truncate", "init__from_": str(base)}
    run = assembled(pair_config(text_file, path, **options), tmp_path / "run")
    [row] = run.data.table
    # Of a row of 64 positions each of the long ones keeps 32: the same letters.
    assert (row["equal"], row["truncated"]) == (7, 6)
    assert batches.forms(run.data.sets, 8)["pairs"].shape == (8, run.data.sets[0].pairs)


def test_an_empty_answer_is_its_end_alone(text_file, base, tmp_path):
    """Or, where that is asked, no answer."""
    path = pairs(tmp_path / "pairs", [{"prompt": "a", "chosen": "b", "rejected": ""}])
    run = assembled(pair_config(text_file, path, init__from_=str(base)), tmp_path / "run")
    assert run.data.table[0]["empty_answers"] == 1
    config = pair_config(text_file, path, init__from_=str(base), data__source=f"jsonl:{path}?empty_answers=context")
    with pytest.raises(UserError, match=r"train.jsonl, line 41.*config.data.untrainable"):
        assembled(config, tmp_path / "run")
    config.data.untrainable = "drop"
    assert assembled(config, tmp_path / "run").data.table[0]["untrainable"] == 1


OTHERS = (
    {"init__from_": "other"},
    {"objective__preference__tail_weight": 0.5},
    {"data__template": "gemma"},
    {"model__dtype": "bfloat16"},
    {"init__from_": "of words"},
    {"tune__method": "full"},
)


@pytest.mark.heavy
@pytest.mark.parametrize("others", [OTHERS[:3], pytest.param(OTHERS[3:], marks=pytest.mark.slow)], ids=["few", "more"])
def test_a_stored_reference_is_of_this_model_and_these_rows(others, text_file, tmp_path, monkeypatch):
    """Of another parent, loss, template, precision, tokenizer or way of tuning nothing is taken for it, and of the same all."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pairs"
    path.mkdir()
    for split, count in (("train", 20), ("validation", 6), ("test", 6)):
        talks = [{"prompt": f"is it {i}?", "chosen": "yes", "rejected": "no"} for i in range(count)]
        rows = [
            {name: [{"role": "user" if name == "prompt" else "assistant", "content": text}] for name, text in talk.items()} for talk in talks
        ]  # fmt: skip
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nothing = dict(training__steps=0, optimizer__warmup_steps=0, model__max_length=256)
    for name, changes in {"one": {}, "other": {"seed": 5}, "of words": {"tokenizer__kind": "words"}}.items():
        quiet_train(tiny_config(text_file, **nothing, **changes), tmp_path / name)

    def asked(number, **changes):
        options = {
            "init__from_": "one", "tune__method": "lora", "data__template": "chatml", "data__length": 256, "model__max_length": 256,
            "training__steps": 2, "optimizer__warmup_steps": 0, "objective__preference__precompute": True, "eval__parent_data": False,
        } | changes  # fmt: skip
        options["init__from_"] = str(tmp_path / options["init__from_"])
        run = assembled(pair_config(text_file, path, **options), tmp_path / f"run{number}")
        state, fingerprint = run.start.state(run.importance, lambda: None)
        run.precompute(fingerprint, lambda: references.whole(run.trainer, state), lambda: None)
        return np.array(run.data.sets[0].reference["reference"]), set((cache.root() / "references").glob("*.npy"))

    first, stored = asked(0)
    again, same = asked(1)
    assert same == stored and len(stored) == 2 and np.array_equal(again, first)  # of training and validation
    for number, changes in enumerate(others, 2):
        values, now = asked(number, **changes)
        assert len(now - stored) == 2 and stored < now, changes
        # A run of full updates starts as the same model: it is another key, not another number.
        assert values.shape != first.shape or np.array_equal(values, first) == ("tune__method" in changes), changes
        stored = now


def goes_on(config, tmp_path, name):
    """The run that fails on the way and is started again is the run `name`, which was not."""
    with pytest.raises(OSError), pytest.MonkeyPatch.context() as patch:
        happen("error@10", patch.setattr)
        quiet_train(config, tmp_path / "again")
    quiet_train(config, tmp_path / "again")

    def kept(name):
        rows = Workdir(tmp_path / name).read_metrics()
        return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]

    assert kept("again") == kept(name)


def rated(path):
    """Each answer of `pairs` as a good or a bad one, every third pair's bad one left out."""
    made = path.with_name("rated")
    made.mkdir()
    for file in path.iterdir():
        rows = []
        for n, line in enumerate(file.read_text().splitlines()):
            pair = json.loads(line)
            sides = (("chosen", True), ("rejected", False))[: 2 if n % 3 else 1]
            rows += [{"prompt": pair["prompt"], "completion": pair[side], "label": good} for side, good in sides]
        (made / file.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.mark.heavy
def test_answers_that_are_good_or_bad(text_file, base, tmp_path, monkeypatch):
    """A run starts as its reference, and learns which are good; in parts, killed and resumed, and by a reference that was asked once it is
    the same."""
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "cache"))
    options = dict(objective__name="kto", init__from_=str(base), tune__method="lora", training__steps=16, eval__every=8)
    options |= {"objective__preference__desirable": 1.1, "data__prefetch": 0}
    config = pair_config(text_file, rated(pairs(tmp_path / "pairs")), **options)
    config.optimizer.learning_rate = 1e-2
    config.objective.preference.beta = 0.5
    summary = quiet_train(config, tmp_path / "kto")
    before, after = summary["before"], summary["after"]
    assert before["validation/accuracy"] == 0.5 and abs(before["validation/shift"]) < 1e-3
    assert after["validation/accuracy"] > 0.9 and after["validation/loss"] < 0.9 * before["validation/loss"]
    assert after["validation/nll"] < before["validation/nll"] and summary["selected"]["metric"] == "validation/loss"

    goes_on(config, tmp_path, "kto")
    config.objective.preference.precompute = True
    once = quiet_train(config, tmp_path / "once")
    for name in ("validation/loss", "validation/reference_point", "test/margin", "source/nll"):
        assert once["after"][name] == pytest.approx(after[name], rel=1e-2, abs=1e-3), name
