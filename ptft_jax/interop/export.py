"""Models to other tools: Hugging Face folders and GGUF files, read back and compared before they count as written."""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ptft_jax.adapters.base import is_added
from ptft_jax.data import cache, class_names
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import padding_of
from ptft_jax.errors import UserError, listed
from ptft_jax.interop import card, families, image_text, labels, layouts, mup, padding, tokenizer_files
from ptft_jax.interop.archive import INDEX, PIXELS, WEIGHTS
from ptft_jax.interop.config_reader import Fields
from ptft_jax.interop.names import Model, groups
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.parallel.sharding import on_one_device
from ptft_jax.params.rules import flatten, unflatten

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
# What a config.json says of a head, and how it was trained: untrue of another.
_OF_HEAD = {"id2label", "label2id", "num_labels", "problem_type", "finetuning_task"}
_GGUF = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}


class Exported:
    """A model in another library's terms: its family, config.json, tokenizer files, and tensors one by one.

    Attributes:
      params: whole parameters of a plain model.
      fields: its structural fields, with `vocab_size`.
      chain: the lineage behind it, nearest first; where it began with imported weights, their family and config are
        kept as far as they still say the truth.
      plugins: modules that may have its family.
      classes: names of the classes that its head scores, in their order; () where they have none.
      template: the source of the chat template by which it talks; "" = the tokenizer's own, if any.
      last: control tokens that texts end with: where its head reads the last token of a text, no row is padded with these.
      note: what to know of it, or "".
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        fields: Model,
        tokenizer: tok.Tokenizer | None,
        chain: list[dict[str, Any]],
        *,
        family: str = "",
        classes: Sequence[str] = (),
        plugins: Sequence[str] = (),
        template: str = "",
        last: Sequence[int] = (),
    ):
        self.params, fields = mup.folded(flatten(params), fields)
        self.fields, self.chain = families.canonical(fields), chain
        self.classes = class_names.filled(class_names.known(classes), self.fields["classes"])
        self.tokenizer, self.template, self.plugins = tokenizer, template, tuple(plugins)
        self._last, self.note = tuple(last), ""
        self.family, self._origin = families.of(self.fields, chain, family, plugins)
        self._pad_apart()
        self._groups = groups(self.family.tensors(self.fields), self.fields)

    def config(self, dtype: str) -> dict[str, Any]:
        """config.json: what the model is, and of the imported config what does not contradict it."""
        written = families.write(self.family, self.fields)
        stale = {"torch_dtype", "quantization_config", "transformers_version", "_name_or_path", "auto_map"}
        if not self.chain or "model_type" not in self.chain[0]:  # not as it was imported
            stale |= _OF_HEAD
        if self.fields["head"] == "classes":
            written |= labels.write(self.classes, self.fields["classes"])
            stale.add("num_labels")
        kept = {k: v for k, v in self._origin.items() if k not in written and k not in stale}
        for part in ("text_config", "vision_config"):
            if part in written and part in self._origin:
                kept[part] = {**self._origin[part], **written[part]}
        config = {**written, **kept}
        if families.canonical(self.family.read(Fields(config, "config.json"))) != families.canonical(
            self.family.read(Fields(written, "config.json"))
        ):
            config = written
        if self.tokenizer is not None:
            config |= {"bos_token_id": self.tokenizer.bos_id, "eos_token_id": self._ends()}
            config["pad_token_id"] = written.get("pad_token_id") or self._pads()
            if "text_config" in config:  # the vector of a text is read where it ends
                image_text.refuse_ends(self.fields, self.tokenizer)
                ends = {"bos_token_id": self.tokenizer.bos_id, "eos_token_id": self.tokenizer.end_id}
                config["text_config"] = {**config["text_config"], **ends, "pad_token_id": self._pads()}
        if self._reads_last:
            config["pad_token_id"] = self._padding()
        return {**config, "dtype": dtype, "torch_dtype": dtype}

    def preprocessing(self) -> dict[str, Any]:
        """preprocessor_config.json: how pixels become what a model of images reads."""
        size, channels = self.fields["image_size"], self.fields["channels"]
        mean, std = (list(self.fields[name]) for name in ("pixel_mean", "pixel_std"))
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": size, "width": size},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": mean * (channels if len(mean) == 1 else 1),
            "image_std": std * (channels if len(std) == 1 else 1),
        }

    @property
    def _reads_last(self) -> bool:
        return ModelSpec(**self.fields).reads_last

    @property
    def _reads_texts(self) -> bool:
        """Whether texts have a tower of their own."""
        return bool(self.fields["text_layers"])

    def _pads(self) -> int | None:
        """What the tokenizer pads with where no head reads the last token: for a tower of texts what that was trained with."""
        if self.tokenizer is None:
            return None
        return padding_of(self.tokenizer, self.fields["text_causal"]) if self._reads_texts else self.tokenizer.pad_id

    def _padding(self) -> int | None:
        """What rows are padded with where the head reads the last token of a text."""
        given = self._origin.get("pad_token_id")
        if self.tokenizer is None:
            return given
        return padding.token(self.tokenizer, given, self._last, self.template)

    def _pad_apart(self) -> None:
        """Gives a tokenizer a token to pad with that has no other control token than texts end with."""
        if self.tokenizer is not None and self._reads_last and self._padding() is None:
            self.tokenizer, self.params, rows = padding.added(self.tokenizer, self.params)
            self.fields = {**self.fields, "vocab_size": rows}
            self.note = f"{padding.ADDED!r} was added to the tokenizer: padding may not be what texts end with"

    def _ends(self) -> int | list[int]:
        ends = list(tokenizer_files.ends(self.tokenizer, self.template))
        return ends[0] if len(ends) == 1 else ends

    def generation(self) -> dict[str, Any]:
        """generation_config.json: which tokens begin, end and pad a text."""
        if self.tokenizer is None:
            return {}
        ids = {
            "bos_token_id": self.tokenizer.bos_id,
            "eos_token_id": self._ends(),
            "pad_token_id": self._pads(),
        }
        return {k: v for k, v in ids.items() if v is not None}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by its name."""
        shape = layouts.their_whole_shape
        found = {name: shape(group.tensors, self.params, self.fields) for name, group in self._groups.items()}
        return found | {name: array.shape for name, array in self._constants.items()}

    @property
    def _constants(self) -> dict[str, np.ndarray]:
        """Tensors of theirs that are computed here."""
        return self.family.constants(self.fields) if hasattr(self.family, "constants") else {}

    def tensors(self, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) one by one, cast to a dtype of `DTYPES`. Raises UserError where values overflow it."""
        shapes = self.shapes()
        for name, (tensors, at) in self._groups.items():
            array = np.empty(shapes[name], DTYPES[dtype])
            for tensor in tensors:
                leaf = self.params[tensor.ours]
                ours = np.asarray(jax.device_get(leaf[at] if at else leaf))
                with np.errstate(over="ignore"):
                    theirs = layouts.write(tensor, ours, self.fields).astype(DTYPES[dtype])
                if not np.isfinite(theirs).all() and np.isfinite(ours).all():
                    raise UserError(f"--dtype={dtype}: {tensor.ours} has values that it cannot hold; choose bfloat16")
                if tensor.part is None:
                    array[...] = theirs
                elif tensor.output_axis == 0:
                    array[tensor.part.rows] = theirs
                else:
                    array[..., tensor.part.rows] = theirs
            yield name, array
        for name, array in self._constants.items():
            yield name, array.astype(DTYPES[dtype])

    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer and its chat template as a Hugging Face folder has them; {} without one."""
        if self.tokenizer is None:
            return {}
        if self._reads_texts:
            files = tokenizer_files.written(self.tokenizer, self.fields["text_length"], self.template, self._pads())
            return tokenizer_files.of_tower(
                self.tokenizer, files, self.fields["text_length"], self.fields["text_causal"]
            )
        pad = self._padding() if self._reads_last else None
        return tokenizer_files.written(self.tokenizer, self.fields["max_length"], self.template, pad)


