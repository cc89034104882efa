"""What is measured: training steps by their shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

GPT = dict(vocab=50304, length=1024)
LLAMA = dict(activation="silu", gated=True, norm="rms", biases=(), positions="rotary", rope_theta=5e5, kv_heads=8)
VIT = dict(norm_eps=1e-12, activation="gelu", causal=False, head="classes")
SMOLLM2 = dict(vocab=49152, length=256, layers=30, width=576, heads=9)
LIKE_SMOLLM2 = LLAMA | dict(rope_theta=1e5, kv_heads=3, mlp_width=1536, tied=True)
LINEAR = ("blocks/(attention|mlp)/.*",)


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step.

    Attributes:
      shape: "vocab" (0 of images), "length", "layers", "width", "heads".
      model: further settings of `config.model`.
      objective: settings of `config.objective`.
      lora: rank of adapters on all linear layers; 0 = all parameters train.
      packed: rows hold several texts, as segments.
      peer: whether PyTorch runs it too.
    """

    shape: Mapping[str, int]
    rows: int
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lora: int = 0
    packed: bool = False
    peer: bool = False

    @property
    def pictured(self) -> bool:
        """Whether it reads images, with a class each."""
        return "image_size" in self.model


def tiny(case: Case) -> Case:
    """The same at a size that runs in a moment anywhere."""
    shape = dict(vocab=256, length=32, layers=2, width=64, heads=8)
    if case.pictured:
        small = {**case.model, "image_size": 8, "patch_size": 4, "classes": 10}
        return dataclasses.replace(case, shape=shape | dict(vocab=0, length=5), rows=2, model=small)
    model = {name: value for name, value in case.model.items() if name != "attention"}
    if "mlp_width" in model:
        model |= {"mlp_width": 128, "kv_heads": 8 if model["kv_heads"] == 8 else 4}
    return dataclasses.replace(case, shape=shape, rows=2, model=model, objective={name: 8 for name in case.objective})


def gpu() -> dict[str, Case]:
    """Of one GPU, by name, in the order of their worth: what does not fit into the time is left out from the end."""
    small = GPT | dict(layers=12, width=768, heads=12)
    medium = GPT | dict(layers=24, width=1024, heads=16)
    large = GPT | dict(layers=24, width=2048, heads=16)
    llama_1b = dict(vocab=128256, length=1024, layers=16, width=2048, heads=32)
    llama_8b = dict(vocab=128256, length=1024, layers=32, width=4096, heads=32)
    flash = {"attention": "cudnn"}
    unrolled = flash | {"scan": False}
    return {
        "124M": Case(small, 32, unrolled, peer=True),
        "350M": Case(medium, 16, unrolled, peer=True),
        "1B LoRA": Case(llama_1b, 8, LLAMA | flash | {"mlp_width": 8192}, lora=8, peer=True),
        "1.3B": Case(large, 8, flash, peer=True),
        "8B LoRA": Case(llama_8b, 4, LLAMA | flash | {"mlp_width": 14336, "tied": False}, lora=8, peer=True),
        "124M, scanned": Case(small, 32, flash),
        "350M, scanned": Case(medium, 16, flash),
        "124M, packed": Case(small, 32, unrolled, packed=True),
        "124M, XLA attention": Case(small, 32, {"scan": False}),
        "350M, logits by 256 positions": Case(medium, 16, flash, {"chunk": 256}),
        "350M, remat=dots": Case(medium, 16, flash | {"remat": "dots"}),
        "350M, remat=full": Case(medium, 16, flash | {"remat": "full"}),
    }


def cpu() -> dict[str, Case]:
    """Of a CPU, in float32: nanoGPT's two sizes on characters, GPT-2, SmolLM2-135M with LoRA and in full, and two ViTs."""
    characters = dict(vocab=65)
    digits = VIT | dict(image_size=28, patch_size=4, channels=1, classes=10)
    photos = VIT | dict(image_size=224, patch_size=16, channels=3, classes=1000)
    named = dict(name="classification")
    return {
        "4x128": Case(characters | dict(length=64, layers=4, width=128, heads=4), 12, peer=True),
        "6x384": Case(characters | dict(length=256, layers=6, width=384, heads=6), 16, peer=True),
        "124M": Case(GPT | dict(length=512, layers=12, width=768, heads=12), 2, peer=True),
        "smollm2-lora": Case(SMOLLM2, 4, LIKE_SMOLLM2, lora=8, peer=True),
        "smollm2-full": Case(SMOLLM2, 4, LIKE_SMOLLM2, peer=True),
        "vit-4x28": Case(dict(vocab=0, length=50, layers=4, width=128, heads=4), 64, digits, named, peer=True),
        "vit-s16-224": Case(dict(vocab=0, length=197, layers=12, width=384, heads=6), 8, photos, named, peer=True),
    }
