"""Conversations as ids, with the mask of what is learned of them: whose turn each token is, told by the template.

A template says what the assistant said in generation blocks (Hugging Face's `{% generation %}`), as `sandbox` follows
them. Of one that does not, a turn is what the text grows by: from the text of the messages before it, with what starts an
answer, to the text with it; both must be what the whole text starts with, else nothing is guessed. No text is searched
for what a message contains.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import chat, endings, provenance, spelled, unread
from ptft_jax.data.examples import Encoded
from ptft_jax.data.sandbox import Generated, Template, Traced
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.errors import UserError, nearest

ASSISTANT = "assistant"
# The day that templates find it to be when examples are made, so that these are the same on every day: the one that Llama's
# have where they are given none.
DAY = datetime.datetime(2024, 7, 26)
POLICIES = (ASSISTANT, "last", "all")
_REMEDY = "; control_tokens=yes in the options of the source lets it"


@dataclasses.dataclass(frozen=True)
class TrainOn:
    """What is learned of a conversation.

    Attributes:
      roles: whose turns.
      last: of those, only the assistant's last.
      everything: all tokens, control tokens of the template and what is in no turn included.
    """

    roles: frozenset[str]
    last: bool = False
    everything: bool = False

    @classmethod
    def parse(cls, setting: str, field: str = "data.train_on") -> TrainOn:
        """Reads "assistant", "last", "all", or roles joined by commas. Raises UserError, naming `field`."""
        if setting == "all":
            return cls(frozenset(chat.ROLES), everything=True)
        if setting == "last":
            return cls(frozenset({ASSISTANT}), last=True)
        roles = [role.strip() for role in setting.split(",")]
        for role in roles:
            if role not in chat.ROLES:
                valid = (*POLICIES, *chat.ROLES) if len(roles) == 1 else chat.ROLES
                expected = f"expected {', '.join(POLICIES)}, or roles of {', '.join(chat.ROLES)} joined by commas"
                raise UserError(f"{field} = {setting!r}: {role!r}: {expected}{nearest(role, valid)}")
        return cls(frozenset(roles))


class Conversation(NamedTuple):
    """A conversation to encode: its messages as `chat.check` wants them, and further variables of the template. A message
    that is not to be learned says "train": false, or "weight": 0 as in OpenAI's format. The assistant may speak first only
    with `assistant_first`. Control tokens that it spells are text, and the tokens only with `control_tokens`. All that it
    carries is to be in the text, but for what is in `asked`; None = nothing is asked of that. An answer that is empty is
    learned as others are, only with `learn_empty`."""

    messages: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any]
    where: str
    assistant_first: bool = False
    control_tokens: bool = False
    asked: unread.Asked | None = None
    learn_empty: bool = True


class Question(NamedTuple):
    """What a model is asked, as ids, as text, and where it was turns as these; and what it should answer."""

    ids: list[int]
    text: str
    answer: str
    conversation: Conversation | None = None


class Span(NamedTuple):
    """Characters [start, end) that are a turn. `exact`: where the template says so, else they may have more after the end
    of the turn, such as a newline."""

    start: int
    end: int
    role: str
    exact: bool


def encode(
    tokenizer: Tokenizer, template: Template, conversations: Sequence[Conversation], train_on: TrainOn
) -> list[Encoded]:
    """Conversations as a model reads them, and which ids are learned.

    What ends an answer, any of `endings.stops`, is learned with it, wherever the template writes it: right
    after the answer, or after white space, which then is learned too. Where a template ends the last answer with no such
    token, `end_id` follows (not after a built-in template, whose answers end with a text of `chat_templates.STOPS`).

    Raises:
      UserError: naming the conversation's place and the message: a malformed message, a template that fails or refuses,
        a turn whose place in the text cannot be told, a text that cannot be told from a turn, what the text does not
        depend on (see `ptft_jax.data.unread`).
    """
    changes = spelled.changes(tokenizer, template)
    made, literal = [], []
    for conversation in conversations:
        try:
            rendered = _rendered(tokenizer, template, conversation, train_on)
            if not conversation.control_tokens:
                spelled.check(rendered.traced, rendered.paths, tokenizer, changes, remedy=_REMEDY)
            rendered.traced.text.encode()
        except UserError as e:
            raise UserError(f"{conversation.where}: {e}") from e
        except UnicodeEncodeError as e:
            half = f"U+{ord(e.object[e.start]):X}"
            raise UserError(f"{conversation.where}: not Unicode: its text has the lone surrogate {half}") from e
        made.append(rendered)
        literal.append(None if conversation.control_tokens else spelled.literal(rendered.traced))
    stops = np.asarray(endings.stops(tokenizer, template), np.int32)
    encoded = tokenizer.encode_spans([rendered.traced.text for rendered in made], literal)
    rows = []
    for conversation, rendered, (ids, places) in zip(conversations, made, encoded):
        text, found = rendered.traced.text, rendered.spans
        answered = conversation.messages[-1]["role"] == ASSISTANT
        if answered and not chat.is_built_in(template) and not _ended(text, ids, places, stops):
            ids = np.append(ids, np.int32(tokenizer.end_id))
            places = np.append(places, np.asarray([[len(text), len(text) + 1]], np.int32), axis=0)
        before = chat.prefix(tokenizer, template, ids)
        trained = None
        if found is not None:
            trained = _mask(text, ids, places, found, stops)
            trained = ~trained if train_on.everything else trained
            trained = np.concatenate([np.full(len(before), train_on.everything), trained])
        empty = len(before) + np.searchsorted(places[:, 0], rendered.empty)
        empty = tuple(int(at) for at in empty if at < len(before) + len(ids) and (trained is None or trained[at]))
        rows.append(Encoded(np.concatenate([before, ids]), trained, empty=empty))
    return rows


def question(tokenizer: Tokenizer, template: Template, conversation: Conversation) -> Question:
    """A conversation up to its last turn, with what starts an answer, and that turn.

    Raises:
      UserError: naming the conversation's place: it does not end with an answer in words, or a template refuses what comes before it.
    """
    where, last = conversation.where, len(conversation.messages) - 1
    try:
        messages = chat.check(conversation.messages)
        for message in messages:
            for key in ("train", "weight"):  # not for templates
                message.pop(key, None)
        *before, answer = messages
        if answer["role"] != ASSISTANT or not before:
            raise UserError(
                f"messages[{last}] is of the {answer['role']}: the conversation ends with no answer to a prompt"
            )
        if answer.get("tool_calls") or not isinstance(answer["content"], str):
            raise UserError(
                f"messages[{last}]: the answer is a call of tools, and no text that another is compared with"
            )
        text = chat.render(tokenizer, before, True, template=template, **conversation.variables)
        control = conversation.control_tokens
        ids = chat.encode_chat(
            tokenizer, before, True, template=template, control_tokens=control, **conversation.variables
        )
    except UserError as e:
        raise UserError(f"{where}: {e}") from e
    return Question(ids.tolist(), text, answer["content"], conversation._replace(messages=before))


class _Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
      paths: where what the text has of the data is in them.
      spans: what of it is learned; if all is to be learned, what is not; None = all is.
      empty: the characters at which answers that are empty begin, of those that are learned.
    """

    traced: Traced
    paths: list[provenance.Path]
    spans: list[Span] | None
    empty: list[int]


