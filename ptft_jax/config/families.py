"""The families of models that can be imported and exported, by their `model_type`. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.located import located
from ptft_jax.errors import UserError

_HERE = "ptft_jax.interop"


@dataclasses.dataclass(frozen=True)
class FamilySpec:
    """A family of models as another library writes them.

    Attributes:
      family: a class as `ptft_jax.interop.gpts.GPT2`, or its place, "package.module:name". It is made without arguments.
    """

    family: Any

    def build(self) -> Any:
        """The family."""
        made = located(self.family)
        try:
            return made()
        except TypeError as e:
            raise UserError(
                f"config.plugins: FAMILIES: {made!r} is no class that is made without arguments: {e}"
            ) from e


# In the order in which they are tried for a model of ours: the plainer first.
FAMILIES: Mapping[str, FamilySpec] = {
    "gpt2": FamilySpec(f"{_HERE}.gpts:GPT2"),
    "llama": FamilySpec(f"{_HERE}.llamas:Llama"),
    "mistral": FamilySpec(f"{_HERE}.llamas:Mistral"),
    "qwen2": FamilySpec(f"{_HERE}.llamas:Qwen2"),
    "qwen3": FamilySpec(f"{_HERE}.llamas:Qwen3"),
    "mixtral": FamilySpec(f"{_HERE}.llamas:Mixtral"),
    "qwen3_moe": FamilySpec(f"{_HERE}.llamas:Qwen3Moe"),
    "smollm3": FamilySpec(f"{_HERE}.llamas:SmolLM3"),
    "gemma": FamilySpec(f"{_HERE}.gemmas:Gemma"),
    "gemma2": FamilySpec(f"{_HERE}.gemmas:Gemma2"),
    "gemma3_text": FamilySpec(f"{_HERE}.gemmas:Gemma3"),
    "olmo2": FamilySpec(f"{_HERE}.llamas:Olmo2"),
    "phi3": FamilySpec(f"{_HERE}.llamas:Phi3"),
    "gpt_neox": FamilySpec(f"{_HERE}.gpts:GPTNeoX"),
    "bert": FamilySpec(f"{_HERE}.encoders:Bert"),
    "roberta": FamilySpec(f"{_HERE}.encoders:Roberta"),
    "vit": FamilySpec(f"{_HERE}.encoders:ViT"),
    "deit": FamilySpec(f"{_HERE}.encoders:DeiT"),
    "vit_mae": FamilySpec(f"{_HERE}.encoders:ViTMAE"),
    "dinov2": FamilySpec(f"{_HERE}.image_towers:Dinov2"),
    "dinov2_with_registers": FamilySpec(f"{_HERE}.image_towers:Dinov2WithRegisters"),
    "clip_vision_model": FamilySpec(f"{_HERE}.image_towers:ClipVision"),
    "siglip_vision_model": FamilySpec(f"{_HERE}.image_towers:SiglipVision"),
    "clip": FamilySpec(f"{_HERE}.image_text:Clip"),
    "siglip": FamilySpec(f"{_HERE}.image_text:Siglip"),
}
