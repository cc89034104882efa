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

from ptft_jax.verbs.command import prepare_jax

SHAPE = dict(vocab=49152, length=2176, layers=30, width=576, heads=9, kv_heads=3, mlp=1536)
CASES = {  # rows, tokens of a prompt, new tokens
    "batch 1": (1, 64, 33),
    "batch 16": (16, 64, 17),
    "context 2,000": (1, 2000, 17),
}


def models(shape: dict[str, int] = SHAPE, *, scan: bool = True) -> tuple[tuple[Any, Any], Any]:
    """(our model and parameters), and transformers' model with the same weights."""
    import jax.numpy as jnp
    import numpy as np
    import torch
    import transformers

    from ptft_jax.model.spec import ModelSpec
    from ptft_jax.model.transformer import Transformer

    torch.manual_seed(0)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=shape["vocab"],
            hidden_size=shape["width"],
            intermediate_size=shape["mlp"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            max_position_embeddings=shape["length"],
            tie_word_embeddings=True,
            initializer_range=0.05,  # so that likeliest tokens stand out from rounding
            pad_token_id=0,
            eos_token_id=None,
        )
    ).eval()
    found = {name: p.detach().numpy() for name, p in peer.named_parameters()}
    names = {
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.o_proj",
        "mlp/gate": "mlp.gate_proj",
        "mlp/up": "mlp.up_proj",
        "mlp/down": "mlp.down_proj",
    }

    def stacked(name: str, transpose: bool) -> Any:
        rows = [found[f"model.layers.{i}.{name}.weight"] for i in range(shape["layers"])]
        return jnp.asarray(np.stack([row.T if transpose else row for row in rows]))

    blocks: dict[str, Any] = {"attention": {}, "mlp": {}}
    for ours, theirs in names.items():
        part, layer = ours.split("/")
        blocks[part][layer] = {"kernel": stacked(theirs, True)}
    blocks["attention_norm"] = {"scale": stacked("input_layernorm", False)}
    blocks["mlp_norm"] = {"scale": stacked("post_attention_layernorm", False)}
    params = {
        "embed": {"tokens": {"embedding": jnp.asarray(found["model.embed_tokens.weight"])}},
        "blocks": blocks,
        "final_norm": {"scale": jnp.asarray(found["model.norm.weight"])},
    }
    spec = ModelSpec(
        vocab_size=shape["vocab"],
        max_length=shape["length"],
        layers=shape["layers"],
        width=shape["width"],
        heads=shape["heads"],
        kv_heads=shape["kv_heads"],
        mlp_width=shape["mlp"],
        activation="silu",
        gated=True,
        norm="rms",
        norm_eps=peer.config.rms_norm_eps,
        positions="rotary",
        biases=(),
        scan=scan,
    )
    return (Transformer(spec), params), peer


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
    cases: Sequence[str] = tuple(CASES), *, shape: dict[str, int] = SHAPE, rounds: int = 5, scan: bool = True
) -> list[dict[str, Any]]:
    """A row {case, ours_ms, peer_ms, ratio, ours_prompt_ms, peer_prompt_ms} for each of `CASES` that is named: medians of the time
    of a token, and of the prompt with the first one.

    Raises:
      SystemExit: the two do not write the same tokens.
    """
    import numpy as np

    from ptft_jax.model.transformer import apart

    (model, params), peer = models(shape, scan=scan)
    ours = model, apart(params)  # once, as verbs do
    rows = []
    for case in cases:
        size, length, new = CASES[case]
        prompts = np.random.default_rng(0).integers(3, shape["vocab"], (size, length))
        runs = sides(ours, peer, prompts)
        written = {name: (run(1), run(new))[1] for name, run in runs.items()}  # this warms up and compiles, too
        if written["ours"] != written["peer"]:
            raise SystemExit(f"{case}: the two do not write the same tokens, so their times say nothing")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run(1)
                middle = time.perf_counter()
                run(new)
                prompt, whole = middle - began, time.perf_counter() - middle
                times[name].append(((whole - prompt) / (new - 1) * 1e3, prompt * 1e3))
        token, prompt = ({name: statistics.median(t[i] for t in row) for name, row in times.items()} for i in range(2))
        rows.append(
            {
                "case": case,
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
