"""Which columns make which format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.data.formats import late
from ptft_jax.data.formats.messages import is_messages, is_sharegpt


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_ids(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(v) is int for v in value[:1000])


def is_flags(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(v) in (int, bool) for v in value[:1000])


def is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value[:1000])


def is_picture(value: Any) -> bool:
    """Bytes (`ptft_jax.data.pictures.decoding.Image`), or a table that has them, as Hugging Face's datasets keep images."""
    return isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes))


def is_label(value: Any) -> bool:
    return isinstance(value, (int, str))


def is_number(value: Any) -> bool:
    """Of regression; texts too, since CSV has nothing else: what they spell is seen when they are read."""
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def is_margin(value: Any) -> bool:
    """As `is_number`, of a column that may be about something else: a text has to spell one."""
    try:
        return is_number(value) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def is_truth(value: Any) -> bool:
    """As a table without types has it, too, or one that has numbers for what may be missing."""
    return isinstance(value, (bool, int, float, str)) and truth(value) is not None


def truth(value: Any) -> int | None:
    """1 or 0 of a value that says true or false; None of others."""
    return TRUTHS.get(value.lower() if isinstance(value, str) else value)


def is_conversation(value: Any) -> bool:
    return is_messages(value) or is_sharegpt(value)


def is_prompt(value: Any) -> bool:
    return is_text(value) or is_conversation(value)