def _rendered(tokenizer: Tokenizer, template: Template, conversation: Conversation, train_on: TrainOn) -> _Rendered:
    messages = chat.check(conversation.messages)
    wanted = [_opted(message, index, train_on) for index, message in enumerate(messages)]
    first = next((i for i, message in enumerate(messages) if message["role"] not in ("system", "developer")), 0)
    if messages[first]["role"] == ASSISTANT and not conversation.assistant_first:
        raise UserError(
            f"messages[{first}]: the conversation starts with the assistant, which templates are not made for; the option "
            "assistant_first=yes of the source lets it, where the template does"
        )
    variables = chat.template_variables(tokenizer, conversation.variables)

    def render(count: int, prompt: bool = False) -> str:
        return template.render({**variables, "messages": messages[:count], "add_generation_prompt": prompt})

    given, paths = chat.said(tokenizer, messages, conversation.variables)
    try:
        traced = template.trace({**given, "add_generation_prompt": False})
    except UserError as e:
        raise UserError(f"{_failing(render, len(messages))}{e}") from e
    answers = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    if train_on.last:
        wanted = [learned and index == answers[-1] for index, learned in enumerate(wanted)] if answers else wanted
    empty = [index for index in answers if wanted[index] and not _visible(traced, paths, index, messages[index])]
    if not conversation.learn_empty:
        wanted, empty = [learned and index not in empty for index, learned in enumerate(wanted)], []
    if conversation.asked is not None:
        _check_read(template, variables, conversation, messages, traced, paths, wanted)

    def spans(wanted: list[bool]) -> list[Span]:
        found = _generated_spans(traced.generated, given["messages"], wanted) if template.marks else []
        for index, message in enumerate(messages):
            if wanted[index] and not (template.marks and message["role"] == ASSISTANT):
                found.append(_grown_span(render, traced.text, index, message["role"], index + 1 == len(messages)))
        return found

    unlearned = [not learned for learned in wanted]
    found = spans(unlearned if train_on.everything else wanted) if not train_on.everything or any(unlearned) else None
    return _Rendered(traced, paths, found, [at for index in empty for at in _start(spans, index, len(messages))])


