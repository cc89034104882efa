"""The model card that goes with exported weights."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from ptft_jax.errors import few


def text(exported: Any, dtype: str, summary: Mapping[str, Any]) -> str:
    """README.md: where the model is from, what was done to it, what it measures, how to load it."""
    base = next((e["reference"].partition(":")[2] for e in exported.chain if "model_type" in e), "")
    lines = ["---", "library_name: transformers", "tags: [ptft_jax]"]
    lines += [f"base_model: {base}"] if base and not base.startswith("/") else []
    lines += [
        "---",
        "",
        "# Model card",
        "",
        f"A model of the family `{exported.family.model_type}`, written by ptft_jax in {dtype}.",
        "",
    ]
    if exported.chain:
        lines += ["## Lineage, nearest first", "", "| from | step | fingerprint |", "|---|---|---|"]
        # Names, not the paths of somebody's disk.
        rows = [(pathlib.PurePath(entry.get("reference") or entry["workdir"]).name, entry) for entry in exported.chain]
        lines += [f"| `{name}` | {entry['step']} | `{entry['fingerprint'] or '-'}` |" for name, entry in rows]
        lines.append("")
    if exported.classes:
        lines += ["## Classes", "", few((f"{n} = {name}" for n, name in enumerate(exported.classes)), 100), ""]
    if summary:
        facts = ("best_step", "tokens_to_best", "train_tokens", "seed")
        lines += ["## Training", "", *(f"- {name}: {summary[name]}" for name in facts), ""]
        lines += ["| metric | before | after |", "|---|---|---|"]
        before, after = summary.get("before", {}), summary.get("after", {})
        lines += [f"| {name} | {_number(before.get(name))} | {_number(value)} |" for name, value in after.items()]
        lines.append("")
    architecture = exported.config(dtype)["architectures"][0]
    lines += [
        "## Use",
        "",
        "```python",
        f"from transformers import {architecture}",
        f'model = {architecture}.from_pretrained("PATH")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
