"""A model in Hugging Face terms to a GGUF file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ptft_jax import environment
from ptft_jax.data import cache
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.interop import config_reader, gguf_layout, gguf_metadata, gguf_vocabulary

# What a dtype is to the library, and the file's own name for the mixture (llama.cpp's llama_ftype).
DTYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
_Q8_BLOCK = 32
# Buffers that old checkpoints hold beside the weights.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")


def write(
    path: pathlib.Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    tokenizer_files: Mapping[str, bytes],
    *,
    dtype: str = "F32",
) -> None:
    """Writes the file, whole or not at all. Tensors are taken one by one; only an expert stack is held together.

    Args:
      path: of the file.
      config: as in config.json.
      tensors: (Hugging Face name, array in Hugging Face's layout), each once, in any order.
      tokenizer_files: name -> content as in a Hugging Face folder; none for a file without a tokenizer.
      dtype: of matrices: "F32", "F16", "BF16" or "Q8_0". Vectors, norms, routers and learned positions stay F32.

    Raises:
      UserError: an unknown dtype or model type, a config or tokenizer that GGUF cannot express, tensors that are missing,
        unknown, repeated or do not fit the dtype.
    """
    gguf = environment.needed("gguf", f"{path}")
    if dtype not in DTYPES:
        raise UserError(
            f"dtype = {dtype!r} is not a GGUF type here{nearest(dtype, DTYPES)}; known: {', '.join(DTYPES)}"
        )
    c = config_reader.Fields(config, str(path))
    architecture = gguf_layout.layout(c.need("model_type")).architecture
    keys, extra = gguf_metadata.to_metadata(c)
    keys["vocab_size"] = c.need("vocab_size")
    c.need("tie_word_embeddings")
    vocabulary = gguf_vocabulary.to_metadata(tokenizer_files, config)

    def fill(temporary: pathlib.Path) -> None:
        # Tensors go through a file of the library's own: names and sizes of all come before the first one's data.
        writer = gguf.GGUFWriter(temporary, architecture, use_temp_file=True)
        try:
            writer.add_type("model")
            writer.add_file_type(DTYPES[dtype])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            for key, value in ({f"{architecture}.{key}": value for key, value in keys.items()} | vocabulary).items():
                _add(writer, key, value)
            for name, factors in extra.items():
                writer.add_tensor(name, factors)
            _add_tensors(writer, config, tensors, dtype)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
            if writer.temp_file is not None:
                writer.temp_file.close()

    cache.write_atomic(pathlib.Path(path), fill)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensors(writer: Any, config: Mapping[str, Any], tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> None:
    known = gguf_layout.places(config)
    missing = gguf_layout.required(config)
    stacks: dict[str, dict[int, np.ndarray]] = {}
    experts = gguf_layout.experts(config)
    seen: set[str] = set()
    for given, array in tensors:
        if given.endswith(_BUFFERS):
            continue
        name = given
        if config["model_type"] == "gpt2" and name not in known:
            name = f"transformer.{given}"  # published GPT-2 files leave it out
        if name not in known:
            raise UserError(f"tensor {given}: a {config['model_type']} has no such tensor{nearest(given, known)}")
        if config.get("tie_word_embeddings") and known[name].stored.startswith("output."):
            raise UserError(f"tensor {given}: the head is tied to the embedding and is not written")
        if name in seen:
            raise UserError(f"tensor {given}: given twice")
        seen.add(name)
        place = known[name]
        stored = _stored(np.asarray(array), place)
        if place.expert is None:
            _add_tensor(writer, place.stored, stored, dtype)
        else:
            stack = stacks.setdefault(place.stored, {})
            stack[place.expert] = stored
            if len(stack) == experts:
                _add_tensor(writer, place.stored, np.stack([stack[i] for i in range(experts)]), dtype)
                stacks[place.stored] = {}
    if missing - seen:
        raise UserError(f"missing tensors:{listed(sorted(missing - seen))}")


def _stored(array: np.ndarray, place: gguf_layout.Place) -> np.ndarray:
    array = array.T if place.transposed else array
    if place.shifted:
        array = array.astype(np.float32) + np.float32(1)
    order = place.order(len(array))
    return array if order is None else array[np.argsort(order)]


def _add_tensor(writer: Any, name: str, array: np.ndarray, dtype: str) -> None:
    import gguf

    plain = array.ndim == 1 or name.endswith("_norm.weight") or "ffn_gate_inp" in name or "position_embd" in name
    kind = gguf.GGMLQuantizationType["F32" if plain else dtype]
    if kind.name == "Q8_0" and array.shape[-1] % _Q8_BLOCK:
        raise UserError(f"tensor {name}: Q8_0 needs rows of a multiple of {_Q8_BLOCK} numbers, not {array.shape[-1]}")
    array = np.ascontiguousarray(array, np.float32)
    if kind.name == "F16" and np.abs(array).max(initial=0.0) > np.finfo(np.float16).max and np.isfinite(array).all():
        raise UserError(f"tensor {name}: a value of {np.abs(array).max():.3g} is beyond F16; choose BF16 or F32")
    writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
