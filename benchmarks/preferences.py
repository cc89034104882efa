"""A step of DPO beside TRL's: python -m benchmarks.preferences (torch, transformers, peft and trl; --alone leaves the second part out).

A model of SmolLM2-135M's shape (with --layers=N of so many layers) and random weights learns pairs of random answers by LoRA, in
float32; the reference is the model without the adapter. First, what the compiler says of memory: a step of DPO beside one of
fine-tuning on the same positions. Then TRL's `DPOTrainer` with PEFT on the same weights and pairs: both have to compute the same losses
first, then they take turns, and the ratio of the medians is the result (above 1 = ours is faster). The most memory is that of a
process of its own for each side, as Linux counts it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import cases, peers, setup, turns
from benchmarks.cases import Case
from ptft_jax.verbs.command import prepare_jax

ANSWER, CHUNK, STEPS, TOLERANCE = 128, 64, 3, 1e-3
CASE = Case(cases.SMOLLM2 | dict(length=2 * ANSWER), 4, cases.LIKE_SMOLLM2, lora=8)  # a pair in each row


def made(case: Case, objective: Mapping[str, Any]) -> Any:
    tune = {"method": "lora", "lora": {"rank": case.lora, "alpha": 2.0 * case.lora, "targets": cases.LINEAR}}
    options = {"tune": tune, "model": case.model, "objective": objective}
    return setup.trainer(case.shape, case.rows, scan=True, tuned=True, **options)


def pairs(case: Case) -> np.ndarray:
    """Random prompts with two answers each, the better one first: int32 [pairs, 2, ids]. Half of the ids are the prompt."""
    each = case.shape["length"] // 2 + 1
    tokens = np.random.default_rng(0).integers(2, case.shape["vocab"], (case.rows, 2, each)).astype(np.int32)
    tokens[:, 1, : each // 2] = tokens[:, 0, : each // 2]
    return tokens


def batch(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """A row per pair, as `objective.name=dpo` has it."""
    count, _, each = tokens.shape
    answered = np.arange(each - 1) >= each // 2 - 1
    shape = (count, 2, each - 1)
    rows = {
        "inputs": tokens[..., :-1],
        "targets": tokens[..., 1:],
        "weights": np.broadcast_to(answered.astype(np.float32), shape),
        "positions": np.broadcast_to(np.arange(each - 1, dtype=np.int32), shape),
        "segments": np.broadcast_to(np.array([[1], [2]], np.int32), shape),
    }
    return {
        **{name: value.reshape(count, -1) for name, value in rows.items()},
        "pairs": np.ones((count, 1), np.float32),
    }


def ours(
    case: Case, tokens: np.ndarray, objective: Mapping[str, Any]
) -> tuple[Callable[[], float], dict[str, np.ndarray]]:
    """(what makes a step and gives its loss, our parameters at the start by path)."""
    import jax

    from ptft_jax.params.rules import flatten

    trainer = made(case, objective)
    state, placed = trainer.init(0), trainer.program.place(batch(tokens))
    params = {path: np.array(value) for path, value in {**flatten(state.trainable), **flatten(state.frozen)}.items()}

    def step() -> float:
        nonlocal state
        state, metrics = trainer.program.train(state, placed)
        total, weight = jax.block_until_ready(metrics["loss"])
        return float(total / weight)

    return step, params


def of_trl(case: Case, model: Any, tokens: np.ndarray) -> Callable[[], float]:
    import datasets
    import torch
    import trl

    half = tokens.shape[-1] // 2
    words = datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["a"], "rejected": ["b"]})
    args = trl.DPOConfig(**peers.trainer_options(case.rows), beta=0.1, max_length=None, gradient_checkpointing=False)
    trainer = trl.DPOTrainer(model=model, args=args, train_dataset=words, processing_class=peers.two_words())
    rows = torch.tensor(np.concatenate([tokens[:, 0], tokens[:, 1]])).long()
    answers = torch.zeros_like(rows)
    answers[:, half:] = 1
    given = {"input_ids": rows, "attention_mask": torch.ones_like(rows), "completion_mask": answers}
    step = peers.trainer_step(trainer, given)
    return lambda: float(step())


def memory(case: Case) -> dict[str, dict[str, float]]:
    """MiB of the compiled step, by objective: "temporaries", and "arguments" (parameters, moments and the batch)."""
    from ptft_jax.parallel import cost

    tokens, found = pairs(case), {}
    for name, objective in {
        "fine-tuning": {"name": "causal_lm"},
        "DPO": {"name": "dpo"},
        f"fine-tuning, {CHUNK} positions at a time": {"name": "causal_lm", "chunk": CHUNK},
        f"DPO, {CHUNK} positions at a time": {"name": "dpo", "chunk": CHUNK},
    }.items():
        trainer = made(case, objective)
        rows = batch(tokens)
        if objective["name"] == "causal_lm":
            del rows["pairs"]
        told = cost.memory(cost.executable(trainer.program.train, trainer.init(0), trainer.program.place(rows)))
        found[name] = {"temporaries": told["temporary_bytes"] / 2**20, "arguments": told["argument_bytes"] / 2**20}
    return found


def beside(case: Case, seconds: float = 60.0) -> dict[str, Any]:
    """{"losses": of each side, "sides": seconds per step, "ratio"}. Raises AssertionError where the losses differ."""
    tokens = pairs(case)
    mine, params = ours(case, tokens, {"name": "dpo"})
    sides = {"ours": mine, "TRL": of_trl(case, peers.loaded_llama(case, params), tokens)}
    losses = {name: [step() for _ in range(STEPS)] for name, step in sides.items()}
    np.testing.assert_allclose(losses["ours"], losses["TRL"], rtol=TOLERANCE)
    found = turns.summary(turns.alternate(sides, seconds=seconds))
    return {"losses": losses, "sides": found, "ratio": found["TRL"]["seconds"] / found["ours"]["seconds"]}


def peak(case: Case, side: str) -> float:
    """MiB that this process had at most, after some steps of one side."""
    tokens = pairs(case)
    if side == "TRL":
        step = of_trl(case, peers.with_peft(case, peers.llama(case)), tokens)
    else:
        step, _ = ours(case, tokens, {"name": "dpo"})
    for _ in range(STEPS):
        step()
    status = pathlib.Path("/proc/self/status").read_text()  # `ru_maxrss` would have the caller's in it
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def main() -> None:
    prepare_jax()
    case = cases.tiny(CASE) if "--tiny" in sys.argv else CASE
    if layers := [int(word.partition("=")[2]) for word in sys.argv if word.startswith("--layers=")]:
        case = dataclasses.replace(case, shape=case.shape | {"layers": layers[0]})
    if side := [word.partition("=")[2] for word in sys.argv if word.startswith("--peak=")]:
        print(f"{peak(case, side[0]):.0f}")
        return
    sizes = memory(case)
    for name, row in sizes.items():
        print(f"{name}: {row['temporaries']:.0f} MiB of temporaries beside {row['arguments']:.0f} MiB of arguments")
    if "--alone" in sys.argv:
        return
    found = beside(case)
    for name, row in found["sides"].items():
        print(f"{name}: {row['seconds']:.3f} s per step, {row['low']:.3f} to {row['high']:.3f}")
    print(f"TRL over ours: {found['ratio']:.2f}; first losses {found['losses']}")
    for name in found["sides"]:
        words = [sys.executable, "-m", "benchmarks.preferences", f"--peak={name}", *sys.argv[1:]]
        print(f"{name}: {subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()} MiB at most")


if __name__ == "__main__":
    main()
