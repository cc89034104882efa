"""The experiment of addition: what is held out, what equal compute is, what counts as shown, and a miniature of it."""

import json

import pytest

from experiments import arithmetic_rl
from experiments import verdicts as claims


def test_no_pair_of_numbers_is_in_two_parts(tmp_path):
    folder = arithmetic_rl.write_sums(tmp_path / "sums", most=6)
    pairs, count = {}, 0
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        numbers = [tuple(map(int, row["prompt"].rstrip("=").split("+"))) for row in rows]
        assert [int(row["completion"]) for row in rows] == [a + b for a, b in numbers]
        pairs[name] = {frozenset(pair) for pair in numbers}
        assert {pair[::-1] for pair in numbers} == set(numbers)
        count += len(rows)
    assert count == 36 and len(set.union(*pairs.values())) == 21
    assert {name: len(found) for name, found in pairs.items()} == {"train": 14, "validation": 2, "test": 5}
    before = (folder / "train.jsonl").stat().st_mtime_ns
    arithmetic_rl.write_sums(tmp_path / "sums", most=6)
    assert (folder / "train.jsonl").stat().st_mtime_ns == before


def test_equal_compute():
    # 3 batches that are written (1 forward pass each) and learned from (3) are 12 passes: 4 batches that are learned from.
    assert arithmetic_rl.equal_steps(3) == 4


@pytest.mark.parametrize("grpo, verdict", [([0.6, 0.7], claims.HOLDS), ([0.1, 0.9], claims.UNSHOWN)])
def test_what_is_shown(grpo, verdict):
    exact = {"start": [0.1, 0.1], "sft": [0.2, 0.2], "grpo": grpo}
    rows = arithmetic_rl.claims({way: {"exact answers": values} for way, values in exact.items()})
    assert [row["verdict"] for row in rows] == [verdict, claims.HOLDS, verdict]
