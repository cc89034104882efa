"""What stands in a conversation is text, whatever it spells: told apart from what a template writes, or refused.

A control token is the template's only where every character of it is. Where a template goes from one turn to the next
without one, in words such as "[/INST]", the same words in a message would be read as a turn: nothing could tell.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from ptft_jax.data import provenance
from ptft_jax.data.sandbox import Template, Traced
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError

_ROLES = ("user", "assistant", "user", "assistant")


def literal(traced: Traced) -> np.ndarray:
    """bool [characters]: those that the template has not written itself."""
    return np.frombuffer(traced.origin.encode("utf-32-le", "surrogatepass"), np.uint32) != ord(provenance.TEMPLATE)


def changes(tokenizer: Tokenizer, template: Template) -> tuple[str, ...]:
    """The words with which a template goes from one turn to the next, of those that have no control token among them."""
    found: dict[str, None] = {}
    for roles in (("system", *_ROLES), _ROLES, _ROLES[:2]):
        paths: list[provenance.Path] = []
        messages = [{"role": role, "content": "a"} for role in roles]
        given = provenance.said({"messages": messages}, (), paths, lambda path: path[2:] == ("role",))
        variables = {**tokenizer.named, "tools": None, "documents": None, "add_generation_prompt": False, **given}
        try:
            traced = template.trace(variables)
        except UserError:  # not a conversation that it renders
            continue
        places = [found.span() for found in re.finditer(f"[^{provenance.TEMPLATE}]+", traced.origin)]
        for (_, start), (end, _) in zip(places, places[1:]):
            found[traced.text[start:end]] = None
        break
    control = tokenizer.special_ids - {tokenizer.unk_id}
    return tuple(
        words
        for words in found
        if any(map(str.isalnum, words)) and not control & {*tokenizer.encode(words, special=True).tolist()}
    )


def check(
    traced: Traced,
    paths: Sequence[provenance.Path],
    tokenizer: Tokenizer,
    changes: Sequence[str],
    *,
    own: Collection[int] = (),
    remedy: str = "",
) -> None:
    """Raises UserError for data that could not be told from a turn.

    Args:
      paths: of `provenance.said`.
      changes: of `changes`.
      own: messages that may spell what they like: what the model that is to go on wrote itself.
      remedy: what the message ends with.
    """
    for words in changes:
        at = traced.text.find(words)
        while at >= 0:
            numbers = provenance.values(traced.origin[at : at + len(words)])
            if numbers := [n for n in numbers if paths[n][0] != "messages" or paths[n][1] not in own]:
                raise UserError(
                    f"{shown(paths[min(numbers)])}: it has the words {words!r}, with which the template goes from one turn to "
                    f"the next, and which are no control token of the tokenizer: it would be read as a turn{remedy}"
                )
            at = traced.text.find(words, at + 1)
    if provenance.UNKNOWN in traced.origin:
        for token in filter(None, tokenizer.special):
            for found in re.finditer(re.escape(token), traced.text):
                if provenance.UNKNOWN in traced.origin[slice(*found.span())]:
                    raise UserError(
                        f"the text has the control token {token!r} where it cannot be told whether the template wrote it or the "
                        f"data spell it, as the template makes it in a way that cannot be followed{remedy}"
                    )


def shown(path: provenance.Path) -> str:
    """Where a value is: messages[1].tool_calls[0].function.name."""
    first, *rest = path
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
