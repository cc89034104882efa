"""The experiment of addition: what is held out, what equal compute is, what counts as shown, and a miniature of it."""

import json
import sys

import pytest

from experiments import arithmetic_rl
from tests.processes import HURRY, run


def test_no_pair_of_numbers_is_trained_and_held_out(tmp_path):
    folder = arithmetic_rl.write_sums(tmp_path / "sums", most=6)
    rows = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "held_out")
    }
    pairs = {}
    for name, found in rows.items():
        numbers = [tuple(map(int, row["prompt"].rstrip("=").split("+"))) for row in found]
        assert [int(row["completion"]) for row in found] == [a + b for a, b in numbers]
        pairs[name] = {frozenset(pair) for pair in numbers}
        assert {pair[::-1] for pair in numbers} == set(numbers)
    assert not pairs["train"] & pairs["held_out"]
    assert len(rows["train"]) + len(rows["held_out"]) == 36 and len(pairs["held_out"]) == 21 // 5
    before = (folder / "train.jsonl").stat().st_mtime_ns
    arithmetic_rl.write_sums(tmp_path / "sums", most=6)
    assert (folder / "train.jsonl").stat().st_mtime_ns == before


def test_equal_compute():
    # 3 batches that are written (1 forward pass each) and learned from (3) are 12 passes: 4 batches that are learned from.
    assert arithmetic_rl.equal_steps(3) == 4
    rows = [{"kind": "eval", "step": 3, "answers/exact": 0.5}, {"kind": "train", "step": 3}]
    assert arithmetic_rl.curve("grpo", rows) == [[12, 0.5]]
    assert arithmetic_rl.curve("sft", [{**rows[0], "step": 4}]) == [[12, 0.5]]


@pytest.mark.parametrize("grpo, shown", [([0.6, 0.7], True), ([0.1, 0.9], False)])
def test_what_is_shown(grpo, shown):
    ways = {"sft": {"exact": [0.2, 0.2]}, "grpo": {"exact": grpo}}
    learned, _, more = arithmetic_rl.claims({"start": 0.1, "ways": ways})
    assert learned["shown"] is more["shown"] is shown
    assert arithmetic_rl.claims({"start": 0.2, "ways": ways})[1]["shown"] is False  # nothing was gained


@pytest.mark.heavy
def test_the_experiment(tmp_path):
    words = [f"--out={tmp_path / 'out'}", "--size=tiny", "--seeds=2"]
    done = run(sys.executable, "-m", "experiments.arithmetic_rl", *words, XLA_FLAGS=HURRY)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["ways"]["grpo"]["steps"] == 3 and found["ways"]["sft"]["steps"] == 4
    for way in found["ways"].values():
        assert len(way["curves"]) == len(way["exact"]) == 2
        for curve, exact in zip(way["curves"], way["exact"]):
            assert curve[0] == [0, pytest.approx(found["start"])] and curve[-1] == [12, exact]
    assert (tmp_path / "out/report.html").read_text().count("<svg") == 2
