"""The markers of turns of a chat template as tokens of their own, where a run asks for it (`tokenizer.add_markers`)."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.adapters.base import Rules
from ptft_jax.data import chat, endings
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.params import vocabulary
from ptft_jax.runs import identity
from ptft_jax.runs.parent import Parent


def add(values: dict[str, Any], parent: Parent | None) -> None:
    """Fills in `tokenizer.add` with the markers of `data.template` where what ends a turn of it is no token; and `tune.rates` where
    the tables would be frozen beside an adapter. Nothing is added where tables cannot train, or where the parent learned the
    markers as text.

    Args:
      values: a config completed by the parent's structure, changed in place.
      parent: what the run starts from.

    Raises:
      UserError: there is no such template.
    """
    name = values["data"]["template"]
    if not name or values["model"]["image_size"]:
        return
    tokenizer = parent.tokenizer if parent else _first(values["tokenizer"])
    assert tokenizer is not None
    template = chat.template(tokenizer, name, "data.template")
    if parent is not None:
        learned = identity.template_of(parent, tokenizer)
        if learned is not None and learned.source == template.source:
            return
    texts = tuple(t for t in endings.missing(tokenizer, template) if t not in values["tokenizer"]["add"])
    if texts and (parent is None or _tables_train(values)):
        values["tokenizer"]["add"] = (*values["tokenizer"]["add"], *texts)


def _first(settings: Mapping[str, Any]) -> tok.Tokenizer:
    """The tokenizer of a run without a parent, as far as markers go: one that is trained on texts has none."""
    if settings["kind"] == "file":
        return tok.from_file(pathlib.Path(settings["path"]).expanduser())
    return tok.ByteTokenizer()


def _tables_train(values: dict[str, Any]) -> bool:
    """Whether the tables of the vocabulary train; lets them where an adapter alone would."""
    tune, fresh = configs.check(values, complete=False).tune, tuple(values["init"]["fresh"])
    untied = not values["model"]["tied"] and values["model"]["head"] == "lm"
    tables = [path for path in vocabulary.AXES if path.startswith("embed/") or (untied and path == "head/kernel")]
    rules = adapters.rates(tune, fresh)
    frozen = [path for path in tables if not _rate(rules, path)]
    if not frozen:
        return True
    method = adapters.build(tune)
    if method is None or tune.rates or tune.adapters or (method.quantization and any(map(method.quantizes, frozen))):
        return False
    values["tune"]["rates"] = (*((path, 1.0) for path in frozen), *rules)
    try:
        adapters.rates(configs.check(values, complete=False).tune, fresh)
    except UserError:  # the method has rates of its own, which these would silence
        values["tune"]["rates"] = ()
        return False
    return True


def _rate(rules: Rules, path: str) -> float:
    return next((rate for pattern, rate in rules if re.fullmatch(pattern, path)), 0.0)
