"""A training step of ours beside those of others on the same weights and tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import peers, setup, turns
from benchmarks.cases import LINEAR, Case

OURS = ("scanned", "unrolled")
# Both sides compute in float32 and sum in other orders. Untrained logits are within 1 of zero.
LOGITS, LOSSES, STEPS = 1e-3, 1e-3, 3


def ours(case: Case, scan: bool) -> tuple[peers.Side, dict[str, np.ndarray], Any]:
    """(our side, the parameters that it starts with by path, what is learned: tokens [rows, T + 1], or of images (floats [rows, C, H, W] as the
    model reads them, classes [rows]))."""
    import jax

    from ptft_jax.params.rules import flatten

    tune = {"method": "lora", "lora": {"rank": case.lora, "alpha": 2.0 * case.lora, "targets": LINEAR}}
    made = setup.trainer(
        case.shape, case.rows, scan=scan, tune=tune if case.lora else None, model=case.model, objective=case.objective
    )
    state = made.init(0)
    if case.pictured:
        from ptft_jax.model.vision import normalized

        batch = setup.images(case.model, case.rows)
        pixels = normalized(jax.numpy.asarray(batch["inputs"]), made.model.spec)
        learned: Any = np.array(pixels).transpose(0, 3, 1, 2).copy(), batch["targets"]
    else:
        batch = setup.batch(case.shape, case.rows)
        learned = np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)
    if "kv_heads" in case.model:  # as transformers has it, where a row's last token predicts nothing
        batch["weights"][:, -1] = 0
    params = {**flatten(state.trainable), **flatten(state.frozen)}
    params = {path: np.array(value) for path, value in params.items()}
    whole = made.partition.merge(state.trainable, state.frozen)
    logits = np.asarray(jax.jit(made.model)(whole, batch["inputs"][:1])[0])
    batch = made.program.place(batch)

    def step() -> Any:
        nonlocal state
        state, metrics = made.program.train(state, batch)
        return jax.block_until_ready(metrics["loss"])

    return peers.Side(step, lambda loss: float(loss[0] / loss[1]), logits), params, learned


def differences(side: peers.Side, other: peers.Side, losses: Mapping[str, list[float]], name: str) -> dict[str, Any]:
    """How far a side is from ours: the largest difference of logits, and of losses in proportion."""
    logits = float(np.abs(side.logits - other.logits).max())
    mine, theirs = (np.array(losses[one]) for one in ("scanned", name))
    loss = float(np.abs(mine / theirs - 1).max())
    return {"logits": logits, "losses": loss, "holds": bool(logits <= LOGITS and loss <= LOSSES)}


def measure(case: Case, *, seconds: float = 40.0) -> dict[str, Any]:
    """A case, all sides in turns.

    Returns:
      "sides": of each name its seconds per step (median, fastest, slowest round) and, of a peer, "check" against ours;
      "absent": peers that were not measured -> why;
      "best": the fastest peer whose check holds, "ratios": of ours, how many times as fast each is as that one.
      "void": peers that compute something else: their figures count for nothing.
    """
    sides: dict[str, peers.Side] = {}
    for name in OURS:
        sides[name], params, learned = ours(case, scan=name == "scanned")
    missing = peers.absent(case)
    for name, (_, make) in peers.known(case).items():
        if name not in missing:
            sides[name] = make(case, params, learned)
    losses: dict[str, list[float]] = {}
    for name, side in list(sides.items()):
        try:
            losses[name] = [side.read(side.step()) for _ in range(STEPS)]
        except Exception as e:  # the peer's compiler lacks something on this machine
            if not name.endswith(", compiled"):
                raise
            missing[name] = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
            del sides[name]
    checks = {name: differences(side, sides["scanned"], losses, name) for name, side in sides.items()}
    found = turns.summary(turns.alternate({name: side.step for name, side in sides.items()}, seconds=seconds))
    for name, check in checks.items():
        found[name]["check"] = check
    valid = {name: row["seconds"] for name, row in found.items() if name not in OURS and checks[name]["holds"]}
    best = min(valid, key=valid.__getitem__, default="")
    return {
        "case": dataclasses.asdict(case),
        "sides": found,
        "absent": missing,
        "void": [name for name in sides if not checks[name]["holds"]],
        "best": best,
        "ratios": {name: valid[best] / found[name]["seconds"] for name in OURS} if best else {},
    }
