"""BERT, RoBERTa, ViT, its masked autoencoder and DeiT as Hugging Face writes them: configs in both directions, and name maps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.interop import heads, labels
from ptft_jax.interop.config_reader import Fields, sizes, write_sizes
from ptft_jax.interop.names import Model, Tensor, linear, norm


class Bert:
    """Bidirectional, norm after each sublayer (Devlin et al. 2018), with a head for masked tokens or for classes."""

    model_type, prefix = "bert", "bert."
    architectures: ClassVar = {"masked_lm": "BertForMaskedLM", "classes": "BertForSequenceClassification"}
    also: ClassVar = {
        "BertForPreTraining": "masked_lm"
    }  # its next-sentence head has no counterpart, and is listed as unmapped
    offset = 0

    @property
    def architecture(self) -> str:
        return self.architectures["masked_lm"]

    def architecture_of(self, m: Model) -> str:
        return self.architectures.get(m["head"], self.architecture)

    def read(self, c: Fields) -> dict[str, Any]:
        c.refuse(is_decoder=False, add_cross_attention=False, position_embedding_type="absolute")
        head = heads.read(c, self.architectures, self.also)
        return {
            **sizes(c, c.need("max_position_embeddings") - self.offset, eps=1e-12),
            "causal": False,
            "vocab_size": c.need("vocab_size"),
            "norm_placement": "post",
            "embedding_norm": True,
            "token_types": c.get("type_vocab_size", 2),
            "position_offset": self.offset,
            "tied": c.get("tie_word_embeddings", True),
            "class_hidden": head["head"] == "classes",
            **head,
        }

    def write(self, m: Model) -> dict[str, Any]:
        return {
            **write_sizes(m),
            "vocab_size": m["vocab_size"],
            "max_position_embeddings": m["max_length"] + self.offset,
            "type_vocab_size": m["token_types"],
            "tie_word_embeddings": m["tied"],
            **heads.write(m),
        }

    def tensors(self, m: Model) -> list[Tensor]:
        p, layer = self.prefix, self.prefix + "encoder.layer.{layer}."
        found = [
            Tensor("embed/tokens/embedding", p + "embeddings.word_embeddings.weight"),
            Tensor("embed/positions/embedding", p + "embeddings.position_embeddings.weight"),
            Tensor("embed/types/embedding", p + "embeddings.token_type_embeddings.weight"),
            *norm("embed/norm", p + "embeddings.LayerNorm", True),
        ]
        for ours in ("query", "key", "value"):
            found += linear(f"blocks/attention/{ours}", f"{layer}attention.self.{ours}", True)
        found += linear("blocks/attention/out", layer + "attention.output.dense", True)
        found += norm("blocks/attention_post_norm", layer + "attention.output.LayerNorm", True)
        found += linear("blocks/mlp/up", layer + "intermediate.dense", True)
        found += linear("blocks/mlp/down", layer + "output.dense", True)
        found += norm("blocks/mlp_post_norm", layer + "output.LayerNorm", True)
        return [*found, *(self.class_head() if m["head"] == "classes" else self.masked_head(m))]

    scores = "cls.predictions"

    def ties(self, m: Model) -> dict[str, str]:
        if m["head"] != "masked_lm":
            return {}
        if not m["tied"]:
            return {f"{self.scores}.bias": f"{self.scores}.decoder.bias"}
        table = self.prefix + "embeddings.word_embeddings.weight"
        return {f"{self.scores}.decoder.bias": f"{self.scores}.bias", f"{self.scores}.decoder.weight": table}

    def scores_of(self, m: Model) -> list[Tensor]:
        if m["tied"]:
            return [Tensor("head/bias", f"{self.scores}.bias")]
        theirs = f"{self.scores}.decoder"
        return [Tensor("head/bias", theirs + ".bias"), Tensor("head/scores/kernel", theirs + ".weight", "transposed")]

    def class_head(self) -> list[Tensor]:
        return [*linear("head/hidden", "bert.pooler.dense", True), *linear("head/classes", "classifier", True)]

    def masked_head(self, m: Model) -> list[Tensor]:
        found = linear("head/dense", "cls.predictions.transform.dense", True)
        found += norm("head/norm", "cls.predictions.transform.LayerNorm", True)
        return [*found, *self.scores_of(m)]


class Roberta(Bert):
    """BERT with other names, and positions that start at 2 (Liu et al. 2019)."""

    model_type, prefix, offset = "roberta", "roberta.", 2
    architectures: ClassVar = {"masked_lm": "RobertaForMaskedLM", "classes": "RobertaForSequenceClassification"}
    also: ClassVar = {}
    scores = "lm_head"

    def read(self, c):
        if c.get("pad_token_id", 1) != 1:
            raise UserError(
                f"{c.where}: config.json: pad_token_id = {c.values['pad_token_id']!r}: RoBERTa's positions assume 1"
            )
        return super().read(c)

    def write(self, m):
        return {**super().write(m), "pad_token_id": 1}

    def class_head(self):
        return [*linear("head/hidden", "classifier.dense", True), *linear("head/classes", "classifier.out_proj", True)]

    def masked_head(self, m):
        found = [*linear("head/dense", "lm_head.dense", True), *norm("head/norm", "lm_head.layer_norm", True)]
        return [*found, *self.scores_of(m)]


class ViT:
    """Images as patches behind a class token (Dosovitskiy et al. 2020), with a head for classes."""

    model_type, architecture, prefix = "vit", "ViTForImageClassification", "vit."
    architectures: ClassVar = {"none": "ViTForImageClassification"}
    first = 1  # tokens before the patches

    def architecture_of(self, m: Model) -> str:
        return self.architectures.get(m["distillation"], self.architecture)

    def read(self, c: Fields) -> dict[str, Any]:
        known = {name: value for value, name in self.architectures.items()}
        given, images = architecture(c, known), images_of(c)
        return {
            **sizes(c, (images["image_size"] // images["patch_size"]) ** 2 + self.first, eps=1e-12),
            **images,
            "biases": ("qkv", "out", "mlp", "norm") if c.get("qkv_bias", True) else ("out", "mlp", "norm"),
            "head": "classes",
            "classes": labels.read(c)[0],
            "distillation": known[given],
        }

    def write(self, m: Model) -> dict[str, Any]:
        return {
            **write_sizes(m),
            **write_images(m),
            "qkv_bias": "qkv" in m["biases"],
            **labels.write((), m["classes"]),
        }

    def tensors(self, m: Model) -> list[Tensor]:
        p, layer = self.prefix, self.prefix + "encoder.layer.{layer}."
        found = [
            Tensor("embed/class_token", p + "embeddings.cls_token", "row"),
            Tensor("embed/positions/embedding", p + "embeddings.position_embeddings", "rows"),
            Tensor("embed/patches/kernel", p + "embeddings.patch_embeddings.projection.weight", "patches"),
            Tensor("embed/patches/bias", p + "embeddings.patch_embeddings.projection.bias"),
            *norm("blocks/attention_norm", layer + "layernorm_before", True),
            *norm("blocks/mlp_norm", layer + "layernorm_after", True),
            *norm("final_norm", p + "layernorm", True),
        ]
        for ours in ("query", "key", "value"):
            found += linear(f"blocks/attention/{ours}", f"{layer}attention.attention.{ours}", "qkv" in m["biases"])
        found += linear("blocks/attention/out", layer + "attention.output.dense", True)
        found += linear("blocks/mlp/up", layer + "intermediate.dense", True)
        found += linear("blocks/mlp/down", layer + "output.dense", True)
        return [*found, *self.class_head(m)]

    def ties(self, m: Model) -> dict[str, str]:
        return {}

    def class_head(self, m: Model) -> list[Tensor]:
        return linear("head/classes", "classifier", True)


def architecture(c: Fields, known: dict[str, Any]) -> str:
    """That of a config.json; the first where it names none. Raises UserError for one that is not known."""
    given = str((c.get("architectures", None) or list(known))[0])
    if given not in known:
        raise UserError(f"{c.where}: config.json: architectures = {given!r}: expected one of {', '.join(known)}")
    return given


def images_of(c: Fields) -> dict[str, Any]:
    """What is alike in all models of images."""
    size, patch = c.get("image_size", 224), c.get("patch_size", 16)
    if isinstance(size, list) or isinstance(patch, list):
        raise UserError(f"{c.where}: config.json: image_size {size!r}, patch_size {patch!r}: expected one number each")
    return {
        "causal": False,
        "vocab_size": 0,
        "image_size": size,
        "patch_size": patch,
        "channels": c.get("num_channels", 3),
        "pixel_mean": colors(c, "image_mean"),
        "pixel_std": colors(c, "image_std"),
    }


def write_images(m: Model) -> dict[str, Any]:
    """As `images_of`, for a config.json."""
    return {
        "image_size": m["image_size"],
        "patch_size": m["patch_size"],
        "num_channels": m["channels"],
        "image_mean": list(m["pixel_mean"]),
        "image_std": list(m["pixel_std"]),
    }


def colors(c: Fields, name: str) -> tuple[float, ...]:
    """A number, or one per channel where they differ."""
    given = c.get(name, [0.5])
    values = tuple(map(float, given if isinstance(given, (list, tuple)) else [given]))
    return values[:1] if len(set(values)) == 1 else values


class ViTMAE(ViT):
    """ViT with the decoder of masked autoencoding (He et al. 2022). Positions are fixed waves, which its files hold nevertheless."""

    model_type, architecture = "vit_mae", "ViTMAEForPreTraining"
    architectures: ClassVar = {"none": "ViTMAEForPreTraining"}

    def read(self, c):
        width = c.get("decoder_hidden_size", 512)
        if c.get("decoder_intermediate_size", 2048) != 4 * width:
            raise UserError(
                f"{c.where}: config.json: decoder_intermediate_size = {c.values.get('decoder_intermediate_size')!r}: expected four times "
                f"decoder_hidden_size {width}"
            )
        found = super().read(c)
        found.pop("classes")
        return {
            **found,
            "head": "pixels",
            "positions": "sine",
            "decoder_layers": c.get("decoder_num_hidden_layers", 8),
            "decoder_width": width,
            "decoder_heads": c.get("decoder_num_attention_heads", 16),
        }

    def write(self, m):
        found = super().write(m)
        for name in ("id2label", "label2id", "problem_type"):
            found.pop(name, None)
        return {
            **found,
            "decoder_num_hidden_layers": m["decoder_layers"],
            "decoder_hidden_size": m["decoder_width"],
            "decoder_num_attention_heads": m["decoder_heads"],
            "decoder_intermediate_size": 4 * m["decoder_width"],
        }

    def tensors(self, m):
        found = [tensor for tensor in super().tensors(m) if tensor.ours != "embed/positions/embedding"]
        return [*found, *(self._decoder(m) if m["head"] == "pixels" else [])]

    def class_head(self, m):
        return super().class_head(m) if m["head"] == "classes" else []

    def _decoder(self, m: Model) -> list[Tensor]:
        bias = "qkv" in m["biases"]
        found = [
            Tensor("head/mask_token", "decoder.mask_token", "row"),
            *norm("head/norm", "decoder.decoder_norm", True),
        ]
        found += linear("head/embed", "decoder.decoder_embed", True) + linear(
            "head/pixels", "decoder.decoder_pred", True
        )
        for n in range(m["decoder_layers"]):
            ours, theirs = f"head/layer_{n}", f"decoder.decoder_encoder.layer.{n}"
            found += norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before", True)
            found += norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after", True)
            for name in ("query", "key", "value"):
                found += linear(f"{ours}/attention/{name}", f"{theirs}.attention.attention.{name}", bias)
            found += linear(f"{ours}/attention/out", f"{theirs}.attention.output.dense", True)
            found += linear(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", True)
            found += linear(f"{ours}/mlp/down", f"{theirs}.output.dense", True)
        return found

    def constants(self, m: Model) -> dict[str, np.ndarray]:
        """Tensors of theirs that are computed here."""
        from ptft_jax.model.vision import waves  # needs JAX

        grid = m["image_size"] // m["patch_size"]
        found = {"vit.embeddings.position_embeddings": waves(m["width"], grid, 1)[None]}
        if m["head"] == "pixels":
            found["decoder.decoder_pos_embed"] = waves(m["decoder_width"], grid, 1)[None]
        return found


class DeiT(ViT):
    """ViT with a distillation token (Touvron et al. 2020), its head used too or not."""

    model_type, architecture, prefix, first = "deit", "DeiTForImageClassification", "deit.", 2
    architectures: ClassVar = {"token": "DeiTForImageClassification", "head": "DeiTForImageClassificationWithTeacher"}

    def tensors(self, m):
        return [*super().tensors(m), Tensor("embed/distillation_token", "deit.embeddings.distillation_token", "row")]

    def class_head(self, m):
        if m["distillation"] != "head":
            return super().class_head(m)
        return [
            *linear("head/classes", "cls_classifier", True),
            *linear("head/distilled", "distillation_classifier", True),
        ]
