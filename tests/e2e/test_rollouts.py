"""Runs that learn from rewards of their own answers: what they learn, how they go on, and what is refused."""

import json
import random

import numpy as np
import pytest

from ptft_jax.config.computed import changes
from ptft_jax.errors import UserError
from ptft_jax.model import decode
from ptft_jax.objectives.policy import FACTS
from ptft_jax.params.rules import flatten
from ptft_jax.reporting import run_report
from ptft_jax.reporting.progress import Reporter
from ptft_jax.rewards.patterns import Regex
from ptft_jax.runs import checkpoint, loading, meant
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, completion
from ptft_jax.training.loop import Loop
from ptft_jax.training.rollouts import Rollouts
from ptft_jax.training.termination import Terminated
from ptft_jax.verbs import export
from tests.helpers import TIMED, quiet_train, random_batch, repeats, tiny_config, train


def questions(folder, right=1.0):
    """Letters, of which the next of eight is asked; a share of the answers that are trained on is `right`."""
    folder.mkdir()
    rng = random.Random(0)
    for split, count in (("train", 96), ("validation", 24), ("test", 8)):
        rows = []
        for n in range(count):
            letter, answer = chr(97 + n % 8), chr(97 + (n + 1) % 8)
            answer = answer if split != "train" or rng.random() < right else chr(97 + rng.randrange(8))
            rows.append({"prompt": letter, "completion": answer})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that answers about half of them rightly, as its data do."""
    folder = tmp_path_factory.mktemp("base")
    config = tiny_config(folder, training__steps=120, eval__every=0, eval__test=False, **SHAPE)
    config.data.source = f"jsonl:{questions(folder / 'noisy', 0.4)}"
    quiet_train(config, folder / "run")
    return folder / "run"


SHAPE = dict(model__layers=1, data__batch_size=32, data__length=16)


def policy_config(folder, source, **changes):
    options = dict(
        objective__name="grpo", objective__policy__verifiers=("exact",), objective__policy__max_new_tokens=4, optimizer__learning_rate=3e-3,
        training__steps=24, eval__every=12, eval__test=False, **SHAPE,
    )  # fmt: skip
    config = tiny_config(folder, **(options | changes))
    config.data.source = f"jsonl:{source}"
    return config


def kept(folder):
    rows = Workdir(folder).read_metrics()
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


def rollouts(folder):
    """The lines of all files, of the first of each what another run of the same config has, too."""
    files = sorted((folder / "rollouts").iterdir())
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
    for first, *_ in rows:
        first.pop("run_id")
    return rows


KINDS = {
    "grpo": dict(objective__policy__kl=0.01, objective__policy__top_p=0.9),
    "ppo": dict(
        objective__name="ppo", objective__policy__kl=0.01, objective__policy__kl_estimator="k1", objective__policy__average="token",
        objective__policy__value_rate=3.0, tune__method="lora", optimizer__learning_rate=1e-2,
    ),
    "drawn again": dict(objective__policy__kl=0.01, objective__policy__resample=2),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("kind", repeats(KINDS, "grpo", "ppo"))
def test_it_learns_and_goes_on_in_the_middle_of_a_rollout(base, tmp_path, cache, kind):
    """Two updates of each rollout, held near the parent: truncated sampling; an adapter and a value head. A run that fails, and goes on
    from a checkpoint between these updates, is the same bit for bit, and asks each prompt as often."""
    source = questions(tmp_path / "questions")
    config = policy_config(
        tmp_path, source, init__from_=str(base), objective__policy__updates=2, data__batch_size=64, training__steps=24, eval__every=24,
        checkpoint__every=3, eval__answers__verifiers=("exact",), eval__answers__max_new_tokens=4, eval__answers__temperature=1.0,
        eval__parent_data=False, **KINDS[kind],
    )  # fmt: skip
    summary = quiet_train(config, tmp_path / "whole")
    name = "validation/answers/exact"
    assert summary["selected"]["metric"] == name
    assert summary["last"][name] > summary["before"][name] + 0.1, (summary["before"][name], summary["last"][name])

    def fail(at):
        raise OSError("the disk of this process is gone")

    with pytest.raises(OSError):
        quiet_train(config, tmp_path / "again", hooks=[(lambda at: at.step == 11, fail)])
    assert Workdir(tmp_path / "again").steps()[-1] == 9  # in the middle of the rollout of steps 9 and 10
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "again/rollouts").iterdir()}
    quiet_train(config, tmp_path / "again")
    assert kept(tmp_path / "again") == kept(tmp_path / "whole")
    assert rollouts(tmp_path / "again") == rollouts(tmp_path / "whole")
    assert (tmp_path / "again/rollouts/000004.jsonl").stat().st_mtime_ns == made["000004.jsonl"]  # was read again
    sums = [checkpoint.read_meta(tmp_path / run, 24)["checksums"] for run in ("whole", "again")]
    assert sums[0] == sums[1]

    steps = [row for row in kept(tmp_path / "whole") if row["kind"] == "train"]
    assert all(row["ratio"] == pytest.approx(1.0, abs=1e-3) and row["mismatch"] < 1e-4 for row in steps[::2])
    assert all(row["mismatch"] > 1e-4 for row in steps[1::2]) and any(row["clipped"] > 0 for row in steps[1::2])
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6) and steps[-1]["kl"] > 1e-3
    if kind == "ppo":
        return has_values(tmp_path, steps)
    if kind == "drawn again":
        return asks_all(config, tmp_path, steps)
    found = rollouts(tmp_path / "whole")
    assert len(found) == 12 and found[3][0]["steps"] == [6, 8]
    asked = [row["where"] for _, *rows in found for row in rows[::8]]
    assert len(asked) == len(set(asked)) == 96  # 12 rollouts of 8 prompts; an epoch has each of the 96 once
    for step, (_, *rows) in zip(steps[::2], found):
        rewards = np.array([row["reward"] for row in rows]).reshape(8, 8)
        assert step["reward"] == pytest.approx(rewards.mean()) and step["answer_tokens"] == np.mean(
            [row["tokens"] for row in rows]
        )
        advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / (
            rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4
        )
        np.testing.assert_allclose([row["advantage"] for row in rows], advantages.reshape(-1))
        for row in rows:
            text = bytes(i for i in row["ids"][row["prompt_tokens"] :] if i < 256).decode(errors="replace")
            assert text == row["answer"] and row["scores"]["exact"]["value"] == float(text.strip() == row["reference"])
            assert (row["ids"][-1] == 256) == (row["reason"] == "end") and len(row["log_probs"]) == row["tokens"]
    run_report.write([tmp_path / "whole"], tmp_path / "report.html")
    assert "training reward" in (tmp_path / "report.html").read_text()
    refused_in_the_middle(config, tmp_path)


# What a model of random parameters writes has a letter now and then.
RANDOM = dict(
    objective__policy__from_random=True, objective__policy__verifiers=("regex",), rewards__regex__pattern="[a-z]"
)


@pytest.mark.heavy
def test_it_goes_on_where_it_was_stopped_amid_a_rollout(tmp_path, cache, monkeypatch):
    """While answers are written, and while they are scored: that rollout is made again, and the run is the same bit for bit."""
    config = policy_config(
        tmp_path, questions(tmp_path / "questions"), **RANDOM, training__steps=6, eval__every=6, checkpoint__every=2,
        data__batch_size=16,
    )  # fmt: skip
    quiet_train(config, tmp_path / "whole")

    def stopped(name, place, attribute, last, error):
        calls, plain = [], getattr(place, attribute)

        def counted(*given):
            calls.append(given)
            if len(calls) == last:
                raise error
            return plain(*given)

        with monkeypatch.context() as patch:
            patch.setattr(place, attribute, counted)
            if isinstance(error, Terminated):
                assert not quiet_train(config, tmp_path / name)["finished"]
            else:
                with pytest.raises(UserError, match="verifier 'regex' failed: OSError"):
                    quiet_train(config, tmp_path / name)
        done = len(list((tmp_path / name / "rollouts").iterdir()))
        assert len(calls) == last and 0 < done < 6
        quiet_train(config, tmp_path / name)
        assert kept(tmp_path / name) == kept(tmp_path / "whole") and rollouts(tmp_path / name) == rollouts(
            tmp_path / "whole"
        )
        sums = [checkpoint.read_meta(tmp_path / run, 6)["checksums"] for run in ("whole", name)]
        assert sums[0] == sums[1]

    per_rollout = []  # how often one looks whether it is to leave
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "check_step", lambda self: per_rollout.append(1))
        short = policy_config(
            tmp_path, tmp_path / "questions", **RANDOM, training__steps=1, optimizer__warmup_steps=0, eval__every=1, data__batch_size=16
        )  # fmt: skip
        quiet_train(short, tmp_path / "short")
    assert len(per_rollout) > 16  # before each of 16 answers is scored, and while they are written
    stopped("writing", Loop, "check_step", 2 * len(per_rollout) + 1, Terminated("sigterm"))
    stopped("scoring", Regex, "score", 24 + 16 * 3 + 5, OSError("the verifier's disk is gone"))


@pytest.mark.heavy
def test_whole_runs_do_not_depend_on_the_mesh(tmp_path, cache):
    """Answers are those that another division of the parameters samples, and so is what is learned of them, to rounding."""
    source = questions(tmp_path / "questions")

    def run(name, **options):
        config = policy_config(
            tmp_path, source, **RANDOM, training__steps=4, eval__every=4, eval__answers__max_new_tokens=4, **options
        )  # fmt: skip
        quiet_train(config, tmp_path / name)
        steps = [row for row in kept(tmp_path / name) if row["kind"] == "train"]
        return [[row["ids"] for row in rows] for _, *rows in rollouts(tmp_path / name)], steps

    answers, steps = run("copied")
    assert len(answers) == 4 and any(row["reward"] > 0 for row in steps)
    for name, options in {
        "fsdp": {"parallel__fsdp": 2, "parallel__context": 2}, "pmap": {"parallel__compile": "pmap"}
    }.items():  # fmt: skip
        theirs, others = run(name, **options)
        assert theirs == answers, name
        for ours, other in zip(steps, others):
            for metric in ("loss", "reward", "grad_norm", "entropy", "ratio"):
                assert other[metric] == pytest.approx(ours[metric], rel=1e-3, abs=2e-5), (name, metric)


def asks_all(config, folder, steps):
    """Each prompt in its turn, those that are drawn again too; also of a run that goes on from this one."""
    found = [row for _, *rows in rollouts(folder / "whole") for row in rows]
    assert [row["number"] for row in found[::8]] == list(range(len(found) // 8))
    where = [row["where"] for row in found[::8]]
    assert len(set(where[:96])) == 96 < len(where) < 12 * 8 * 3  # as many as an epoch has
    assert all(row["alike"] == 0 or row["rounds"] == 3 for row in steps)
    assert np.mean([row["alike_asked"] for row in steps]) > np.mean([row["alike"] for row in steps]) + 0.05
    config.init.update(from_=str(folder / "whole@last"), optimizer=True)
    config.training.steps = 30
    feed = assembly.Run(config, folder / "later", Reporter(quiet=True)).rollouts
    assert feed._order.first(12, 8) == found[-1]["number"] + 1 > 12 * 8
    (folder / "whole/rollouts/000011.jsonl").unlink()
    with pytest.raises(UserError, match="000011.jsonl: is not there, .*begin another run: without init.optimizer"):
        feed._order.first(12, 8)


def has_values(folder, steps):
    """Advantages are of tokens, by values that begin at 0; the head that learns them is in no model that is made of the run."""
    assert steps[0]["value"] == 0 < steps[-1]["value"] and steps[0]["explained_variance"] == 0
    assert any(row["value_clipped"] > 0 for row in steps[1::2])
    for _, *rows in rollouts(folder / "whole"):
        found = np.concatenate([row["advantages"] for row in rows])
        assert found.mean() == pytest.approx(0, abs=1e-6) and found.std(ddof=1) == pytest.approx(1, abs=1e-4)
        row = rows[0]
        assert len(row["values"]) == len(row["returns"]) == row["tokens"] and "advantage" not in row
    loaded = loading.load(folder / "whole")
    assert not [path for path in flatten(loaded.params) if "value_head" in path]
    assert decode.generate(loaded.model, loaded.params, [[97]], max_new_tokens=2)
    written = export.adapter(str(folder / "whole"), folder / "adapter", family="", base="base")
    assert written["without"] == "the value head, which only training needs"
    source = str(folder / "questions")
    child = policy_config(folder, source, init__from_=str(folder / "whole"), training__steps=2, eval__every=2)
    assert quiet_train(child, folder / "child")["finished"]  # without one


def refused_in_the_middle(config, folder):
    """Answers of another run are never learned from."""
    feed = assembly.Run(config, folder / "whole", Reporter(quiet=True)).rollouts
    assert len(feed._kept(4, 9)) == 64
    place = folder / "whole/rollouts/000004.jsonl"
    for text in (
        (folder / "again/rollouts/000004.jsonl").read_text(),
        "".join(place.read_text().splitlines(True)[:-1]),
    ):
        place.write_text(text)
        with pytest.raises(
            UserError, match=r"000004.jsonl: the answers that steps 9 to 10 learn from are not there, or are another"
        ):
            feed._kept(4, 9)


def sampled_batch(seed, values=False):
    """Answers as rollouts give them, with made-up numbers; those of tokens where there are values."""
    rng, rows = np.random.default_rng(seed), random_batch(seed)
    count = len(rows["inputs"])
    facts = {name: rng.random(count).astype(np.float32) for name in FACTS}
    every = ("advantages", "values", "returns") if values else ()
    more = {name: rng.normal(size=rows["inputs"].shape).astype(np.float32) for name in every}
    more |= {name: np.ones(count, np.float32) for name in ("explained", "varied") if values}
    return (
        rows
        | facts
        | {
            "sampled": rng.normal(-4, 0.3, rows["inputs"].shape).astype(np.float32) * rows["weights"],
            "advantages": rng.normal(size=count).astype(np.float32),
            "counts": (rng.random(count) < 0.8).astype(np.float32),
        }
        | more
    )


@pytest.mark.heavy
@pytest.mark.parametrize("kind", repeats(["sequence", "token", "ppo"], "sequence", "ppo"))
def test_losses_do_not_depend_on_mesh_and_micro_batches(kind):
    from ptft_jax.objectives.policy import GRPO
    from ptft_jax.objectives.ppo import PPO

    if kind == "ppo":  # whose head of one number is on all devices
        objective = PPO(average="token", clip_low=0.2, clip_high=0.3, value_weight=0.5, value_clip=0.1)
    else:
        objective = GRPO(average=kind, clip_low=0.2, clip_high=0.3)
    batches = [sampled_batch(seed, values=kind == "ppo") for seed in range(2)]
    one, many = (
        train(objective=objective, batches=batches, **options)
        for options in ({}, {"devices": 8, "fsdp": 2, "micro": 2})
    )
    np.testing.assert_allclose(many.losses, one.losses, atol=5e-6)
    np.testing.assert_allclose(many.grad_norms, one.grad_norms, rtol=1e-5)


def refused(config, folder):
    with pytest.raises(UserError) as caught:
        assembly.Run(config, folder, Reporter(quiet=True))
    assert not folder.exists()
    return str(caught.value)


def test_what_is_refused(tmp_path, cache):
    source = questions(tmp_path / "questions")

    def said(**changes):
        config = policy_config(tmp_path, source, objective__policy__from_random=True, **changes)
        return refused(config, tmp_path / "run")

    assert "config.objective.policy.verifiers is (): what rewards answers, of exact, f1" in said(
        objective__policy__verifiers=()
    )
    assert "no verifier 'exakt': " in said(objective__policy__verifiers=("exakt",))
    assert "expected a multiple of objective.policy.samples = 5" in said(objective__policy__samples=5)
    assert "config.data.packing = 'best_fit': a row has one prompt" in said(data__packing="best_fit")
    assert "config.data.overlong = 'split': a record is a prompt" in said(data__overlong="split")
    assert "leaves no room for objective.policy.max_new_tokens = 16 in data.length = 16" in said(
        objective__policy__max_new_tokens=16
    )
    assert "overlong_buffer = 9: expected at most objective.policy.max_new_tokens = 4" in said(
        objective__policy__overlong_buffer=9
    )
    assert "nothing in this run reads it" in said(objective__policy__clip_low=0.1)
    assert "config.data.max_epochs = 2: how often prompts are asked" in said(
        objective__policy__resample=1, data__max_epochs=2.0
    )
    changing = ((f"jsonl:{source}", ((0, 1.0), (12, 2.0))),)
    assert "where prompts are drawn again" in said(objective__policy__resample=1, data__mixture=changing)
    for name in ("reinforce", "ppo"):
        single = {"objective__name": name, "objective__policy__samples": 1, "data__batch_size": 1}
        section, _ = completion.resolve(policy_config(tmp_path, source, **single))
        if name == "ppo":  # each token is compared with what was expected
            assert Rollouts.asks(section).prompts == 1
            continue
        with pytest.raises(UserError, match="data.batch_size = 1: an answer is rewarded by how it compares"):
            Rollouts.asks(section)
    config = policy_config(tmp_path, source)
    assert "or set objective.policy.from_random=True" in refused(config, tmp_path / "run")


def test_prompts_without_room_are_left_out_where_that_is_asked(tmp_path, cache):
    rows = [{"prompt": ("x" * 12 if n % 3 else "a") + f"{n}>", "completion": "y"} for n in range(60)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = policy_config(
        tmp_path, tmp_path / "long.jsonl", objective__policy__from_random=True, data__overlong="drop", objective__policy__max_new_tokens=8
    )  # fmt: skip
    every = policy_config(
        tmp_path, tmp_path / "long.jsonl", objective__policy__from_random=True, eval__answers__every=12
    )
    assert completion.resolve(every)[0].select.metric == "validation/nll"  # which every evaluation has
    run = assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    [rows] = run.data.sets
    asked = [run.prompts.asked(0, n) for n in range(len(rows))]
    assert len(asked) == run.data.mixture.sizes[0] > 10 and all(task.prompt.startswith("a") for task, _ in asked)
    assert run.data.table[0]["dropped"] > 20 and run.config.select.metric == "validation/answers/exact"
    [(name, verifier)] = run.answers.verifiers.items()
    assert name == "exact" and verifier is run.prompts.verifiers[name]  # such as have a model have it once
    assert run.config.eval.answers.max_new_tokens == 8
    for said, length in ((64, 64), (0, 8)):  # what is said stays, be it what others have by default
        more = {"eval__answers__max_new_tokens": said, "eval__answers__verifiers": ("exact", "f1")}
        every = policy_config(
            tmp_path, tmp_path / "long.jsonl", objective__policy__from_random=True, objective__policy__max_new_tokens=8, **more
        )  # fmt: skip
        assert completion.resolve(every)[0].eval.answers.max_new_tokens == length


def test_a_length_of_answers_that_nobody_reads_is_no_other_config(tmp_path):
    """Earlier versions recorded 64. Answers of gkd are as long as those that it learns from."""
    rows = questions(tmp_path / "questions")
    config = policy_config(
        tmp_path,
        rows,
        objective__name="causal_lm",
        objective__policy__verifiers=(),
        objective__policy__max_new_tokens=256,
    )
    begun = completion.resolve(config)[0].as_dict()
    begun["eval"]["answers"]["max_new_tokens"] = 64
    (tmp_path / "config.json").write_text(json.dumps(begun))
    found = meant.spelled(tmp_path, completion.resolve(config)[0])
    assert not changes(begun, found.as_dict())
    asks = {"eval__answers__verifiers": ("exact",), "objective__policy__verifiers": ()}
    for name, length in (("causal_lm", 64), ("gkd", 4)):
        config = policy_config(tmp_path, rows, objective__name=name, **asks)
        assert completion.resolve(config)[0].eval.answers.max_new_tokens == length
