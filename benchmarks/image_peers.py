"""What a user would pick instead to train a ViT, as sides of a comparison: transformers and timm."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers import Side, side


def known() -> dict[str, tuple[tuple[str, ...], Callable[..., Side]]]:
    """As `benchmarks.peers.known`."""
    found = {}
    for name, make in (("transformers", vit), ("timm", timm_vit)):
        found[name] = ("torch", name), functools.partial(_side, make)
        compiled = functools.partial(_side, make, compiled=True)
        found[f"{name}, compiled"] = ("torch", name, "a C++ compiler"), compiled
    return found


def vit(case: Case, params: Mapping[str, np.ndarray]) -> Any:
    """transformers' ViT with our weights, as an export of ours has them."""
    import dataclasses

    import transformers

    from ptft_jax.interop import export
    from ptft_jax.model.spec import ModelSpec
    from ptft_jax.params.rules import unflatten

    shape = {name: case.shape[name] for name in ("layers", "width", "heads")}
    fields = dataclasses.asdict(ModelSpec(vocab_size=0, max_length=case.shape["length"], **shape, **case.model))
    with tempfile.TemporaryDirectory() as folder:
        export.to_folder(
            export.Exported(unflatten(dict(params)), fields, None, []), pathlib.Path(folder), dtype="float32"
        )
        model = transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="sdpa")
    return model.train()


def timm_vit(case: Case, params: Mapping[str, np.ndarray]) -> Any:
    """timm's ViT with our weights."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    given = case.model
    model = VisionTransformer(
        img_size=given["image_size"],
        patch_size=given["patch_size"],
        in_chans=given["channels"],
        num_classes=given["classes"],
        embed_dim=case.shape["width"],
        depth=case.shape["layers"],
        num_heads=case.shape["heads"],
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=given["norm_eps"]),
    )
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(a)) for name, a in _named(case, params).items()})
    return model.train()


def _named(case: Case, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our tensors by timm's names."""
    patch, channels, width = case.model["patch_size"], case.model["channels"], case.shape["width"]
    kernel = params["embed/patches/kernel"].reshape(patch, patch, channels, width)
    found = {
        "cls_token": params["embed/class_token"].reshape(1, 1, -1),
        "pos_embed": params["embed/positions/embedding"][None],
        "patch_embed.proj.weight": kernel.transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": params["embed/patches/bias"],
        "norm.weight": params["final_norm/scale"],
        "norm.bias": params["final_norm/bias"],
        "head.weight": params["head/classes/kernel"].T,
        "head.bias": params["head/classes/bias"],
    }
    for n in range(case.shape["layers"]):
        own = {path.removeprefix("blocks/"): a[n] for path, a in params.items() if path.startswith("blocks/")}
        for theirs, ours in (("norm1", "attention_norm"), ("norm2", "mlp_norm")):
            found |= {
                f"blocks.{n}.{theirs}.weight": own[f"{ours}/scale"],
                f"blocks.{n}.{theirs}.bias": own[f"{ours}/bias"],
            }
        for theirs, ours in (("attn.proj", "attention/out"), ("mlp.fc1", "mlp/up"), ("mlp.fc2", "mlp/down")):
            found |= {
                f"blocks.{n}.{theirs}.weight": own[f"{ours}/kernel"].T,
                f"blocks.{n}.{theirs}.bias": own[f"{ours}/bias"],
            }
        for kind, axis in (("kernel", 1), ("bias", 0)):
            whole = np.concatenate([own[f"attention/{part}/{kind}"] for part in ("query", "key", "value")], axis=axis)
            found[f"blocks.{n}.attn.qkv.{'weight' if axis else 'bias'}"] = whole.T
    return found


def _side(
    make: Callable[[Case, Mapping[str, np.ndarray]], Any],
    case: Case,
    params: Mapping[str, np.ndarray],
    learned: tuple[np.ndarray, np.ndarray],
    compiled: bool = False,
) -> Side:
    import torch
    from torch.nn import functional as F

    model, pixels, classes = make(case, params), torch.tensor(learned[0]), torch.tensor(learned[1]).long()
    run = torch.compile(model) if compiled else model

    def scores(run: Any, pixels: Any) -> Any:
        found = run(pixels)
        return getattr(found, "logits", found)

    return side(model, lambda: F.cross_entropy(scores(run, pixels), classes), lambda: scores(model, pixels[:1])[0])
