"""Writes docs/models.md from what the live comparisons found.

PTFT_PARITY_RESULTS=build/parity python -m pytest tests/interop -m live
python -m tests.parity.models_table build/parity docs/models.md
"""

import json
import pathlib
import sys

from ptft_jax.interop import gguf_layout
from tests.parity.families import CASES

_HEAD = """# Models

Made by `tests/parity/models_table.py` from the live comparisons (`make live`); do not edit.

Every row is a small model with random parameters, norms and biases among them, made so that each mechanism acts: windows
shorter than the sequences, several kinds of layers, positions beyond the trained length. Numbers are the largest
difference of logits over the largest logit, in float32:

- **import**: transformers' model read here (`hf:`), over plain, padded (left and right), packed and cached inputs. Where
  stretched positions depend on the longest row, plain and right-padded only.
- **export**: a model with random parameters of ours, written by `ptft export`, loaded by transformers. The tensors of an
  import, exported, are besides the same bits under the same names, and classes are called alike (`id2label`).
- **peft**: the largest over LoRA, also of embeddings, rsLoRA, DoRA, IA3, OFT, prompts, prefixes and gated prefixes where
  compared, theirs read here and ours loaded by PEFT.
- **gguf**: "bits" where `ptft export --to=gguf` writes the family and every value read back is the same bit for bit in
  float32, float16 and bfloat16. transformers' own GGUF loader, where it knows the family (Llama, Qwen2, Qwen3 and its MoE,
  Gemma 2 and 3, Phi-3, GPT-2), gives from such files the logits of the original.

| case | class of transformers | `model_type` | import | export | peft | gguf |
|---|---|---|---|---|---|---|
"""


def main(folder, out):
    """Raises AssertionError where a case has no result."""
    rows = [json.loads(line) for path in pathlib.Path(folder).glob("*.jsonl") for line in path.read_text().splitlines()]
    found = {}
    for row in rows:
        key = row["case"], row["column"]
        found[key] = max(found.get(key, 0.0), row["value"])
    lines = []
    for case in CASES:
        assert (case.name, "import") in found and (case.name, "export") in found, case.name
        kind = next(row["model_type"] for row in rows if row["case"] == case.name and row.get("model_type"))
        cells = [_number(found.get((case.name, column))) for column in ("import", "export", "peft")]
        cells.append("bits" if kind in gguf_layout.layouts() else "-")
        lines.append(f"| {case.name} | {case.model} | `{kind}` | {' | '.join(cells)} |")
    pathlib.Path(out).write_text(_HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def _number(value):
    return "-" if value is None else f"{value:.0e}"


if __name__ == "__main__":
    main(*sys.argv[1:])