def _anything(value: Any) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a format.

    Attributes:
      kind, name: see `Format`.
      needs: what a column is -> (test of its values, what they are in words).
      usual: the names that these columns usually have, the first that fits counts.
      may: further columns -> (test, what they are in words, names they usually have).
    """

    kind: str
    name: str
    needs: Mapping[str, tuple[Callable[[Any], bool], str]]
    usual: Sequence[Mapping[str, str]]
    may: Mapping[str, tuple[Callable[[Any], bool], str, Sequence[str]]] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.needs, *self.may)


def _named(*names: str, **more: str) -> list[dict[str, str]]:
    [what] = more
    return [{what: name} for name in (more[what], *names)]


# Prompts and completions are published under these names.
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "response"),
    ("instruction", "response"), ("query", "response"), ("input", "output"),
)  # fmt: skip
_BOTH = {"chosen": "chosen", "rejected": "rejected"}
# Pairs of texts with a class are published under these names (GLUE, SNLI, MRPC).
TWO_TEXTS = (
    ("text", "pair"), ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("question1", "question2"), ("question", "sentence"), ("text1", "text2"),
)  # fmt: skip
_TEXT, _MESSAGES = (is_text, "text"), (is_messages, 'a list of {"role", "content"}')
_CONVERSATION = (is_conversation, "a list of messages")
_LABEL = (is_label, "a class: a whole number or a name")
_PICTURE = (is_picture, "an image")
_PICTURES = ("image", "img", "picture")  # columns of images are published under these names
_NUMBER = (is_number, "a number")
_AROUND = {
    "tools": (_anything, "tools", ("tools",)),
    "documents": (_anything, "documents", ("documents",)),
    "system": (*_TEXT, ("system",)),
}
_TRUTH = (is_truth, "true or false")
_MARGIN = {"margin": (is_margin, "a number", ("margin",))}
_PAIR_NAMES = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
# Kinds of data that are read as such only for objectives that learn from them: their records are those of other kinds, too.
RATED = ("rated", "rated-text")
CAPTIONED, QUESTIONED = "captioned-images", "asked-images"
SAID = (CAPTIONED, QUESTIONED)  # images with texts
ASKED = ("regression", *RATED, *SAID)
TALKING = ("answers", "preference", "rated")  # kinds that have prompts and answers
TRUTHS: Mapping[Any, int] = {True: 1, False: 0, "true": 1, "false": 0, "1": 1, "0": 0}  # 1 and 0 are True and False
TALKS = (is_messages, is_sharegpt, is_conversation, is_prompt)
CLASSED = ("classification", "labelled-images")  # kinds whose labels are classes
# In this order: the first that fits is taken.
LAYOUTS = (
    Layout(
        QUESTIONED,
        QUESTIONED,
        {"image": _PICTURE, "question": _TEXT, "answer": _TEXT},
        [
            {"image": image, "question": question, "answer": answer}
            for image in _PICTURES
            for question, answer in (("question", "answer"), ("prompt", "completion"), ("prompt", "response"))
        ],
    ),
    Layout(
        CAPTIONED,
        CAPTIONED,
        {"image": _PICTURE, "caption": _TEXT},
        [{"image": image, "caption": caption} for image in _PICTURES for caption in ("caption", "text")],
    ),
    Layout(
        "labelled-images",
        "labelled-images",
        {"image": _PICTURE, "label": _LABEL},
        [{"image": image, "label": label} for image in _PICTURES for label in ("label", "labels")],
    ),
    Layout("images", "images", {"image": _PICTURE}, [{"image": image} for image in _PICTURES]),
    Layout(
        "tokens",
        "tokens",
        {"input_ids": (is_ids, "a list of ids")},
        _named("tokens", input_ids="input_ids"),
        {
            "labels": (is_ids, "a list of ids", ("labels",)),
            "mask": (is_flags, "a list of 0 and 1", ("loss_mask", "assistant_masks", "completion_mask")),
            "padding": (is_flags, "a list of 0 and 1", ("attention_mask",)),
        },
    ),
    Layout(
        "preference",
        "preference-messages",
        {side: _CONVERSATION for side in _BOTH},
        [_BOTH],
        {"prompt": (is_prompt, "text or a list of messages", ("prompt",)), **_MARGIN, **_AROUND},
    ),
    Layout(
        "preference",
        "preference",
        {side: _TEXT for side in _BOTH},
        [_BOTH],
        {"prompt": (*_TEXT, ("prompt",)), **_MARGIN},
    ),
    Layout(
        "steps",
        "steps",
        {
            "prompt": _TEXT,
            "completions": (is_texts, "a list of texts"),
            "labels": (is_flags, "a list of true and false"),
        },
        [{"prompt": "prompt", "completions": "completions", "labels": "labels"}],
    ),
    Layout(
        "answers",
        "messages",
        {"messages": _MESSAGES},
        _named("conversations", "conversation", "dialog", "dialogue", "chat", messages="messages"),
        _AROUND,
    ),
    Layout(
        "answers",
        "sharegpt",
        {"messages": (is_sharegpt, 'a list of {"from", "value"}')},
        _named("conversation", "messages", "dialog", "dialogue", "chat", messages="conversations"),
        _AROUND,
    ),
    Layout(
        "answers",
        "alpaca",
        {"instruction": _TEXT, "output": _TEXT},
        [{"instruction": "instruction", "output": "output"}],
        {"input": (*_TEXT, ("input",))},
    ),
    Layout(
        "answers",
        "prompt-messages",
        {"prompt": _CONVERSATION, "completion": _CONVERSATION},
        _PAIR_NAMES,
        _AROUND,
    ),
    Layout("answers", "prompt-completion", {"prompt": _TEXT, "completion": _TEXT}, _PAIR_NAMES),
    Layout(
        "rated",
        "rated-messages",
        {"prompt": _CONVERSATION, "completion": _CONVERSATION, "label": _TRUTH},
        [names | {"label": "label"} for names in _PAIR_NAMES],
        _AROUND,
    ),
    Layout(
        "rated",
        "rated",
        {"prompt": _TEXT, "completion": _TEXT, "label": _TRUTH},
        [names | {"label": "label"} for names in _PAIR_NAMES],
    ),
    Layout(
        "rated-text",
        "rated-text",
        {"text": _TEXT, "label": _TRUTH},
        [{"text": text, "label": "label"} for text in ("text", "sentence")],
    ),
    Layout(
        "classification",
        "classification-pairs",
        {"text": _TEXT, "pair": _TEXT, "label": _LABEL},
        [{"text": text, "pair": pair, "label": label} for text, pair in TWO_TEXTS for label in ("label", "labels")],
    ),
    Layout(
        "classification",
        "classification",
        {"text": _TEXT, "label": _LABEL},
        [{"text": text, "label": label} for text in ("text", "sentence") for label in ("label", "labels")],
    ),
    Layout(
        "regression",
        "regression-pairs",
        {"text": _TEXT, "pair": _TEXT, "label": _NUMBER},
        [{"text": text, "pair": pair, "label": label} for text, pair in TWO_TEXTS for label in ("label", "labels")],
    ),
    Layout(
        "regression",
        "regression",
        {"text": _TEXT, "label": _NUMBER},
        [{"text": text, "label": label} for text in ("text", "sentence") for label in ("label", "labels")],
    ),
    Layout("text", "text", {"text": _TEXT}, [{"text": "text"}]),
)
COLUMNS = tuple(dict.fromkeys(what for layout in LAYOUTS for what in layout.columns))
USUAL = frozenset(name for layout in LAYOUTS for names in layout.usual for name in names.values())
# Options of a source reference that are read here.
OPTIONS = ("format", "classes", "assistant_first", "control_tokens", "empty_answers", "unused", *COLUMNS)
# Every name that decides something: where one turns up first, records are looked at to the last one.
NAMES = USUAL | {*late.TELLING, *(n for layout in LAYOUTS for *_, names in layout.may.values() for n in names)}
