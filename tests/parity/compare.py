"""Ours beside transformers' on the same inputs: plain, padded on either side, packed, and decoded with a cache."""

import jax
import numpy as np
import pytest

from ptft_jax.interop import pretrained
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer

torch = pytest.importorskip("torch")  # here, so that no module that compares has to ask before it imports this one
LENGTH = 40  # past every window, and past the lengths that stretched positions start from


def load(folder):
    """Our model, parameters, fields and lineage of a Hugging Face folder, in float32."""
    source = pretrained.find(f"hf:{folder}", "test")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = source.parameters(lambda path, shape: device)
    return Transformer(ModelSpec(**source.fields)), params, source.fields, source.lineage("")


def plain_inputs(case):
    """Tokens, or images in our layout."""
    rng = np.random.default_rng(0)
    if case.kind == "image":
        size = case.fields["image_size"]
        return rng.normal(size=(2, size, size, 3)).astype(np.float32)
    return rng.integers(3, case.fields["vocab_size"], (2, LENGTH))


def plain(case, model, params, torch_model, inputs):
    """(ours, theirs) of inputs without padding."""
    ours = jax.jit(model.__call__)(params, inputs)
    if case.kind == "image":
        return ours, _torch(torch_model, pixel_values=inputs.transpose(0, 3, 1, 2).copy())
    return ours, _torch(torch_model, input_ids=inputs)


def logits(case, torch_model, folder):
    """(what, ours, theirs) for every way of feeding the model that its kind has."""
    model, params, _, _ = load(folder)
    apply = jax.jit(model)
    tokens = plain_inputs(case)
    yield ("images" if case.kind == "image" else "plain"), *plain(case, model, params, torch_model, tokens)
    if case.kind == "image":
        return
    real = np.ones((2, LENGTH), np.int64)
    real[1, 25:] = 0
    padded = np.where(real, tokens, 1 if case.name.startswith("roberta") else 0)
    theirs = _torch(torch_model, input_ids=padded, attention_mask=real)
    ours = apply(params, Inputs(padded, segments=real))
    if case.kind == "classifier":
        yield "padded", ours, theirs
        return
    yield "padded right", ours[real > 0], theirs[real > 0]
    if case.kind == "encoder":
        types = (np.arange(LENGTH) > 20).astype(np.int64)[None].repeat(2, 0) % case_types(model)
        yield (
            "types",
            apply(params, Inputs(tokens, types=types)),
            _torch(torch_model, input_ids=tokens, token_type_ids=types),
        )
        return
    if "long" in case.name or "dynamic" in case.name:
        return  # their rotation depends on the longest of all rows, and cached keys keep the one they were written with
    left = real[:, ::-1].copy()
    positions = np.maximum(np.cumsum(left, 1) - 1, 0)
    padded = np.where(left, tokens, 0)
    theirs = _torch(torch_model, input_ids=padded, attention_mask=left, position_ids=positions)
    ours = apply(params, Inputs(padded, segments=left, positions=positions))
    yield "padded left", ours[left > 0], theirs[left > 0]
    cut = 17
    segments = np.where(np.arange(LENGTH) < cut, 1, 2)[None]
    positions = np.where(np.arange(LENGTH) < cut, np.arange(LENGTH), np.arange(LENGTH) - cut)[None]
    ours = apply(params, Inputs(tokens[:1], segments=segments, positions=positions))
    parts = [_torch(torch_model, input_ids=part) for part in (tokens[:1, :cut], tokens[:1, cut:])]
    yield "packed", ours, np.concatenate(parts, 1)
    cache, slots = model.empty_cache(2, LENGTH), np.arange(LENGTH)
    whole = _torch(torch_model, input_ids=tokens)
    step = jax.jit(model.decode)
    for at, size in [(0, 30), *((i, 1) for i in range(30, LENGTH))]:
        allowed = np.broadcast_to(slots[None] <= (at + np.arange(size))[:, None], (2, size, LENGTH))
        positions = np.broadcast_to(at + np.arange(size), (2, size))
        ours, cache = step(params, Inputs(tokens[:, at : at + size], positions), allowed, cache, at)
        yield f"decoded {at}", ours, whole[:, at + size - 1]


def case_types(model):
    return model.spec.token_types or 1


def _torch(model, **inputs):
    with torch.no_grad():
        found = model(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    # Of towers the vector of an image.
    return next(found[name] for name in ("logits", "image_embeds", "pooler_output") if name in found).numpy()
