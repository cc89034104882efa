"""What PEFT's files hold of embeddings and heads that repeats something: the base's own arrays, factors of a tied head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax.errors import UserError
from ptft_jax.interop.peft_modules import ROOT, Module
from ptft_jax.params.rules import flatten

_TIES = "embed_tokens"  # the one name of tables whose tied heads PEFT knows (`ensure_weight_tying`)


def tied_heads(table: Module, ties: Mapping[str, str]) -> list[str]:
    """The names of linear modules that have the table for their weight; `ties` as of a family."""
    return [one.removesuffix(".weight") for one, of in ties.items() if of == f"{table.template}.weight"]


def of_tied_head(keys: Collection[str], ties: Mapping[str, str]) -> str:
    """What is wrong with tensors of an adapter that changes a head which is the table of tokens; "" where there are none."""
    heads = {name.removesuffix(".weight"): table.removesuffix(".weight") for name, table in ties.items()}
    for head, table in heads.items():
        if any(key.startswith(f"{ROOT}{table}.lora_") for key in keys):
            continue  # of the table, and so of the head
        for key in keys:
            if key.startswith(f"{ROOT}{head}.lora_"):
                return (
                    f"{key} is of the head, which is tied to {table}: with an adapter of its own it would be another matrix than the "
                    "table. Write the base untied (with transformers, tie_word_embeddings=False and a copy of the table for the head, "
                    "then save_pretrained(FOLDER)), and put the adapter onto hf:FOLDER"
                )
    return ""


def tied_factors(table: Module, ties: Mapping[str, str], a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """The factors of the heads that are tied to a table, from its own [R, rows] and [D, R], by the names of their tensors.

    Raises:
      UserError: a tied table that PEFT would adapt for the lookup alone.
    """
    heads = tied_heads(table, ties)
    if heads and table.suffix.rpartition(".")[2] != _TIES:
        raise UserError(
            f"{table.template}: PEFT knows a head that is tied to an adapted table by the table's name {_TIES} alone, and "
            "would adapt no more than the lookup; merge the adapter, and use the whole model"
        )
    return {f"{ROOT}{head}.lora_{x}.weight": factor.T for head in heads for x, factor in (("A", b), ("B", a))}


def without_copies(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    every: Mapping[str, Module],
    base: Mapping[str, Any],
    arrays: Callable[[], Mapping[str, Any]],
    ties: Mapping[str, str],
    prefix: str,
    where: str,
) -> dict[str, np.ndarray]:
    """The tensors of an adapter without those that repeat others: a tied head's factors, and tables and heads of the base,
    which PEFT saves beside an adapter of tables by default.

    Args:
      every: the modules of the model, tables among them.
      base: flat parameters of the plain model, or their shapes.
      arrays: gives the parameters themselves, nested; called where some have to be compared.
      ties, prefix: see `ptft_jax.interop.peft.read`.

    Raises:
      UserError: they differ from what they should repeat; a tied table that only the lookup was adapted of.
    """
    left = dict(tensors)
    for module in (m for m in every.values() if not m.depth):
        path = f"{next(iter(module.layers))}/{'embedding' if module.table else 'kernel'}"
        heads = tied_heads(module, ties) if module.table else []
        own = {module.template, module.template.removeprefix(prefix)}
        for name in (f"{ROOT}{name}{end}.weight" for name in (*own, *heads) for end in ("", ".base_layer")):
            if name in left:
                array = left.pop(name)
                _same(array if module.table or module.transposed else array.T, path, base, arrays, name, where)
        adapted = next((name for name in own if f"{ROOT}{name}.lora_embedding_A" in left), None)
        if heads and adapted is not None:
            _drop_tied(config, left, module, adapted, ties, where)
    return left


def _drop_tied(config, left: dict[str, np.ndarray], table: Module, name: str, ties, where: str) -> None:
    if not config.get("ensure_weight_tying"):
        raise UserError(
            f"{where}: the adapter changes {name} where tokens are looked up, and not the head, which is the same table (no "
            "ensure_weight_tying): that is no adapter of a tied model"
        )
    a, b = (left.get(f"{ROOT}{name}.lora_embedding_{x}") for x in "AB")
    if a is None or b is None:
        return  # said where tensors are checked
    for key, factor in tied_factors(table, ties, a, b).items():
        if not np.array_equal(left.pop(key, None), factor):
            raise UserError(f"{where}: {key} is missing, or not the transposed factor of {name}, which it is tied to")


def _same(array: np.ndarray, path: str, base: Mapping[str, Any], arrays: Callable, name: str, where: str) -> None:
    """Raises UserError unless an array is the base's at a path, in the array's own dtype."""
    ours = flatten(arrays())[path] if isinstance(base[path], jax.ShapeDtypeStruct) else base[path]
    if array.shape != ours.shape or not np.array_equal(array, np.asarray(ours).astype(array.dtype)):
        raise UserError(
            f"{where}: {name} is not the base's: that was changed as well, such as by new tokens. Write the changed base by itself "
            "(PeftModel.unload().save_pretrained(FOLDER)), and put the adapter onto hf:FOLDER; PEFT's merge_and_unload gives another "
            "model where the table is tied"
        )
