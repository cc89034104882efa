"""Training speed on one GPU beside PyTorch: benchmarks/gpu.sh (python -m benchmarks.gpu; --tiny: small shapes, on any device).

Each case is a training step in bfloat16 arithmetic with AdamW and clipping on random tokens. Its sides run one after the other
in processes of their own, so that each has the whole memory: ptft_jax as a config makes it, and PyTorch, the faster of eager and
compiled, with its fused attention and fused AdamW (of full training a plain GPT-2-like model, of LoRA transformers with PEFT). Before that
both have to compute the same function, at a small size and in float32 on the CPU: the same weights give the same logits, and over some steps
of training the same losses; else the peer's figure is void. The share of the peak is counted from the shapes
(`ModelSpec.flops_per_token`), over what a matrix product of 8192 x 8192 x 8192 reaches on the same card in the same call.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import cases as shapes
from benchmarks import peers
from benchmarks.cases import Case

SIDES = ("ptft_jax", "torch")
CHECK = "check"
WARM, ROUNDS, SECONDS = 3, 3, 1.5  # steps before timing; timed rounds, and how long each is at least


def cases(tiny: bool = False) -> dict[str, Case]:
    """By name, in the order of their worth: what does not fit into the time is left out from the end."""
    return {name: shapes.tiny(case) if tiny else case for name, case in shapes.gpu().items()}


def seconds_per_step(step: Callable[[], Any], wait: Callable[[Any], None]) -> tuple[float, float]:
    """(median over rounds, seconds of the first step, which compiles)."""
    began = time.perf_counter()
    wait(step())
    first = time.perf_counter() - began
    for _ in range(WARM):
        wait(step())
    began = time.perf_counter()
    wait(step())
    count = max(1, round(SECONDS / (time.perf_counter() - began)))
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            out = step()
        wait(out)
        found.append((time.perf_counter() - began) / count)
    return statistics.median(found), first


def peak() -> dict[str, Any]:
    """FLOPs per second of a large matrix product in bfloat16, and the card's name."""
    import jax
    import jax.numpy as jnp

    size = 8192 if jax.devices()[0].platform == "gpu" else 256
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    seconds, _ = seconds_per_step(lambda: product(a, a), jax.block_until_ready)
    return {"flops": 2 * size**3 / seconds, "device": jax.devices()[0].device_kind, "jax": jax.__version__}