def _visible(traced: Traced, paths: list[provenance.Path], index: int, message: Mapping[str, Any]) -> bool:
    """Whether the text has more of a message than white space."""
    there = [n for n in provenance.values(traced.origin) if paths[n][:2] == ("messages", index)]
    if not there or not unread.empty(message["content"]):
        return bool(there)
    own = set(map(provenance.of_value, there))
    return any(o in own and not char.isspace() for char, o in zip(traced.text, traced.origin))


def _start(spans: Callable[[list[bool]], list[Span]], index: int, count: int) -> list[int]:
    """The character at which a message's turn begins, where that can be told."""
    try:
        return [span.start for span in spans([i == index for i in range(count)])[:1]]
    except UserError:  # learned with others, whatever is whose
        return []


def _check_read(
    template: Template,
    variables: Mapping[str, Any],
    conversation: Conversation,
    messages: list[dict[str, Any]],
    traced: Traced,
    paths: list[provenance.Path],
    wanted: list[bool],
) -> None:
    """Raises UserError where the text does not depend on something of the conversation."""

    def render(given: Mapping[str, Any]) -> str:
        return template.render({**variables, "tools": None, "documents": None, **given, "add_generation_prompt": False})

    given = {"messages": messages, **chat.plain(conversation.variables, "template variables")}
    learned = [index for index, learn in enumerate(wanted) if learn]
    unread.check(render, traced, paths, given, learned, conversation.asked)


def _opted(message: dict[str, Any], index: int, train_on: TrainOn) -> bool:
    """Whether a message is of those that are learned. Takes what it says of that out of it: it is not for templates."""
    said = []
    for key, valid in (("train", (False, True)), ("weight", (0, 1))):
        value = message.pop(key, None)
        if value is None:
            continue
        if isinstance(value, bool) != (key == "train") or value not in valid:
            shown = ("false", "true") if key == "train" else ("0", "1")
            raise UserError(f'messages[{index}]: "{key}": {value!r}: expected {" or ".join(shown)}')
        said.append(bool(value))
    if len(set(said)) > 1:
        raise UserError(f'messages[{index}]: "train" and "weight" contradict each other')
    learned = message["role"] in train_on.roles
    if said and said[0] and not learned:
        raise UserError(
            f"messages[{index}]: it says that it is to be learned, but turns of {message['role']} are not: "
            f"data.train_on={','.join(sorted({*train_on.roles, message['role']}))} learns them"
        )
    return learned and not (said and not said[0])


