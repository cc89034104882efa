"""CLIP and SigLIP whole, their towers for images and for texts, as Hugging Face writes them: configs in both directions, and name maps."""

from __future__ import annotations

from typing import Any, ClassVar

from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError
from ptft_jax.interop.config_reader import Fields, check, sizes, write_sizes
from ptft_jax.interop.image_towers import ClipVision, SiglipVision, architecture
from ptft_jax.interop.names import Model, Tensor, linear, norm

_PIXELS = ("image_mean", "image_std")
_SHARED = ("activation", "norm_eps")  # what both towers have alike here


class Clip:
    """CLIP (Radford et al. 2021)."""

    model_type, prefix, architecture = "clip", "", "CLIPModel"
    tower: ClassVar[type[ClipVision]] = ClipVision
    causal, projected = True, True
    length, words = 77, 49408  # where config.json does not say them

    def read(self, c: Fields) -> dict[str, Any]:
        architecture(c, {self.architecture: True})
        images = self.tower().read(Fields({**self._part(c, "vision_config"), "architectures": None}, c.where))
        inner = Fields({"hidden_act": self.tower.act, **self._part(c, "text_config")}, c.where)
        texts = sizes(inner, inner.get("max_position_embeddings", self.length), eps=self.tower.eps)
        for name in _SHARED:
            if texts[name] != images[name]:
                raise UserError(
                    f"{c.where}: config.json: the tower for texts has {name} {texts[name]!r}, that for images {images[name]!r}: expected the same"
                )
        vector = images["vector_width"] or images["width"]
        if not self.projected and inner.get("projection_size", texts["width"]) != vector:
            raise UserError(
                f"{c.where}: config.json: text_config.projection_size: expected {vector}, as vectors of images are"
            )
        return {
            **images,
            "vocab_size": inner.get("vocab_size", self.words),
            "text_layers": texts["layers"],
            "text_width": texts["width"],
            "text_heads": texts["heads"],
            "text_mlp_width": texts["mlp_width"],
            "text_length": texts["max_length"],
            "text_causal": self.causal,
            "pair_bias": not self.causal,
        }

    def _part(self, c: Fields, name: str) -> dict[str, Any]:
        inner = dict(c.get(name, {}))
        check(inner, c.where, f"{name}.")
        if name == "vision_config":
            inner |= {key: c.values[key] for key in _PIXELS if key in c.values}
            inner |= {"projection_dim": c.get("projection_dim", 512)} if self.projected else {}
        return inner

    def write(self, m: Model) -> dict[str, Any]:
        if not m["text_layers"]:
            raise UserError(
                f"{self.model_type} has a tower for texts; {self.tower.model_type} is that for images alone"
            )
        images = self.tower().write(m)
        own = {
            **m, "width": m["text_width"], "layers": m["text_layers"], "heads": m["text_heads"], "mlp_width": m["text_mlp_width"]
        }  # fmt: skip
        texts = {**write_sizes(own), "vocab_size": m["vocab_size"], "max_position_embeddings": m["text_length"]}
        projected = {"projection_dim": m["vector_width"]} if self.projected else {}
        texts |= projected or {"projection_size": m["width"]}
        kinds = (self.tower.model_type, self.tower.model_type.replace("vision", "text"))
        return {
            **{name: images.pop(name) for name in _PIXELS},
            **projected,
            "vision_config": {"model_type": kinds[0], **images},
            "text_config": {"model_type": kinds[1], **texts},
        }

    def tensors(self, m: Model) -> list[Tensor]:
        ours, p = "head/texts", "text_model."
        found = [
            *self.tower().tensors(m),
            Tensor(f"{ours}/embed/tokens/embedding", p + "embeddings.token_embedding.weight"),
            Tensor(f"{ours}/embed/positions/embedding", p + "embeddings.position_embedding.weight"),
            *norm(f"{ours}/norm", p + "final_layer_norm", True),
            *self._ends(ours, p),
        ]
        for n in range(m["text_layers"]):
            mine, theirs = f"{ours}/layer_{n}", f"{p}encoder.layers.{n}"
            found += norm(f"{mine}/attention_norm", f"{theirs}.layer_norm1", True)
            found += norm(f"{mine}/mlp_norm", f"{theirs}.layer_norm2", True)
            for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
                found += linear(f"{mine}/attention/{name}", f"{theirs}.self_attn.{short}_proj", True)
            found += linear(f"{mine}/mlp/up", f"{theirs}.mlp.fc1", True)
            found += linear(f"{mine}/mlp/down", f"{theirs}.mlp.fc2", True)
        return found

    def _ends(self, ours: str, p: str) -> list[Tensor]:
        return [
            *linear(f"{ours}/projection", "text_projection", False),
            Tensor(f"{ours}/scale", "logit_scale", "number"),
        ]

    def ties(self, m: Model) -> dict[str, str]:
        return {}


class Siglip(Clip):
    """SigLIP (Zhai et al. 2023)."""

    model_type, architecture = "siglip", "SiglipModel"
    tower: ClassVar[type[ClipVision]] = SiglipVision
    causal, projected = False, False
    length, words = 64, 32000

    def _ends(self, ours: str, p: str) -> list[Tensor]:
        return [
            *linear(f"{ours}/projection", p + "head", True),
            Tensor(f"{ours}/scale", "logit_scale"),
            Tensor(f"{ours}/bias", "logit_bias"),
        ]


def refuse_ends(fields: Model, tokenizer: Tokenizer) -> None:
    """Raises UserError where transformers' CLIP would look for the end of a text, which it knows by its number, at another place."""
    if fields["text_causal"] and tokenizer.end_id == 2:
        raise UserError(
            "--to=hf: the token that ends texts is number 2, where transformers' CLIP takes the largest token of a text for its end: "
            "there is no file that it would read as this model does"
        )
    if fields["text_causal"] and tokenizer.end_id in tokenizer.prefix_ids:
        raise UserError(
            f"--to=hf: {tokenizer.origin}: texts begin with the token that ends them, number {tokenizer.end_id}, where transformers' CLIP "
            "takes the first of these for the end: there is no file that it would read as this model does"
        )
