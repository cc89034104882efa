"""What goes with exported weights: the tokenizer's files in Hugging Face's form, and the model card."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError, few


def tokenizer_files(tokenizer: tok.Tokenizer, max_length: int) -> dict[str, bytes]:
    """A tokenizer's files as other tools read them.

    Byte tokenizers are written as a byte-level BPE without merges, which gives the same ids. What the model's
    generation_config.json says is written by the export itself.

    Raises:
      UserError: a kind that has no such form.
    """
    files = {name: data for name, data in tokenizer.files().items() if name != "generation_config.json"}
    if isinstance(tokenizer, tok.ByteTokenizer):
        files[tok.FILE] = _bytes_as_bpe(tokenizer)
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    config.setdefault("model_max_length", max_length)
    if tok.FILE in files:
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        ends = {i: text for text, i in tokenizer.special.items()}
        if tokenizer.end_id in ends:
            config.setdefault("eos_token", ends[tokenizer.end_id])
        config.setdefault("clean_up_tokenization_spaces", False)
    elif "tokenizer_class" not in config:
        raise UserError(
            f"{tokenizer.origin}: its kind has no form that other tools read without a tokenizer_config.json"
        )
    return {**files, "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode()}


def _bytes_as_bpe(tokenizer: tok.ByteTokenizer) -> bytes:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from ptft_jax.data.tokenizers.huggingface import byte_alphabet

    whole = tokenizers.Tokenizer(models.BPE(vocab={char: byte for byte, char in byte_alphabet().items()}, merges=[]))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole.decoder = decoders.ByteLevel()
    # In the order of their ids, which the library gives from 256 on.
    special = sorted(tokenizer.special.items(), key=lambda item: item[1])
    whole.add_special_tokens([text for text, _ in special])
    if {text: whole.token_to_id(text) for text, _ in special} != tokenizer.special:
        raise UserError(f"{tokenizer.origin}: its special tokens do not follow its bytes")
    return whole.to_str().encode()


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
