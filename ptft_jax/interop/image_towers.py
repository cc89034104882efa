"""DINOv2, and the towers for images of CLIP and SigLIP alone, as Hugging Face writes them: configs in both directions, and name maps."""

from __future__ import annotations

from typing import Any, ClassVar

from ptft_jax.interop import labels
from ptft_jax.interop.config_reader import Fields, sizes, write_sizes
from ptft_jax.interop.encoders import architecture, images_of, write_images
from ptft_jax.interop.names import Model, Part, Tensor, linear, norm

_BIASES = ("qkv", "out", "mlp", "norm")
_MOST_RATIO = 64


class Dinov2:
    """ViT with factors on what its sublayers add, with a gated MLP or a plain one (Oquab et al. 2023): with a head for classes that reads the
    class token and the mean of the patches, or bare, its class token the vector of an image."""

    model_type, prefix, registered = "dinov2", "dinov2.", False
    architectures: ClassVar = {"Dinov2ForImageClassification": "classes", "Dinov2Model": "vector"}
    architecture = "Dinov2ForImageClassification"
    unused = r"(.*\.)?embeddings\.mask_token"  # of its pre-training

    def architecture_of(self, m: Model) -> str:
        return next((name for name, head in self.architectures.items() if head == m["head"]), self.architecture)

    def read(self, c: Fields) -> dict[str, Any]:
        head = self.architectures[architecture(c, self.architectures)]
        gated, images = bool(c.get("use_swiglu_ffn", False)), images_of(c)
        width, registers = c.need("hidden_size"), c.get("num_register_tokens", 4) if self.registered else 0
        mlp = _hidden(width, c.get("mlp_ratio", 4), gated)
        values = {"hidden_act": "gelu", **c.values, "intermediate_size": mlp}
        length = (images["image_size"] // images["patch_size"]) ** 2 + 1 + registers
        return {
            **sizes(Fields(values, c.where), length, eps=1e-6),
            **images,
            **({"activation": "silu"} if gated else {}),
            "gated": gated,
            "layer_scale": c.get("layerscale_value", 1.0),
            "registers": registers,
            "biases": _BIASES if c.get("qkv_bias", True) else _BIASES[1:],
            "head": head,
            "pooling": "both" if head == "classes" else "token",
            **({"classes": labels.read(c)[0]} if head == "classes" else {}),
        }

    def write(self, m: Model) -> dict[str, Any]:
        own = write_sizes(m)
        own.pop("intermediate_size")
        fitting = (n for n in range(1, _MOST_RATIO) if _hidden(m["width"], n, m["gated"]) == m["mlp_width"])
        return {
            **own,
            **write_images(m),
            "mlp_ratio": next(fitting, max(round(m["mlp_width"] / m["width"]), 1)),
            "hidden_act": "gelu" if m["gated"] else own["hidden_act"],
            "use_swiglu_ffn": m["gated"],
            "layerscale_value": m["layer_scale"],
            "qkv_bias": "qkv" in m["biases"],
            **({"num_register_tokens": m["registers"]} if self.registered else {"use_mask_token": False}),
            **(labels.write((), m["classes"]) if m["head"] == "classes" else {}),
        }

    def tensors(self, m: Model) -> list[Tensor]:
        p = self.prefix if m["head"] == "classes" else ""
        layer = p + "encoder.layer.{layer}."
        found = [
            Tensor("embed/class_token", p + "embeddings.cls_token", "row"),
            Tensor("embed/positions/embedding", p + "embeddings.position_embeddings", "rows"),
            Tensor("embed/patches/kernel", p + "embeddings.patch_embeddings.projection.weight", "patches"),
            Tensor("embed/patches/bias", p + "embeddings.patch_embeddings.projection.bias"),
            *norm("blocks/attention_norm", layer + "norm1", True),
            *norm("blocks/mlp_norm", layer + "norm2", True),
            *norm("final_norm", p + "layernorm", True),
            Tensor("blocks/attention_scale/scale", layer + "layer_scale1.lambda1"),
            Tensor("blocks/mlp_scale/scale", layer + "layer_scale2.lambda1"),
        ]
        if m["registers"]:
            found.append(Tensor("embed/registers", p + "embeddings.register_tokens", "rows"))
        for ours in ("query", "key", "value"):
            found += linear(f"blocks/attention/{ours}", f"{layer}attention.attention.{ours}", "qkv" in m["biases"])
        found += linear("blocks/attention/out", layer + "attention.output.dense", True)
        if m["gated"]:
            size, theirs = m["mlp_width"], layer + "mlp.weights_in"
            found += linear("blocks/mlp/gate", theirs, True, Part(0, size))
            found += linear("blocks/mlp/up", theirs, True, Part(size, size))
            found += linear("blocks/mlp/down", layer + "mlp.weights_out", True)
        else:
            found += linear("blocks/mlp/up", layer + "mlp.fc1", True)
            found += linear("blocks/mlp/down", layer + "mlp.fc2", True)
        return [*found, *(linear("head/classes", "classifier", True) if m["head"] == "classes" else [])]

    def ties(self, m: Model) -> dict[str, str]:
        return {}


class Dinov2WithRegisters(Dinov2):
    """With learned tokens that have no place (Darcet et al. 2023)."""

    model_type, prefix, registered = "dinov2_with_registers", "dinov2_with_registers.", True
    architectures: ClassVar = {"Dinov2WithRegistersForImageClassification": "classes", "Dinov2WithRegistersModel": "vector"}  # fmt: skip
    architecture = "Dinov2WithRegistersForImageClassification"


def _hidden(width: int, ratio: float, gated: bool) -> int:
    """The hidden size of an MLP: of a gated one two thirds, rounded up to a multiple of 8."""
    size = int(width * ratio)
    return (int(size * 2 / 3) + 7) // 8 * 8 if gated else size


class ClipVision:
    """CLIP's tower for images (Radford et al. 2021): its class token, projected or not, is the vector of an image."""

    model_type, prefix = "clip_vision_model", "vision_model."
    architectures: ClassVar = {"CLIPVisionModelWithProjection": True, "CLIPVisionModel": False}
    architecture, eps, act = "CLIPVisionModelWithProjection", 1e-5, "quick_gelu"
    # Of a whole CLIP or SigLIP what is not its tower for images.
    unused = r"text_model\..*|text_projection\..*|logit_(scale|bias)"

    def architecture_of(self, m: Model) -> str:
        return "CLIPVisionModelWithProjection" if m["vector_width"] else "CLIPVisionModel"

    def read(self, c: Fields) -> dict[str, Any]:
        projected = self.architectures[architecture(c, self.architectures)]
        return {**self._tower(c), "vector_width": c.get("projection_dim", 512) if projected else 0}

    def _tower(self, c: Fields) -> dict[str, Any]:
        images = images_of(c)
        length = (images["image_size"] // images["patch_size"]) ** 2 + 1
        return {
            **sizes(Fields({"hidden_act": self.act, **c.values}, c.where), length, eps=self.eps),
            **images,
            "biases": _BIASES,
            "embedding_norm": True,
            "patch_bias": False,
            "head": "vector",
            "pooling": "token",
        }

    def write(self, m: Model) -> dict[str, Any]:
        projected = {"projection_dim": m["vector_width"]} if m["vector_width"] else {}
        return {**write_sizes(m), **write_images(m), **projected}

    def tensors(self, m: Model) -> list[Tensor]:
        p = self.prefix
        found = [
            Tensor("embed/class_token", p + "embeddings.class_embedding"),
            *norm("embed/norm", p + "pre_layrnorm", True),
            *self._shared(),
        ]
        return [*found, *(linear("head/projection", "visual_projection", False) if m["vector_width"] else [])]

    def _shared(self) -> list[Tensor]:
        p, layer = self.prefix, self.prefix + "encoder.layers.{layer}."
        found = [
            Tensor("embed/positions/embedding", p + "embeddings.position_embedding.weight"),
            Tensor("embed/patches/kernel", p + "embeddings.patch_embedding.weight", "patches"),
            *norm("blocks/attention_norm", layer + "layer_norm1", True),
            *norm("blocks/mlp_norm", layer + "layer_norm2", True),
            *norm("final_norm", p + "post_layernorm", True),
        ]
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            found += linear(f"blocks/attention/{ours}", f"{layer}self_attn.{theirs}_proj", True)
        found += linear("blocks/mlp/up", layer + "mlp.fc1", True)
        return [*found, *linear("blocks/mlp/down", layer + "mlp.fc2", True)]

    def ties(self, m: Model) -> dict[str, str]:
        return {}


class SiglipVision(ClipVision):
    """SigLIP's (Zhai et al. 2023): no class token; what a learned query attends to is the vector of an image."""

    model_type = "siglip_vision_model"
    architectures: ClassVar = {"SiglipVisionModel": False}
    architecture, eps, act = "SiglipVisionModel", 1e-6, "gelu_pytorch_tanh"

    def architecture_of(self, m: Model) -> str:
        return self.architecture

    def _tower(self, c: Fields) -> dict[str, Any]:
        c.refuse(vision_use_head=True)
        found = super()._tower(c)
        return {
            **found,
            "max_length": found["max_length"] - 1,
            "class_token": False,
            "embedding_norm": False,
            "patch_bias": True,
            "pooling": "attention",
        }

    def tensors(self, m: Model) -> list[Tensor]:
        p, size, ours = self.prefix, m["width"], "head/pool/attention"
        found = [
            Tensor("embed/patches/bias", p + "embeddings.patch_embedding.bias"),
            *self._shared(),
            Tensor(f"{ours}/probe", p + "head.probe", "row"),
        ]
        for n, name in enumerate(("query", "key", "value")):
            part = Part(n * size, size)
            found.append(Tensor(f"{ours}/{name}/kernel", p + "head.attention.in_proj_weight", "transposed", part))
            found.append(Tensor(f"{ours}/{name}/bias", p + "head.attention.in_proj_bias", "same", part))
        found += linear(f"{ours}/out", p + "head.attention.out_proj", True)
        found += norm(f"{ours}/norm", p + "head.layernorm", True)
        found += linear(f"{ours}/mlp/up", p + "head.mlp.fc1", True)
        return [*found, *linear(f"{ours}/mlp/down", p + "head.mlp.fc2", True)]
