"""The model that a run learns from (`config.objective.distill.teacher`): found, checked, and asked before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax

from ptft_jax import config as configs
from ptft_jax.adapters.composed import Composed
from ptft_jax.adapters.options import QuantizeOptions
from ptft_jax.adapters.quantized import QuantizedBase
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
from ptft_jax.training.reference import Asked

FIELD = "config.objective.distill.teacher"


class Teacher:
    """A run's model, or imported weights, of any structure. Its parameters are read when they are asked for, onto one device."""

    def __init__(self, config: configs.Section, tokenizer: tok.Tokenizer, vocab_size: int, packed: Callable[[], bool]):
        """
        Args:
          config, tokenizer: the run's.
          vocab_size: rows of the token table of the run's model.
          packed: whether rows hold several texts.

        Raises:
          UserError: there is no such model; it has another tokenizer, sees fewer positions than a row has, or predicts no next tokens.
        """
        own = config.objective.distill
        self._reference, self._plugins = own.teacher, config.plugins
        self._dtype, self._quantize = config.model.dtype, own.quantize
        self._source = source = restore.find(own.teacher, FIELD, plugins=config.plugins)
        self._where = f"{FIELD} = {own.teacher!r}"
        known = config.tables.objectives["distill"]
        if source.config.model.image_size or not known.fits(source.config.model):
            raise UserError(f"{self._where}: {source.name} predicts no next tokens, which a run learns from a teacher")
        self._check_vocabulary(tokenizer, vocab_size)
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

    def _check_vocabulary(self, mine: tok.Tokenizer, size: int) -> None:
        theirs, source = self._source.tokenizer, self._source
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

    def asked(self, recorded: str = "") -> tuple[Asked, str]:
        """The teacher as it is asked, and the fingerprint of its parameters. `recorded`: that of a run that goes on; parameters are then
        read only where something has to be computed again, and a UserError is raised where they have another."""
        if not recorded:
            model, params, recorded = self._loaded()
            load: Callable[[], tuple[Any, Any]] = lambda: (model, params)  # noqa: E731
        else:

            def load() -> tuple[Any, Any]:
                model, params, found = self._loaded()
                if found != recorded:
                    raise UserError(
                        f"{self._where}: it has changed since the run was started, and the cache has lost what was computed of it"
                    )
                return model, params

        source = self._source
        structure = json.dumps([source.config.as_dict()["model"], source.fields], sort_keys=True, default=str)
        key = (recorded, structure, repr(source.adapter), self._dtype, self._quantize)
        return Asked(load, jax.device_put, key, "the teacher's predictions", self._where), recorded

    def _loaded(self) -> tuple[Any, Any, str]:
        """The model, its parameters and their fingerprint."""
        loaded = loading.load(self._reference, field=FIELD, dtype=self._dtype, plugins=self._plugins)
        model, params = loaded.model, loaded.params
        finite.refuse(flatten(params), f"{self._where}: {loaded.source.name}")
        fingerprint = restore.start_fingerprint(loaded.source, params, "auto", "")
        if self._quantize != "none":
            method: Any = model.adapt or Composed(())
            how = QuantizedBase(method, Quantization(self._quantize), QuantizeOptions().targets)
            model, params = Transformer(model.spec, how), how.encode(params)
        return model, params, fingerprint
