"""How a chat template ends an answer: with which token, or with which text where that is none of the tokenizer's."""

from __future__ import annotations

import re
from typing import NamedTuple

from ptft_jax.data import chat
from ptft_jax.data.chat_templates import STOPS
from ptft_jax.data.sandbox import Template
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError

# Words that no template writes itself.
_ASKED, _ANSWERED = "8c1fq", "27d0z"
_TURNS = ({"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED})
# How templates write markers, by the character that follows the first: <|im_end|>, </s>, [/INST].
_MARKERS = (r"<\|[^\s<>|]+\|>", r"</?[A-Za-z_][\w.:-]*>", r"\[/?[A-Za-z_]+\]")


class Ending(NamedTuple):
    """What follows an answer, white space aside: the text of it, "" for nothing, and the control token that it is, None where
    it is none."""

    text: str
    token: int | None


def of(tokenizer: Tokenizer, template: Template) -> Ending:
    """How a template ends the last answer of a conversation; of one that refuses the simplest conversation nobody knows."""
    name = chat.built_in(tokenizer, template)
    if name:
        return Ending(STOPS[name], tokenizer.special.get(STOPS[name]))
    rest = _rendered(tokenizer, template, *_TURNS).rpartition(_ANSWERED)[2].lstrip()
    token = max((text for text in tokenizer.special if rest.startswith(text)), key=len, default="")
    if token:
        return Ending(token, tokenizer.special[token])
    marker = next(filter(None, (re.match(form, rest) for form in _MARKERS)), None)
    return Ending(marker[0] if marker else "".join(rest.split()[:1]), None)


def stops(tokenizer: Tokenizer, template: Template) -> tuple[int, ...]:
    """Every token that ends an answer: the tokenizer's, and the template's."""
    token = of(tokenizer, template).token
    return tuple(dict.fromkeys([*tokenizer.stop_ids, *([] if token is None else [token])]))


def missing(tokenizer: Tokenizer, template: Template) -> tuple[str, ...]:
    """The markers of turns that should be tokens and are not, in the order in which a conversation has them; () where the
    answer's end is a token, or where nothing marks it."""
    ending = of(tokenizer, template)
    if not ending.text or ending.token is not None:
        return ()
    form = next((form for form in _MARKERS if re.fullmatch(form, ending.text)), None)
    if form is None:
        return (ending.text,)
    found = [*re.findall(form, _rendered(tokenizer, template, *_TURNS, _TURNS[0], prompt=True)), ending.text]
    return tuple(text for text in dict.fromkeys(found) if not tokenizer.has(text))


def _rendered(tokenizer: Tokenizer, template: Template, *turns: dict[str, str], prompt: bool = False) -> str:
    try:
        return chat.render(tokenizer, turns, prompt, template=template)
    except UserError:
        return ""
