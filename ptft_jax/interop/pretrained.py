"""Weights of other libraries as what a run starts from: `hf:FOLDER`, `hf:ORG/MODEL[@REVISION]`, `gguf:FILE`."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.pictures import settled as pictures
from ptft_jax.interop import families, hf, labels
from ptft_jax.interop.archive import Archive, open_folder
from ptft_jax.interop.config_reader import Fields
from ptft_jax.model import spec as specs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params import resizing
from ptft_jax.params.rules import flatten, unflatten

_LENGTH = 1024  # tokens per row in evaluations of a model that was imported just for them, at most


class Pretrained:
    """An archive with everything known about it but its arrays. Has the same methods as `restore.Source`.

    Attributes:
      reference: how it can be found again.
      family: of `families.known`.
      fields: the structural fields of `config.model`, and `vocab_size`.
    """

    reference: str
    fields: dict[str, Any]
    adapter = quantization = None  # always whole weights, in the precision of the model
    data = None  # what it was trained on is not known
    step = 0

    def __init__(
        self, archive: Archive, ignore: Sequence[str] = (), fresh: Sequence[str] = (), plugins: Sequence[str] = ()
    ):
        self.archive, self.reference, self._plugins = archive, archive.reference, tuple(plugins)
        self.family, self.fields = families.read(archive.config, archive.reference, archive.shapes(), plugins)
        self._ignore, self._fresh = tuple(ignore), tuple(fresh)

    @property
    def name(self) -> str:
        """For messages."""
        return self.reference

    @functools.cached_property
    def config(self) -> configs.Section:
        """A config under which the model can be run by itself."""
        values = configs.default(self._plugins).to_dict()
        values["model"] |= self.fields
        values["objective"]["name"] = self._objective(values["model"])
        if not self.fields["image_size"]:
            values["data"]["length"] = min(_LENGTH, self.fields["max_length"])
        pictures.complete(values)
        return configs.check(values)

    def _objective(self, model: dict[str, Any]) -> str:
        """What a model with these settings is measured by: the first objective that goes with its head and its sight."""
        known = configs.check(configs.default().to_dict()).tables.objectives
        fitting = (name for name, spec in known.items() if spec.fits(types.SimpleNamespace(**model)))
        return next(fitting, "causal_lm")

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that its head scores, in their order; () where they have none, or it scores no classes."""
        return labels.read(Fields(self.archive.config, self.reference))[1] if self.fields["head"] == "classes" else ()

    @functools.cached_property
    def tokenizer(self) -> tok.Tokenizer:
        """The archive's tokenizer. Raises UserError where there is none, or one with more tokens than embeddings."""
        tokenizer = tok.from_files(self.archive.tokenizer_files(), self.reference)
        tok.check_fits(tokenizer, self.fields["vocab_size"], self.reference)
        return tokenizer

    def parameters(
        self,
        layout: Callable[[str, tuple[int, ...]], jax.sharding.Sharding],
        dtype: str = "float32",
        *,
        wide: Collection[str] = (),
        weights: str = "auto",
        merged: bool = True,
        **model: Any,
    ) -> dict[str, Any]:
        """The parameters in `dtype`, each streamed into its sharding; without those that `init.fresh` names.

        Args:
          wide: paths of those that are read in float32 whatever `dtype` is.
          weights, merged: as for a run's checkpoint; there is nothing to choose or merge here.
          model: fields that replace the archive's, where what differs is not taken from it.

        Raises:
          UserError: tensors that are missing, unmapped or of another shape, all listed.
        """
        sizes = {name: model.pop(name) for name in specs.SIZES if name in model}
        fields = families.canonical({**self.fields, **model})
        spec = specs.ModelSpec(**fields, param_dtype=dtype)
        shapes = Transformer(spec).shapes()
        shapes = unflatten(
            {p: jax.ShapeDtypeStruct(a.shape, "float32") if p in wide else a for p, a in flatten(shapes).items()}
        )
        own = families.canonical(self.fields)
        plan = hf.plan(self.archive, self.family, fields, shapes, ignore=self._ignore, fresh=self._fresh, own=own)
        found = plan.load(shapes, layout)
        return unflatten(resizing.resized(flatten(found), fields, {**fields, **sizes}, layout)) if sizes else found

    def lineage(self, fingerprint: str) -> list[dict[str, Any]]:
        """The chain of models behind a run, nearest first: only this one. Its config.json is kept for export."""
        here = {"reference": self.reference, "step": 0, "fingerprint": fingerprint, "run_id": ""}
        return [{**here, "model_type": self.family.model_type, "config": json.loads(json.dumps(self.archive.config))}]

    def relative_to(self, workdir: pathlib.Path) -> str:
        """Its place seen from a workdir, so that both may move together; "" for models of the hub."""
        path = pathlib.Path(self.reference.partition(":")[2])
        return os.path.relpath(path, workdir.absolute()) if path.is_absolute() else ""


def find(
    reference: str, field: str, ignore: Sequence[str] = (), fresh: Sequence[str] = (), plugins: Sequence[str] = ()
) -> Pretrained:
    """The pretrained model that `hf:...` or `gguf:...` names; `plugins`: that may have its family. Raises UserError."""
    kind, _, name = reference.partition(":")
    if kind == "hf":
        return Pretrained(open_folder(name, field), ignore, fresh, plugins)
    from ptft_jax.interop import gguf

    return Pretrained(gguf.open_archive(name), ignore, fresh, plugins)
