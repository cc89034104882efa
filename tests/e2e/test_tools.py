"""A run that learns to call a tool: what it learns, how it goes on, and that nothing else is learned."""

import json
import random

import pytest

from ptft_jax.evaluation import answers
from ptft_jax.runs import checkpoint, loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import rollout_files
from tests.helpers import TIMED, quiet_train, tiny_config

SHAPE = dict(model__layers=1, data__batch_size=64, data__length=16)
TOOLS = dict(use=("following",), call=("[", "]"), result=("<", ">"), calls=1)
LETTERS = "abcdefgh"


def questions(folder, called):
    """Letters, of which the next of eight is asked. The answer is another letter, or comes after a call, where `called` says so."""
    folder.mkdir()
    rng = random.Random(0)
    for split, count in (("train", 96), ("validation", 24)):
        rows = []
        for n in range(count):
            letter, following = LETTERS[n % 8], LETTERS[(n + 1) % 8]
            with_call = f"[{letter}]<{following}>{following}"
            shown = with_call if rng.random() < 0.5 else rng.choice(LETTERS)
            rows.append({"prompt": letter, "completion": shown if called else following})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def kept(folder):
    return [{k: v for k, v in row.items() if k not in TIMED} for row in Workdir(folder).read_metrics()]


@pytest.mark.heavy
def test_it_learns_to_call_a_tool_and_goes_on_in_the_middle_of_a_rollout(tmp_path, cache):
    """Two updates of each rollout, of truncated sampling: what the tool says is read, and not learned. A run that fails, and goes on from a
    checkpoint between these updates, is the same bit for bit; the model writes what it does without the tool where it has none."""
    config = tiny_config(tmp_path, training__steps=150, eval__every=0, eval__test=False, **SHAPE)
    config.data.source = f"jsonl:{questions(tmp_path / 'shown', True)}"
    quiet_train(config, tmp_path / "base")
    config = tiny_config(
        tmp_path, plugins=("tests.tools.given",), objective__name="grpo", objective__policy__verifiers=("exact",), objective__policy__samples=4,
        objective__policy__max_new_tokens=10, objective__policy__top_p=0.95, objective__policy__updates=2, optimizer__learning_rate=1e-3,
        training__steps=16, checkpoint__every=3, eval__every=16, eval__test=False, eval__parent_data=False, init__from_=str(tmp_path / "base"),
        eval__answers__verifiers=("exact",), **SHAPE,
    )  # fmt: skip
    config.tools.update(**TOOLS)
    config.data.source = f"jsonl:{questions(tmp_path / 'asked', False)}"
    summary = quiet_train(config, tmp_path / "whole")
    assert summary["last"]["validation/answers/exact"] >= 0.9
    steps = [row for row in kept(tmp_path / "whole") if row["kind"] == "train"]
    assert steps[-1]["calls"] > steps[0]["calls"] and steps[-1]["reward"] > steps[0]["reward"] + 0.1
    assert all(row["ratio"] == pytest.approx(1.0, abs=1e-3) and row["mismatch"] < 1e-4 for row in steps[::2])
    for number in range(8):
        rows = rollout_files.read(Workdir(tmp_path / "whole").rollout(number))
        assert steps[2 * number]["calls"] == sum(row["calls"] for row in rows) / 64
        assert steps[2 * number]["answer_tokens"] == sum(row["tokens"] for row in rows) / 64
        for row in rows:
            given = [bytes(row["ids"][slice(*span)]).decode() for span in row["given"]] if row["calls"] else []
            assert given == [f"<{result['text']}>"[:99] for turn in row["turns"] for result in turn["results"]]
            assert len(row["log_probs"]) == row["tokens"]

    def fail(at):
        raise OSError("the disk of this process is gone")

    with pytest.raises(OSError):
        quiet_train(config, tmp_path / "again", hooks=[(lambda at: at.step == 11, fail)])
    quiet_train(config, tmp_path / "again")
    assert kept(tmp_path / "again") == kept(tmp_path / "whole")
    sums = [checkpoint.read_meta(tmp_path / run, 16)["checksums"] for run in ("whole", "again")]
    assert sums[0] == sums[1]
    loaded = loading.load(tmp_path / "whole")
    assert answers.answer(loaded)[0]["exact"] >= 0.9
    without, rows = answers.answer(loaded, tools={"use": ()})
    assert "calls" not in without and without["exact"] < 0.5 and any("[" in row["answer"] for row in rows)