def ours(case: Case) -> dict[str, Any]:
    import jax
    import numpy as np

    from benchmarks import setup

    tune = {"method": "lora", "lora": {"rank": case.lora, "targets": shapes.LINEAR}} if case.lora else None
    model = {"dtype": "bfloat16", "scan": True, **case.model} | ({"param_dtype": "bfloat16"} if case.lora else {})
    made = setup.trainer(case.shape, case.rows, tune=tune, model=model, objective=case.objective)
    state, batch = made.init(0), setup.batch(case.shape, case.rows)
    if case.packed:
        length, texts = case.shape["length"], 4
        batch["segments"] = np.tile(np.arange(length, dtype=np.int32) * texts // length + 1, (case.rows, 1))
        batch["positions"] = np.tile(np.arange(length, dtype=np.int32) % (length // texts), (case.rows, 1))
    batch = made.program.place(batch)

    def step() -> Any:
        nonlocal state
        state, metrics = made.program.train(state, batch)
        return metrics

    seconds, first = seconds_per_step(step, jax.block_until_ready)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(made.shapes))
    flops = made.model.spec.flops_per_token(case.shape["length"]) * (2 if case.lora else 3)
    total, weight = step()["loss"]
    return {
        "seconds": seconds,
        "first": first,
        "bytes": memory,
        "parameters": parameters,
        "flops_per_token": flops,
        "loss": float(total / weight),
    }


def checked(case: Case) -> dict[str, Any]:
    """`training.differences` of a case at its tiny size between ours and PyTorch's model, on the same weights and tokens."""
    from benchmarks import training

    case = shapes.tiny(case)
    side, params, tokens = training.ours(case, scan=False)
    _, make = next(iter(peers.known(case).values()))
    sides = {"scanned": side, "torch": make(case, params, tokens)}
    losses = {name: [one.read(one.step()) for _ in range(training.STEPS)] for name, one in sides.items()}
    return training.differences(sides["torch"], side, losses, "torch")


def torchs(case: Case) -> dict[str, Any]:
    """The faster of eager and compiled; where it cannot be compiled here, eager, with the reason."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    with torch.device(device):
        ids = torch.randint(case.shape["vocab"], (case.rows, case.shape["length"] + 1))
        model = _lora_of_peft(case) if case.lora else peers.gpt(case)
    found = {"eager": _torch_steps(model, ids, device, lambda function: function)}
    if device == "cuda":
        try:
            found["compiled"] = _torch_steps(model, ids, device, torch.compile)
        except Exception as e:  # its compiler lacks something on this machine
            reason = [line for line in str(e).splitlines() if line.strip()]
            found["eager"]["not compiled"] = f"{type(e).__name__}: {' '.join(reason)[:600]}"
    name, best = min(found.items(), key=lambda item: item[1]["seconds"])
    return {**best, "as": name, "torch": torch.__version__}


def _torch_steps(model: Any, ids: Any, device: str, compiled: Callable[..., Any]) -> dict[str, Any]:
    import torch
    from torch.nn import functional as F

    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(peers.groups(model), **peers.ADAMW, fused=True)

    def loss_of(rows: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            logits = model(rows[:, :-1])
            return F.cross_entropy(getattr(logits, "logits", logits).flatten(0, 1), rows[:, 1:].flatten())

    run = compiled(loss_of)

    def step() -> Any:
        loss = run(ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        return loss.detach()

    seconds, first = seconds_per_step(step, lambda _: torch.cuda.synchronize() if device == "cuda" else None)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"seconds": seconds, "first": first, "bytes": memory, "loss": float(step())}


def _lora_of_peft(case: Case) -> Any:
    import torch

    return peers.with_peft(case, peers.llama(case).to(torch.bfloat16))


def measured(name: str, side: str, tiny: bool, most: float) -> dict[str, Any]:
    """What a process of its own measures; {"error": its last line} where it fails or takes over `most` seconds."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        f"--case={name}",
        f"--side={side}",
        *(["--tiny"] if tiny else []),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"} if side == CHECK else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=most, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {most:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"error": lines[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, case: Case, found: Mapping[str, Any], top: float) -> str:
    """A line of the table."""
    mine, peer = (found.get(side, {}) for side in SIDES)
    tokens = case.rows * case.shape["length"]
    if "error" in mine:
        return f"{name:<32} {mine['error']}"
    share = mine["flops_per_token"] * tokens / mine["seconds"] / top
    cells = [
        f"{tokens / mine['seconds']:>12,.0f}",
        f"{share:>6.1%}",
        f"{mine['bytes'] / 2**30:>6.1f}",
        f"{mine['first']:>6.0f}",
    ]
    if "error" in peer:
        cells.append(f"  {peer['error']}")
    elif peer:
        cells.append(
            f"{tokens / peer['seconds']:>12,.0f} {peer['bytes'] / 2**30:>6.1f} {peer['first']:>6.0f} {peer['seconds'] / mine['seconds']:>6.2f} {peer['as']}"
        )
    return f"{name:<32} {' '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any device")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file for all that was measured")
    parser.add_argument("--minutes", type=float, default=8.0, help="cases that would begin later are left out")
    parser.add_argument("--only", default="", help="names of cases, separated by ';'")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = cases(args.tiny)
    if args.case:
        sides = {"ptft_jax": ours, "torch": torchs, CHECK: checked}
        made = peak() if args.case == "peak" else sides[args.side](known[args.case])
        print(json.dumps(made))
        return
    began = time.monotonic()

    def left() -> float:
        return args.minutes * 60 - (time.monotonic() - began)

    top = measured("peak", "ptft_jax", args.tiny, left())
    if "error" in top:
        sys.exit(f"no peak: {top['error']}")
    print(f"{top['device']}, jax {top['jax']}: {top['flops'] / 1e12:,.0f} TFLOP/s in a matrix product in bfloat16")
    columns = ("tokens/s", "peak", "GiB", "first")
    print(
        f"{'':<32} {columns[0]:>12} {columns[1]:>6} {columns[2]:>6} {columns[3]:>6} {'torch':>12} {'GiB':>6} {'first':>6} {'ratio':>6}"
    )
    results: dict[str, Any] = {"peak": top, "cases": {}}
    for name in [n for n in args.only.split(";") if n] or known:
        case, found = known[name], {}
        for side in (CHECK, *SIDES) if case.peer else SIDES[:1]:
            if left() > 0 and not (side == "torch" and found.get(CHECK, {}).get("holds") is False):
                found[side] = measured(name, side, args.tiny, left())
        if (check := found.get(CHECK, {})) and not check.get("holds"):
            found["torch"] = {"error": check.get("error") or "void: it computes something else"}
        if not found:
            print(f"{name:<32} left out: {args.minutes:g} minutes are over")
            continue
        results["cases"][name] = {**dataclasses.asdict(case), **found}
        print(row(name, case, found, top["flops"]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