def _failing(render: Callable[[int], str], count: int) -> str:
    """The first message with which the template fails, as the start of an error's message; nothing where it does not."""
    for index in range(count):
        try:
            render(index + 1)
        except UserError:
            return f"messages[{index}]: "
    return ""


def _generated_spans(generated: list[Generated], messages: list[dict], wanted: list[bool]) -> list[Span]:
    spans = [Span(found.start, found.end, ASSISTANT, True) for found in generated]
    answers = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    if all(wanted[index] for index in answers):
        return spans
    if not any(wanted[index] for index in answers):
        return []
    index_of = {id(message): index for index, message in enumerate(messages)}
    owners = [next((index_of[id(v)] for v in found.values if id(v) in index_of), None) for found in generated]
    if None in owners:
        if len(owners) != len(answers):
            raise UserError(
                f"the template has {len(owners)} generation blocks for {len(answers)} messages of the assistant, and "
                "does not loop over the messages around them: which block is which message's cannot be told, so they "
                "are learned all or not at all"
            )
        owners = answers
    return [span for span, owner in zip(spans, owners) if wanted[owner]]


def _grown_span(render: Callable[..., str], whole: str, index: int, role: str, last: bool) -> Span:
    """The turn of a message, as what the text grows by: for the assistant from what starts an answer, for others with what
    starts their turns."""
    answer = role == ASSISTANT
    other = "choose another data.template, or a template that has {% generation %} blocks"
    other += "" if last else ", or data.train_on=last"
    before = ""
    try:
        before = render(index, answer)
    except UserError as e:
        if index or answer:
            raise UserError(
                f"messages[{index}]: where this turn starts cannot be told: without it, {e}; {other}"
            ) from e
    if not whole.startswith(before):
        if index == 0 and not answer:  # a system message that is there where no other is
            before = ""
        else:
            raise UserError(
                f"messages[{index}]: where this turn starts cannot be told: the template renders what is before it "
                f"otherwise when it follows, as some do that drop earlier reasoning; {other}"
            )
    if last:
        after = whole
    else:
        try:
            after = render(index + 1)
        except UserError as e:
            raise UserError(f"messages[{index}]: where this turn ends cannot be told: {e}; {other}") from e
    if not whole.startswith(after) or len(after) < len(before):
        raise UserError(
            f"messages[{index}]: where this turn ends cannot be told: the template renders it otherwise when more "
            f"follows, as some do that drop earlier reasoning or join turns; {other}"
        )
    return Span(len(before), len(after), role, False)


def _ended(text: str, ids: np.ndarray, places: np.ndarray, stops: np.ndarray) -> bool:
    """Whether a text ends with a stop, white space after it aside."""
    found = np.flatnonzero(np.isin(ids, stops))
    return len(found) > 0 and not text[places[found[-1], 1] :].strip()


def _mask(text: str, ids: np.ndarray, places: np.ndarray, spans: list[Span], stops: np.ndarray) -> np.ndarray:
    """bool [n]: the tokens with a character in a span, from its start to what ends the turn."""
    firsts, is_stop = places[:, 0], np.isin(ids, stops)
    trained = np.zeros(len(ids), bool)
    for start, end, role, exact in spans:
        low, high = np.searchsorted(firsts, [start, end])
        inside = np.flatnonzero(is_stop[low:high])
        if not exact and len(inside) and not text[places[low + inside[-1], 1] : end].strip():
            high = low + inside[-1] + 1
        while low > 0 and places[low - 1, 1] > start and end > start:  # a token that began before the turn
            low -= 1
        trained[low:high] = True
        if role == ASSISTANT and not (high > low and is_stop[high - 1]):
            stop = high
            while stop < len(ids) and not is_stop[stop] and text[slice(*places[stop])].isspace():
                stop += 1
            if stop < len(ids) and is_stop[stop]:
                trained[high : stop + 1] = True
    return trained
