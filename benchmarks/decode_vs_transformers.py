"""Decoding beside transformers.generate, in one run: python -m benchmarks.decode_vs_transformers (needs torch and transformers).

Both continue the same prompts with the same random weights of SmolLM2-135M's shape, greedily, in float32. They first have to write
the same tokens. Then they take turns, and the ratio of the medians is the result (above 1 = ours is faster). A time is that of
a token: a text of `NEW` tokens less one of a single token, which is reading the prompt, divided by the rest.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import cases, peers, setup
from benchmarks.cases import Case
from ptft_jax.verbs.command import prepare_jax

CASE = Case(cases.SMOLLM2 | dict(length=2176), 1, cases.LIKE_SMOLLM2)
CASES = {  # rows, tokens of a prompt, new tokens
    "batch 1": (1, 64, 33),
    "batch 16": (16, 64, 17),
    "context 2,000": (1, 2000, 17),
}


def models(case: Case = CASE, *, scan: bool = True) -> tuple[tuple[Any, Any], Any]:
    """(our model and parameters), and transformers' model with the same weights."""
    import jax
    import numpy as np

    from ptft_jax.params.rules import flatten

    spread = {"init_std": 0.05}  # so that likeliest tokens stand out from rounding
    model = setup.trainer(case.shape, case.rows, scan=scan, model={**case.model, **spread}).model
    params = jax.jit(model.init)(jax.random.key(0))
    peer = peers.loaded_llama(case, {path: np.asarray(array) for path, array in flatten(params).items()}).eval()
    peer.config.use_cache = peer.generation_config.use_cache = True
    peer.generation_config.eos_token_id = None
    return (model, params), peer


def sides(ours: tuple[Any, Any], peer: Any, prompts: Any) -> dict[str, Callable[[int], list[list[int]]]]:
    """Functions from how many new tokens there are to be to these, by name."""
    import torch

    from ptft_jax.model.decode import Sampling, generate

    def run_ours(new: int) -> list[list[int]]:
        rows = generate(*ours, prompts.tolist(), max_new_tokens=new, sampling=Sampling(temperature=0))
        return [row.ids for row in rows]

    def run_peer(new: int) -> list[list[int]]:
        tokens = torch.tensor(prompts)
        with torch.inference_mode():
            made = peer.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, min_new_tokens=new, do_sample=False
            )
        return made[:, prompts.shape[1] :].tolist()

    return {"ours": run_ours, "peer": run_peer}


def measure(
    names: Sequence[str] = tuple(CASES), *, case: Case = CASE, rounds: int = 5, scan: bool = True
) -> list[dict[str, Any]]:
    """A row {case, ours_ms, peer_ms, ratio, ours_prompt_ms, peer_prompt_ms} for each of `CASES` that is named: medians of the time
    of a token, and of the prompt with the first one.

    Raises:
      SystemExit: the two do not write the same tokens.
    """
    import numpy as np

    from ptft_jax.model.decode import laid_out

    (model, params), peer = models(case, scan=scan)
    ours = model, laid_out(params)  # once, as verbs do
    rows = []
    for name in names:
        size, length, new = CASES[name]
        prompts = np.random.default_rng(0).integers(3, case.shape["vocab"], (size, length))
        runs = sides(ours, peer, prompts)
        written = {side: (run(1), run(new))[1] for side, run in runs.items()}  # this warms up and compiles, too
        if written["ours"] != written["peer"]:
            raise SystemExit(f"{name}: the two do not write the same tokens, so their times say nothing")
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in runs}
        for _ in range(rounds):
            for side, run in runs.items():
                began = time.perf_counter()
                run(1)
                middle = time.perf_counter()
                run(new)
                prompt, whole = middle - began, time.perf_counter() - middle
                times[side].append(((whole - prompt) / (new - 1) * 1e3, prompt * 1e3))
        token, prompt = ({side: statistics.median(t[i] for t in row) for side, row in times.items()} for i in range(2))
        rows.append(
            {
                "case": name,
                "ours_ms": token["ours"],
                "peer_ms": token["peer"],
                "ratio": token["peer"] / token["ours"],
                "ours_prompt_ms": prompt["ours"],
                "peer_prompt_ms": prompt["peer"],
            }
        )
    return rows


def main() -> None:
    prepare_jax()
    for row in measure(sys.argv[1:] or tuple(CASES)):
        print(
            f"{row['case']:<14} {row['ours_ms']:7.1f} ms per token, transformers {row['peer_ms']:7.1f}: {row['ratio']:.2f} times as "
            f"fast (prompt and first token: {row['ours_prompt_ms']:.0f} and {row['peer_prompt_ms']:.0f} ms)"
        )


if __name__ == "__main__":
    main()
