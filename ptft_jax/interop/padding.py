"""What rows are padded with where a head reads the last token of a text: by it transformers finds that token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax.data import endings
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError

ADDED = "<|pad|>"
_TABLE = "embed/tokens/embedding"


def token(
    tokenizer: tok.Tokenizer, given: int | None = None, last: Sequence[int] = (), template: str = ""
) -> int | None:
    """The id of what rows are padded with; None where the tokenizer has no control token for it.

    Args:
      given: what the imported config.json says.
      last: control tokens that texts end with, and that are therefore no padding.
      template: the source of the chat template whose answers end such texts, if any.
    """
    taken = set(last)
    if last and template and (end := endings.of(tokenizer, Template(template, "the chat template")).token) is not None:
        taken.add(end)
    given = given if given in tokenizer.special_ids else None  # some say -1, or what the vocabulary has not
    choices = (given, tokenizer.pad_id, tokenizer.end_id, tokenizer.unk_id, *sorted(tokenizer.special_ids))
    return next((i for i in choices if i is not None and i not in taken), None)


def refuse_end(imported: Any, last: Sequence[int], field: str) -> None:
    """Raises UserError where imported weights (`ptft_jax.interop.pretrained.Pretrained`) have a head for classes that was read before the
    end of a text: where padding is what texts end with, transformers takes the end for padding, and reads the token before it.

    Args:
      last: control tokens that texts end with here.
      field: names the weights in the message.
    """
    config = next((entry["config"] for entry in imported.lineage("") if "model_type" in entry), {})
    if imported.fields["head"] == "classes" and (pad := config.get("pad_token_id")) in last:
        raise UserError(
            f"{field}: {imported.name}: config.json: pad_token_id = {pad} is what texts end with, too: transformers reads such a head at the "
            "token before the end, and here it would be read at the end, which gives other numbers. Its head may be trained again "
            "(init.fresh=('head/.*',))"
        )


def added(tokenizer: tok.Tokenizer, params: Mapping[str, Any]) -> tuple[tok.Tokenizer, dict[str, Any], int]:
    """A tokenizer with a control token to pad with, flat parameters with a row of zeros for it where the table of embeddings has none,
    and how many rows that has. No text has the token, and no head reads it."""
    grown, rows = tok.with_tokens(tokenizer, (ADDED,)), np.asarray(jax.device_get(params[_TABLE]))
    more = np.zeros((max(grown.vocab_size - len(rows), 0), rows.shape[1]), rows.dtype)
    table = np.concatenate([rows, more])
    return grown, {**params, _TABLE: table}, len(table)
