"""Weights, config and tokenizer of a GGUF file, in Hugging Face terms.

The format: ggml's docs/gguf.md. Blocks of quantized numbers are turned to float32 by the `gguf` library's own functions.
"""

from __future__ import annotations

import collections
import mmap
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np

from ptft_jax import environment
from ptft_jax.data import assets
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.interop import gguf_config, gguf_layout, gguf_tokenizer

ASSETS = {"smollm2": assets.smollm2}
# These hold numbers of the config, not weights.
_ROPE_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
_NUMPY_TYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def open_archive(name: str) -> GGUFArchive:
    """The archive of a file, or of an asset by its name (`smollm2`), fetched if it is not in the cache.

    Raises:
      UserError: no such file or asset, or a file that cannot be read.
    """
    if name in ASSETS:
        environment.needed("gguf", f"gguf:{name}")  # before it is fetched
        return GGUFArchive(ASSETS[name]())
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"gguf:{name}: no such file, and no asset of that name{nearest(name, ASSETS)}")
    return GGUFArchive(path)


class GGUFArchive:
    """A memory-mapped GGUF file. Quantized tensors are float32 when read, row by row as asked for.

    Attributes:
      reference: "gguf:" and the absolute path.
      config: config.json as Hugging Face would have written it.
    """

    def __init__(self, path: pathlib.Path):
        """Reads names and metadata, no weights.

        Raises:
          UserError: not a GGUF file, a big-endian or split or damaged one, an unknown architecture or quantization, and
            tensors that are missing or that the architecture does not have.
        """
        path = pathlib.Path(path).absolute()
        self.reference = f"gguf:{path}"
        self._reader = _reader(path)
        if (self.field("split.count") or 1) > 1:
            raise UserError(
                f"{path}: one of {self.field('split.count')} parts of a model; merge them into one file first"
            )
        self._stored = {tensor.name: tensor for tensor in self._reader.tensors}
        self._check_types(path)
        self.architecture = self.field("general.architecture")
        if self.architecture is None:
            raise UserError(f"{path}: no metadata key general.architecture")
        meta = gguf_config.Metadata(str(path), self.field, self.architecture)
        embedding = self._stored.get("token_embd.weight")
        if embedding is None:
            raise UserError(f"{path}: no tensor token_embd.weight")
        self.config: dict[str, Any] = gguf_config.to_config(
            meta, self._untied(), int(embedding.shape[-1]), self._torch_dtype(), self._read_stored
        )
        self._places = self._match(path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's Hugging Face name and shape."""
        return {name: self._shape(place) for name, place in self._places.items()}

    def dtype(self, name: str) -> np.dtype:
        """As stored; float32 for quantized tensors and for norms that are stored with one added."""
        place = self._place(name)
        if place.shifted:
            return np.dtype(np.float32)
        return _NUMPY_TYPES.get(self._stored[place.stored].tensor_type.name, np.dtype(np.float32))

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """One tensor in Hugging Face's layout, or a slice of it; only its rows are read and dequantized.

        Raises:
          UserError: no such tensor.
        """
        place = self._place(name)
        shape = self._shape(place)
        index = tuple(index) + (slice(None),) * (len(shape) - len(index))
        if place.transposed:
            index = index[::-1]
        tensor = self._stored[place.stored]
        data = tensor.data if place.expert is None else tensor.data[place.expert]
        if data.ndim == 1:
            found = _dequantize(data, tensor.tensor_type)
            order = place.order(len(found))
            found = (found if order is None else found[order])[index]
        else:
            order = place.order(len(data))
            rows = data[index[0] if order is None else order[index[0]]]
            found = _dequantize(rows, tensor.tensor_type)[(slice(None), *index[1:])]
        if place.shifted:
            found = found.astype(np.float32) - np.float32(1)
        found = np.array(found.T if place.transposed else found, order="C")
        # Pages of the file that were read would count as this process' memory for as long as it is mapped.
        self._reader.data._mmap.madvise(mmap.MADV_DONTNEED)
        return found

    def tokenizer_files(self) -> dict[str, bytes]:
        """tokenizer.json, tokenizer_config.json and generation_config.json; none where the file has no tokenizer."""
        return gguf_tokenizer.to_files(self.field, self.architecture, self.reference)

    def field(self, key: str) -> Any:
        """The value of a metadata key, None where it is absent. Raises UserError for one that is damaged."""
        field = self._reader.get_field(key)
        try:
            return None if field is None else field.contents()
        except UnicodeDecodeError as e:
            raise UserError(f"{self.reference}: metadata key {key} is damaged: {e}") from e

    def _place(self, name: str) -> gguf_layout.Place:
        if name not in self._places:
            raise UserError(f"{self.reference}: no tensor {name}{nearest(name, self._places)}")
        return self._places[name]

    def _shape(self, place: gguf_layout.Place) -> tuple[int, ...]:
        shape = tuple(int(n) for n in reversed(self._stored[place.stored].shape))  # GGUF: fastest axis first
        shape = shape if place.expert is None else shape[1:]
        return shape[::-1] if place.transposed else shape

    def _read_stored(self, name: str) -> np.ndarray:
        tensor = self._stored[name]
        return _dequantize(tensor.data, tensor.tensor_type)

    def _torch_dtype(self) -> str:
        """The type of most weights."""
        names = {"F16": "float16", "BF16": "bfloat16"}
        matrices = [t for t in self._reader.tensors if len(t.shape) > 1]
        count = collections.Counter(names.get(t.tensor_type.name, "float32") for t in matrices)
        return count.most_common(1)[0][0] if count else "float32"

    def _untied(self) -> set[str]:
        """The tensors' names, less a head that is the token embedding over again, as early GPT-2 files have it."""
        names = set(self._stored)
        if self.architecture == "gpt2" and "output.weight" in names:
            head, embedding = self._stored["output.weight"], self._stored["token_embd.weight"]
            if head.tensor_type == embedding.tensor_type and np.array_equal(head.data, embedding.data):
                names.remove("output.weight")
        return names

    def _check_types(self, path: pathlib.Path) -> None:
        usable = {kind: _can_dequantize(kind) for kind in {t.tensor_type for t in self._reader.tensors}}
        wrong = [f"{t.name}: {t.tensor_type.name}" for t in self._reader.tensors if not usable[t.tensor_type]]
        if wrong:
            raise UserError(f"{path}: tensors of a type that the gguf library cannot turn to numbers:{listed(wrong)}")

    def _match(self, path: pathlib.Path) -> dict[str, gguf_layout.Place]:
        """The tensors that the file has, by Hugging Face name."""
        experts = gguf_layout.experts(self.config)
        for name, tensor in self._stored.items():
            if name.endswith("_exps.weight") and (len(tensor.shape) != 3 or int(tensor.shape[-1]) != experts):
                raise UserError(f"{path}: tensor {name}: not a stack of {experts} experts")
        if experts and "blk.0.ffn_gate_exps.weight" not in self._stored:
            raise UserError(f"{path}: {experts} experts, but no tensor blk.0.ffn_gate_exps.weight")
        possible = gguf_layout.places(self.config)
        present = self._untied()
        missing = [
            possible[n].stored for n in sorted(gguf_layout.required(self.config)) if possible[n].stored not in present
        ]
        if missing:
            raise UserError(f"{path}: missing tensors:{listed(dict.fromkeys(missing))}")
        found = {name: place for name, place in possible.items() if place.stored in present}
        extra = sorted(present - {place.stored for place in found.values()} - _ROPE_TENSORS)
        if extra:
            raise UserError(f"{path}: tensors that a {self.architecture} does not have:{listed(extra)}")
        return found


def _dequantize(data: np.ndarray, kind: Any) -> np.ndarray:
    from gguf import quants

    if kind.name == "BF16":
        return np.ascontiguousarray(data).view(ml_dtypes.bfloat16)
    return data if kind.name in _NUMPY_TYPES else quants.dequantize(data, kind)


def _can_dequantize(kind: Any) -> bool:
    from gguf import GGML_QUANT_SIZES, quants

    if kind.name in _NUMPY_TYPES:
        return True
    try:
        quants.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _reader(path: pathlib.Path) -> Any:
    """The library's reader, after looking at what it does not: the end of the file, and the byte order."""
    GGUFReader = environment.needed("gguf", f"gguf:{path}").GGUFReader
    with open(path, "rb") as f:
        head = f.read(8)
    if head[:4] != b"GGUF":
        raise UserError(f"{path}: not a GGUF file: it begins with {head[:4]!r}")
    if len(head) == 8 and head[4:6] == b"\0\0":
        raise UserError(f"{path}: a big-endian GGUF file; convert it to little-endian first")
    try:
        return GGUFReader(path)
    except ValueError as e:
        number = re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(e))
        if number:
            raise UserError(
                f"{path}: a tensor is of type {number[1]}, which the installed gguf library does not know"
            ) from e
        raise UserError(f"{path}: truncated or damaged GGUF file: {e}") from e
    except Exception as e:  # whatever damaged bytes lead to: IndexError, ValueError, KeyError, UnicodeDecodeError, ...
        raise UserError(f"{path}: truncated or damaged GGUF file: {type(e).__name__}: {e}") from e
