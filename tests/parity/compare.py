"""Ours beside transformers' on the same inputs: plain, padded on either side, packed, and decoded with a cache."""

import jax
import numpy as np
import torch

from ptft_jax.interop import archive, families, hf
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer

LENGTH = 40  # past every window, and past the lengths that stretched positions start from


def load(folder, **spec):
    """Our model and parameters of a Hugging Face folder, in float32."""
    source = archive.open_folder(str(folder), "test")
    family, fields = families.read(source.config, source.reference)
    model = Transformer(ModelSpec(**{**fields, **spec}))
    shapes = model.shapes()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = hf.plan(source, family, fields, shapes).load(shapes, lambda path, shape: device)
    return model, params


def logits(case, torch_model, folder):
    """(what, ours, theirs) for every way of feeding the model that its kind has."""
    model, params = load(folder)
    apply = jax.jit(lambda p, x, **o: model(p, x, **o))
    rng = np.random.default_rng(0)
    if case.kind == "image":
        size = case.fields["image_size"]
        images = rng.normal(size=(2, 3, size, size)).astype(np.float32)
        yield "images", apply(params, images.transpose(0, 2, 3, 1)), _torch(torch_model, pixel_values=images)
        return
    tokens = rng.integers(3, case.fields["vocab_size"], (2, LENGTH))
    yield "plain", apply(params, tokens), _torch(torch_model, input_ids=tokens)
    real = np.ones((2, LENGTH), np.int64)
    real[1, 25:] = 0
    padded = np.where(real, tokens, 1 if case.name.startswith("roberta") else 0)
    theirs = _torch(torch_model, input_ids=padded, attention_mask=real)
    ours = apply(params, padded, segments_BT=real)
    if case.kind == "classifier":
        yield "padded", ours, theirs
        return
    yield "padded right", ours[real > 0], theirs[real > 0]
    if case.kind == "encoder":
        types = (np.arange(LENGTH) > 20).astype(np.int64)[None].repeat(2, 0) % case_types(model)
        yield (
            "types",
            apply(params, tokens, types_BT=types),
            _torch(torch_model, input_ids=tokens, token_type_ids=types),
        )
        return
    left = real[:, ::-1].copy()
    positions = np.maximum(np.cumsum(left, 1) - 1, 0)
    padded = np.where(left, tokens, 0)
    theirs = _torch(torch_model, input_ids=padded, attention_mask=left, position_ids=positions)
    ours = apply(params, padded, segments_BT=left, positions_BT=positions)
    yield "padded left", ours[left > 0], theirs[left > 0]
    if "long" not in case.name and "dynamic" not in case.name:  # their stretching looks at all rows, ours at each alone
        cut = 17
        segments = np.where(np.arange(LENGTH) < cut, 1, 2)[None]
        positions = np.where(np.arange(LENGTH) < cut, np.arange(LENGTH), np.arange(LENGTH) - cut)[None]
        ours = apply(params, tokens[:1], segments_BT=segments, positions_BT=positions)
        parts = [_torch(torch_model, input_ids=part) for part in (tokens[:1, :cut], tokens[:1, cut:])]
        yield "packed", ours, np.concatenate(parts, 1)
    cache, slots = model.empty_cache(2, LENGTH), np.arange(LENGTH)
    plain = _torch(torch_model, input_ids=tokens)
    step = jax.jit(model.decode)
    if "long" in case.name or "dynamic" in case.name:
        return  # keys in the cache keep the rotation they were written with, in theirs, too
    for at, size in [(0, 30), *((i, 1) for i in range(30, LENGTH))]:
        allowed = np.broadcast_to(slots[None] <= (at + np.arange(size))[:, None], (2, size, LENGTH))
        positions = np.broadcast_to(at + np.arange(size), (2, size))
        ours, cache = step(params, tokens[:, at : at + size], positions, allowed, cache, at)
        yield f"decoded {at}", ours, plain[:, at + size - 1]


def case_types(model):
    return model.spec.token_types or 1


def _torch(model, **inputs):
    with torch.no_grad():
        return model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
