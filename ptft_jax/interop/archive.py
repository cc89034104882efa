"""What weights are read from: the form of an archive, and the one that is a Hugging Face folder of safetensors."""

from __future__ import annotations

import pathlib
from typing import Any, Protocol

import numpy as np

from ptft_jax.data import jsons
from ptft_jax.errors import UserError, listed, nearest

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What belongs to a tokenizer, or says which tokens end a text.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "chat_template.jinja", "generation_config.json", "config.json", "vocab.json", "merges.txt", "vocab.txt",
)  # fmt: skip
PIXELS = "preprocessor_config.json"  # how pixels are normalized, of models of images
_DTYPES = {"F64", "F32", "F16", "BF16"}


class Archive(Protocol):
    """Weights in Hugging Face terms, whatever the file's format."""

    reference: str  # "hf:..." or "gguf:...", for messages and lineage
    config: dict[str, Any]  # config.json as Hugging Face writes it

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by its Hugging Face name, without reading data."""
        ...

    def dtype(self, name: str) -> np.dtype:
        """A tensor's dtype, as `read` gives it."""
        ...

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or a part of it."""
        ...

    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer's files, as in a Hugging Face folder."""
        ...


class Folder:
    """A local Hugging Face folder: config.json and safetensors, in one file or several with an index."""

    def __init__(self, path: pathlib.Path, reference: str):
        self.path, self.reference = path, reference
        self.config = {**_json(path / "config.json", reference), **_normalization(path, reference)}
        self._files = self._locate()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self._scan()

    def _locate(self) -> dict[str, pathlib.Path]:
        """The file of each tensor of the index; {} where one file holds all."""
        if (self.path / INDEX).is_file():
            names = _json(self.path / INDEX, self.reference).get("weight_map")
            if not isinstance(names, dict) or not names:
                raise UserError(f"{self.path / INDEX}: no weight_map in it")
            strange = [f for f in names.values() if not isinstance(f, str) or pathlib.PurePath(f).name != f]
            if strange:
                raise UserError(f"{self.path / INDEX}: {strange[0]!r} is not the name of a file in this folder")
            missing = sorted({file for file in names.values() if not (self.path / file).is_file()})
            if missing:
                raise UserError(f"{self.reference}: shards named by {INDEX} are missing:{listed(missing)}")
            return {name: self.path / file for name, file in names.items()}
        if (self.path / WEIGHTS).is_file():
            return {}
        pickles = sorted(p.name for p in self.path.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise UserError(
                f"{self.reference}: the weights are pickles ({', '.join(pickles[:3])}), which can run any code when "
                "they are read; convert them to safetensors where you trust them"
            )
        other = sorted(p.name for p in self.path.glob("*.safetensors"))
        hint = f"; there are {', '.join(other[:3])}, but no {INDEX}" if other else ""
        raise UserError(f"{self.reference}: {self.path} has neither {WEIGHTS} nor {INDEX}{hint}")

    def _scan(self) -> None:
        for file in sorted(set(self._files.values())) or [self.path / WEIGHTS]:
            with _opened(file) as tensors:
                for name in tensors.offset_keys():
                    if name in self._shapes:
                        raise UserError(f"{file}: {name} is in another shard, too")
                    view = tensors.get_slice(name)
                    self._shapes[name], self._dtypes[name] = tuple(view.get_shape()), view.get_dtype()
                    if self._files and self._files.get(name) != file:
                        raise UserError(f"{file}: {name} is not where {INDEX} says, or not in it")
        absent = [name for name in self._files if name not in self._shapes]
        if absent:
            raise UserError(f"{self.reference}: tensors named by {INDEX} are in no shard:{listed(absent)}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def dtype(self, name: str) -> np.dtype:
        import ml_dtypes

        kind = self._dtypes[name]
        if kind not in _DTYPES:
            raise UserError(
                f"{self.reference}: {name} is kept as {kind}; only {', '.join(sorted(_DTYPES))} can be read"
            )
        names = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
        return np.dtype(names[kind])

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        self.dtype(name)
        # Opened again for every tensor: a mapping that stays open would count every page read as this process' memory.
        with _opened(self._files.get(name, self.path / WEIGHTS)) as tensors:
            return tensors.get_slice(name)[index] if index else tensors.get_tensor(name)

    def tokenizer_files(self) -> dict[str, bytes]:
        found = [self.path / name for name in TOKENIZER_FILES] + sorted(self.path.glob("*.tiktoken"))
        return {path.name: path.read_bytes() for path in found if path.is_file()}


def _opened(file: pathlib.Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as e:
        raise UserError(f"{file}: not a whole safetensors file ({e}); fetch it again") from e


def _json(path: pathlib.Path, reference: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{reference}: no {path.name} in {path.parent}")
    return jsons.table(path.read_bytes(), str(path))


def _normalization(path: pathlib.Path, reference: str) -> dict[str, Any]:
    """What a folder says of the pixels of images besides config.json: "image_mean" and "image_std"; {} where nothing."""
    if not (path / PIXELS).is_file():
        return {}
    given = _json(path / PIXELS, reference)
    if not given.get("do_normalize", True):
        return {"image_mean": [0.0], "image_std": [1.0]}
    return {name: given[name] for name in ("image_mean", "image_std") if given.get(name)}


def open_folder(name: str, field: str) -> Folder:
    """The archive of `hf:NAME`: a local folder, or a model of the hub as NAME or NAME@REVISION.

    The hub is asked only for a name of the form ORG/MODEL (or MODEL) that is no path here, through `huggingface_hub`,
    whose cache and offline mode (HF_HUB_OFFLINE=1) apply. Pickles are never fetched.

    Raises:
      UserError: no such folder or model, or an incomplete one.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return Folder(path, f"hf:{path.absolute()}")
    repository, _, revision = name.partition("@")
    looks_local = name.startswith(("/", ".", "~")) or repository.count("/") > 1 or not repository
    if looks_local or path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is a file, not a folder" if path.exists() else "no such folder"
        raise UserError(f"{field} = 'hf:{name}': {what}{nearest(path.name, beside)}")
    import huggingface_hub

    patterns = ["*.safetensors", INDEX, "*.tiktoken", PIXELS, *TOKENIZER_FILES]
    try:
        found = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=patterns,
            ignore_patterns=["consolidated*", "original/*"],  # the same weights over again, under other names
        )
    except Exception as e:  # one library, many reasons: no network, no such name, no permission
        reason = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise UserError(
            f"{field} = 'hf:{name}': no such folder, and the hub could not give it: {reason[:300]}\n"
            "Without a network, give the path of a folder with config.json and safetensors"
        ) from e
    commit = pathlib.Path(found).name
    return Folder(pathlib.Path(found), f"hf:{repository}@{commit}")
