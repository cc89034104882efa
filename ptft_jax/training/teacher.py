"""The model that a run learns from (`config.objective.distill.teacher`): found, checked, and asked before the first step."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from ptft_jax import config as configs
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.options import QuantizeOptions
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.data import cache
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.tokenizers import alike
from ptft_jax.errors import UserError
from ptft_jax.model import spec as specs
from ptft_jax.model.quantized import Quantization
from ptft_jax.model.transformer import Transformer
from ptft_jax.params import finite
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from ptft_jax.runs import source as restore
from ptft_jax.runs.files import write_json
from ptft_jax.runs.parent import Parent
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.reference import Asked, rows_at_once

FIELD = "config.objective.distill.teacher"


class Teacher:
    """A run's model, or imported weights, of any structure. Its parameters are read when they are asked for, onto one device. A run that
    has begun looks for it only where something has to be computed again, at the step that it was then."""

    def __init__(
        self,
        config: configs.Section,
        tokenizer: tok.Tokenizer,
        vocab_size: int,
        packed: Callable[[], bool],
        workdir: pathlib.Path,
        devices: int = 1,
    ):
        """
        Args:
          workdir: of the run.
          devices: how many it has.
          config, tokenizer: the run's.
          vocab_size: rows of the token table of the run's model.
          packed: whether rows hold several texts.

        Raises:
          UserError: there is no such model; it has another tokenizer, sees fewer positions than a row has, or predicts no next tokens.
        """
        own = config.objective.distill
        self._reference, self._plugins = own.teacher, config.plugins
        self._dtype, self._quantize = config.model.dtype, own.quantize
        self._where = f"{FIELD} = {own.teacher!r}"
        self._rows = rows_at_once(config, devices)
        self._kept = config.objective.name == "distill"  # else it is asked at each step
        self._source: Parent | None = None
        here = Workdir(workdir)
        if here.is_run and here.begun():
            before = here.read_teacher()
            if "step" in before:
                self._reference = restore.at_step(own.teacher, before["step"])
            return
        self._source = source = restore.find(own.teacher, FIELD, plugins=config.plugins)
        known = config.tables.objectives["distill"]
        if source.config.model.image_size or not known.fits(source.config.model):
            raise UserError(f"{self._where}: {source.name} predicts no next tokens, which a run learns from a teacher")
        self._check_vocabulary(source, tokenizer, vocab_size)
        if self._quantize != "none" and source.quantization:
            raise UserError(
                f"config.objective.distill.quantize = {self._quantize!r}: the base of {source.name} is kept in {source.quantization.format} "
                "already: leave it at 'none'"
            )
        method = source.adapter if source.adapter is not None and not source.adapter.mergeable else None
        model = Transformer(specs.from_config(source.config.model, source.fields["vocab_size"]), method)
        if model.max_tokens < config.data.length:
            raise UserError(
                f"{self._where}: {source.name} sees at most {model.max_tokens} tokens (model.max_length), and config.data.length = "
                f"{config.data.length}: give at most {model.max_tokens}"
            )
        if (why := model.one_text_a_row) and packed():
            raise UserError(
                f"{self._where}: rows of several texts cannot share learned vectors before the tokens in a model with {why}: set "
                "data.packing='none'"
            )

    def _check_vocabulary(self, source: Parent, mine: tok.Tokenizer, size: int) -> None:
        theirs = source.tokenizer
        if theirs is None or not alike.same(theirs, mine):
            counts = "" if theirs is None else f" ({theirs.vocab_size} and {mine.vocab_size} tokens)"
            raise UserError(
                f"{self._where}: {source.name} and this run have different tokenizers{counts}: the same numbers are other texts, so nothing can "
                "be learned from its probabilities; what it writes can be (ptft generate)"
            )
        if source.fields["vocab_size"] != size:
            raise UserError(
                f"{self._where}: {source.name} scores {source.fields['vocab_size']} tokens, and this run {size} (model.vocab_size): "
                "their probabilities are of other sets"
            )

    def record(self, workdir: pathlib.Path) -> str:
        """Writes down which it is, before the first step of the run in `workdir`, and protects it as a parent is. Returns what people
        should know of that, or ""."""
        if self._source is None:  # it has begun
            return ""
        step = {"step": self._source.step} if isinstance(self._source, restore.Source) else {}
        write_json(Workdir(workdir).teacher, {"reference": self._source.name, **step})
        return restore.protect(self._source, workdir)

    def asked(self, recorded: str = "") -> tuple[Asked, str]:
        """The teacher as it is asked, and what it is known by: the fingerprint of its parameters, and a digest of its structure.
        `recorded`: that of a run that goes on; of one that does not ask at each step parameters are then read only where something has to be
        computed again. Raises UserError where they, or the structure, have another."""
        before = recorded

        def loaded() -> tuple[Any, Any, str]:
            model, params, found = self._loaded()
            if before and found != before:
                raise UserError(
                    f"{self._where}: it has changed since the run was started"
                    + (", and the cache has lost what was computed of it" if self._kept else "")
                )
            return model, params, found

        load: Callable[[], tuple[Any, Any]] = lambda: loaded()[:2]  # noqa: E731
        if not before or not self._kept:
            model, params, recorded = loaded()
            load = lambda: (model, params)  # noqa: E731

        key = (recorded, self._dtype, self._quantize)
        return Asked(load, jax.device_put, self._rows, key, "the teacher's predictions", self._where), recorded

    def _loaded(self) -> tuple[Any, Any, str]:
        """The model, its parameters and what it is known by."""
        loaded = loading.load(self._reference, field=FIELD, dtype=self._dtype, plugins=self._plugins)
        model, params, source = loaded.model, loaded.params, loaded.source
        finite.refuse(flatten(params), f"{self._where}: {source.name}")
        structure = json.dumps([source.config.as_dict()["model"], source.fields], sort_keys=True, default=str)
        fingerprint = restore.start_fingerprint(source, params, "auto", "")
        known = f"{fingerprint} {cache.digest(structure, repr(source.adapter))}"
        if self._quantize != "none":
            method: Any = model.adapt or Composed(())
            how = QuantizedBase(method, Quantization(self._quantize), QuantizeOptions().targets)
            model, params = Transformer(model.spec, how), how.encode(params)
        return model, params, known