def to_folder(
    exported: Exported,
    out: pathlib.Path,
    *,
    dtype: str,
    summary: Mapping[str, Any] | None = None,
    shard_bytes: int = 5_000_000_000,
) -> dict[str, Any]:
    """Writes a Hugging Face folder, whole or not at all, and checks it by reading it back.

    Returns:
      What was written: files, bytes, and the largest difference of logits (0.0).

    Raises:
      UserError: `out` exists and is not empty, a dtype that does not hold the values, or a read-back that differs.
    """
    _refuse_existing(out)
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype}: a Hugging Face folder holds one of {', '.join(DTYPES)}")
    files, config = exported.tokenizer_files(), exported.config(dtype)
    if exported.tokenizer is not None:
        tokenizer_files.refuse_other_class(exported.tokenizer, files, exported.family.model_type)
    temporary = cache.folder_beside(out)
    try:
        _save_shards(exported, temporary, dtype, shard_bytes)
        _dump(temporary / "config.json", config)
        if exported.fields["image_size"]:
            _dump(temporary / PIXELS, exported.preprocessing())
        if exported.generation():
            _dump(temporary / "generation_config.json", exported.generation())
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        (temporary / "README.md").write_text(card.text(exported, dtype, summary or {}), encoding="utf-8")
        difference = verify(exported, f"hf:{temporary}", dtype)
        out.parent.mkdir(parents=True, exist_ok=True)
        cache.as_new(temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(p.stat().st_size for p in out.iterdir())
    return {
        "out": str(out),
        "family": exported.family.model_type,
        "files": sorted(p.name for p in out.iterdir()),
        "bytes": size,
        "logit_difference": difference,
        **({"note": exported.note} if exported.note else {}),
    }


def _save_shards(exported: Exported, folder: pathlib.Path, dtype: str, shard_bytes: int) -> None:
    """Tensors in files of at most `shard_bytes`, one of which is in memory at a time; an index where they are several."""
    from safetensors.numpy import save_file

    width = np.dtype(DTYPES[dtype]).itemsize
    shards: list[list[str]] = [[]]
    filled = total = 0
    for name, shape in exported.shapes().items():
        size = int(np.prod(shape)) * width
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled, total = filled + size, total + size
    tensors = exported.tensors(dtype)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        batch = {name: array for name, array in (next(tensors) for _ in names)}
        save_file(batch, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    if len(shards) > 1:
        _dump(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def to_gguf(exported: Exported, out: pathlib.Path, *, dtype: str) -> dict[str, Any]:
    """Writes a GGUF file, whole or not at all, and checks it by reading it back.

    Args:
      dtype: of matrices: float32, float16, bfloat16, or q8_0 (8 bits in blocks of 32).

    Raises:
      UserError: as `to_folder`; also a family, tokenizer or setting that GGUF has no place for.
    """
    from ptft_jax.interop import gguf_writer

    if exported.fields["head"] != "lm" and not exported.fields["image_size"]:  # images have no family of GGUF at all
        raise UserError(
            f"--to=gguf: the model's head scores {'classes' if exported.fields['head'] == 'classes' else 'masked tokens'} "
            f"(model.head={exported.fields['head']!r}), for which a GGUF file has no place; use --to=hf"
        )
    if dtype not in _GGUF:
        raise UserError(f"--dtype={dtype}: a GGUF file holds one of {', '.join(_GGUF)}")
    if out.exists():
        raise UserError(f"--out={out}: is there already; choose another name, or remove it")
    temporary = cache.folder_beside(out)
    kept = "float32" if dtype == "q8_0" else dtype
    try:
        file = temporary / "model.gguf"
        gguf_writer.write(
            file, exported.config(kept), exported.tensors(kept), exported.tokenizer_files(), dtype=_GGUF[dtype]
        )
        difference = verify(exported, f"gguf:{file}", dtype)
        note = _by_lists(exported, file)
        out.parent.mkdir(parents=True, exist_ok=True)
        cache.as_new(temporary)
        file.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "out": str(out), "family": exported.family.model_type, "bytes": out.stat().st_size, "logit_difference": difference,
        **({"note": note} if note else {}),
    }  # fmt: skip


def _by_lists(exported: Exported, file: pathlib.Path) -> str:
    """What to know of programs that do not read the whole tokenizer.json in a GGUF file but its lists, as llama.cpp does."""
    from ptft_jax.interop import gguf, gguf_tokenizer

    archive = gguf.GGUFArchive(file)
    if exported.tokenizer is None or archive.field("tokenizer.ggml.model") not in ("gpt2", "llama"):
        return ""
    files = gguf_tokenizer.to_files(archive.field, archive.architecture, archive.reference, lists=True)
    texts = tokenizer_files.differing(exported.tokenizer, tok.from_files(files, "the lists"))
    if not texts:
        return ""
    return f"llama.cpp, which goes by the file's lists, gives other ids for texts such as {', '.join(map(repr, texts[:3]))}"


def _writes(model: Mapping[str, Any]) -> bool:
    return model["head"] == "lm" and model["causal"] and not model["image_size"]


def to_peft(
    adapter: Any,
    params: Mapping[str, Any],
    fields: Model,
    family: Any,
    out: pathlib.Path,
    *,
    base: str,
    before: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Writes an adapter in PEFT's format, whole or not at all, and checks it by reading it back.

    Args:
      adapter: the fine-tuning method.
      params: whole parameters, the adapter's leaves among them.
      before: flat parameters of the base, where the run changed these, too; None = it did not.
      files: further ones to lie beside it, by name: a tokenizer's, where the base's lacks the chat template.

    Raises:
      UserError: `out` exists, a method PEFT has no format for, or logits that differ by more than rounding (a fused
        module is written as blocks of zeros and values, whose products add up in another order).
    """
    from ptft_jax.interop import peft

    _refuse_existing(out)
    temporary = cache.folder_beside(out)
    try:
        model = families.canonical(fields)
        names, ties = family.tensors(model), family.ties(model)
        # A network that only training needs has no place there; what it makes has.
        collapsed, params = Transformer(ModelSpec(**model), adapter).collapsed(params)
        adapter = collapsed.adapt
        plain = {path: array for path, array in flatten(params).items() if not is_added(path)}
        changed = [p for p, a in plain.items() if before is not None and not np.array_equal(a, before[p])]
        if before is not None:  # what trains may be kept wider than the base
            plain = {path: np.asarray(before[path]).astype(a.dtype) for path, a in plain.items()}
        options: dict[str, Any] = {"ties": ties, "family": family.model_type, "base": base, "changed": changed}
        if not _writes(model):  # PEFT asks a causal language model for what others have not
            options["task"] = "SEQ_CLS" if ModelSpec(**model).reads_last and "head/classes/kernel" in changed else None
        peft.write(temporary, adapter, params, names, **options)
        read = peft.read(temporary, names, unflatten(plain), prefix=family.prefix, ties=ties)
        ours = _logits(fields, adapter)(flatten(params))
        theirs = _logits(fields, read.method)(read.onto(plain))
        difference = float(np.abs(theirs - ours).max() / np.abs(ours).max())
        warning = peft.warning(params, names, ties)
        if difference > 1e-5:
            raise UserError(f"the adapter, read back, gives other logits, by {difference:.3g} of the largest")
        for name, data in (files or {}).items():
            (temporary / name).write_bytes(data)
        cache.as_new(temporary)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    written = {
        "out": str(out),
        "base": base,
        "files": sorted(p.name for p in out.iterdir()),
        "logit_difference": difference,
    }
    return written | ({"warning": warning} if warning else {})


def verify(exported: Exported, reference: str, dtype: str) -> float:
    """Reads an export back and compares it with what was meant: the config, the names of classes, the ids of hard texts
    (`tokenizer_files.HARD`), the chat template, every parameter, and the logits of both.

    Returns:
      The largest difference of logits over the largest logit: 0 but for q8_0, whose parameters must each be within half
      a step of their block's scale (max / 127) of the original.

    Raises:
      UserError: anything differs.
    """
    from ptft_jax.interop import pretrained

    found = pretrained.find(reference, "--out", plugins=exported.plugins)
    wrong = [
        f"{k}: {v!r}, read back as {found.fields[k]!r}"
        for k, v in exported.fields.items()
        if not families.same(v, found.fields[k])
    ]
    wrong += [
        f"class {n}: {ours!r}, read back as {theirs!r}"
        for n, (ours, theirs) in enumerate(itertools.zip_longest(exported.classes, found.classes))
        if ours != theirs
    ]
    if wrong:
        raise UserError(f"the export, read back, is another model:{listed(wrong)}")
    if exported.tokenizer is not None:
        tokenizer_files.refuse_differing(exported.tokenizer, found.tokenizer, "the tokenizer of the export, read back,")
        tokenizer_files.refuse_other_chat(exported.tokenizer, exported.template, found.tokenizer)
    read = flatten(found.parameters(on_one_device))
    meant = {path: np.asarray(array).astype(np.float32) for path, array in exported.params.items()}
    if dtype in DTYPES:
        # GGUF keeps vectors in float32 whatever the dtype of matrices, so either value is right for those.
        cast = {path: array.astype(DTYPES[dtype]).astype(np.float32) for path, array in meant.items()}
        plus_one = exported.fields["norm"] == "rms_plus_one"

        def used(
            path: str, array: Any
        ) -> np.ndarray:  # such scales are kept by GGUF as what is computed with, 1 + scale
            return 1 + np.asarray(array) if plus_one and path.endswith("/scale") else np.asarray(array)

        bad = [p for p in meant if not any(np.array_equal(used(p, read[p]), used(p, v[p])) for v in (cast, meant))]
    else:
        bad = [p for p, array in meant.items() if np.abs(read[p] - array).max() > 0.51 * np.abs(array).max() / 127]
    if bad:
        raise UserError(f"the export, read back, has other values:{listed(bad)}")
    logits = _logits(exported.fields)
    theirs, ours = logits(read), logits(meant)
    if dtype == "float32" and not np.array_equal(theirs, ours):
        raise UserError(f"the export, read back, gives other logits, by up to {np.abs(theirs - ours).max():.3g}")
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def _logits(fields: Model, adapter: Any = None) -> Callable[[Mapping[str, Any]], np.ndarray]:
    """A function from flat parameters to the logits of some random input; compiled once."""
    spec, rng = ModelSpec(**families.canonical(fields)), np.random.default_rng(0)
    if spec.image_size:
        inputs: Any = rng.normal(size=(2, spec.image_size, spec.image_size, spec.channels)).astype(np.float32)
    else:
        inputs = rng.integers(0, spec.vocab_size, (2, min(32, spec.max_length)))
    model = Transformer(spec, adapter)
    run = jax.jit(functools.partial(_pixels, model) if spec.head == "pixels" else model.__call__)
    return lambda flat: np.asarray(run(unflatten(dict(flat)), inputs))


def _pixels(model: Transformer, params: Any, images: jax.Array) -> jax.Array:
    """What all patches are predicted to be where every second one is seen."""
    count = model.spec.max_length - 1
    visible = jnp.broadcast_to(jnp.arange(0, count, 2), (len(images), -(-count // 2)))
    return model.pixels(params, model.hidden(params, Inputs(images, visible=visible)), visible)


def _refuse_existing(out: pathlib.Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out={out}: is there already, and not an empty folder; choose another name, or remove it")
    if out.is_dir():
        out.rmdir()


def _dump(path: pathlib.Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
