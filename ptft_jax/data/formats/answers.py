"""Prompts and answers: pairs of texts, Alpaca's instructions, and conversations."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from ptft_jax.data import chat, endings, turns
from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats import messages as messages_
from ptft_jax.data.formats.base import Encoder, Format, Record, check_unicode
from ptft_jax.data.sandbox import Template
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.data.unread import Asked, empty
from ptft_jax.errors import UserError

# How Stanford Alpaca (Taori et al. 2023) put an instruction before a model, with an input and without.
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


class AnswersEncoder(Encoder):
    """What encoders of answers share: the chat template, and pairs of texts without one.

    Attributes:
      template: the chat template that records are rendered by; None where they are not.
    """

    asks_for_template = True  # whether the tokenizer's own is used unasked: always, "if any", or False

    def __init__(self, format: Format, tokenizer: Tokenizer, template: str, train_on: str):
        super().__init__(format, tokenizer, template, train_on)
        own = self.asks_for_template is True or (self.asks_for_template and tokenizer.chat_template is not None)
        self.template: Template | None = None
        if template or own:
            self.template = chat.template(tokenizer, template or None, "data.template", turns.DAY)

    @property
    def identity(self) -> tuple[str, ...]:
        template = self.template
        if template is None:
            return (*super().identity, "no template")
        own = sorted({*endings.stops(self.tokenizer, template)} - {*self.tokenizer.stop_ids})
        ends = tuple(f"ends with {token}" for token in own)
        name = chat.built_in(self.tokenizer, template)
        ends += ("built in",) if name is None and chat.is_built_in(template) else ()
        return (
            *super().identity,
            str(name),
            template.source,
            "contents are text",
            *ends,
        )

    def describe(self) -> str:
        name = repr(self.template_name) if self.template_name else "of the tokenizer"
        how = "prompt and answer joined, without a chat template" if self.template is None else f"chat template {name}"
        return f"{super().describe()}; {how}"

    def conversations(self, conversations: Sequence[turns.Conversation]) -> list[Encoded]:
        for conversation in conversations:
            for index, message in enumerate(conversation.messages):
                if isinstance(message.get("content"), str):
                    check_unicode(message["content"], f"{conversation.where}: messages[{index}]")
        return turns.encode(self.tokenizer, self.template, conversations, self.train_on)

    def pairs(self, prompts: Sequence[str], answers: Sequence[str], wheres: Sequence[str]) -> list[Encoded]:
        """Prompts and answers, tokenized apart, as when a model is asked and answers; then the end token."""
        before = np.asarray(self.tokenizer.prefix_ids, np.int32)
        end = np.asarray([self.tokenizer.end_id], np.int32)
        ids = self.ids([*prompts, *answers], [*wheres, *wheres])
        asked = "user" in self.train_on.roles and not self.train_on.last
        rows = []
        for prompt, answer, text in zip(ids[: len(prompts)], ids[len(prompts) :], answers):
            answered = turns.ASSISTANT in self.train_on.roles and (self.format.learn_empty or not empty(text))
            parts = [(before, self.train_on.everything), (prompt, asked), (answer, answered), (end, answered)]
            trained = None
            if not self.train_on.everything or not answered:
                trained = np.concatenate([np.full(len(part), learned) for part, learned in parts])
            at = len(before) + len(prompt)
            row = np.concatenate([part for part, _ in parts])
            rows.append(Encoded(row, trained, empty=(at,) if answered and empty(text) else ()))
        return rows

    def conversation(self, messages: Any, record: Record, where: str) -> turns.Conversation:
        """A conversation in either form, with the record's system message, tools and documents. Raises UserError."""
        form = self.format
        found = messages_.normal(messages, where, form.left_out)
        system = form.optional(record, "system", where)
        if system and found and found[0].get("role") == "system":
            if found[0].get("content") != system:
                column = form.columns["system"]
                raise UserError(
                    f"{where}: messages[0] is the system's, and column {column!r} says another thing: leave the column out with "
                    f"unused={column} in the options of the source"
                )
        elif system:
            found = [{"role": "system", "content": system}, *found]
        variables = {
            name: messages_.json_list(form.optional(record, name, where), f"{where}: {name}")
            for name in ("tools", "documents")
        }
        return turns.Conversation(
            found,
            variables,
            where,
            assistant_first=form.assistant_first,
            control_tokens=form.control_tokens,
            asked=Asked(form.left_out, form.columns),
            learn_empty=form.learn_empty,
        )

    def message_texts(self, messages: Any, record: Record, where: str) -> list[str]:
        """What a conversation says, with the record's system message, in whichever way it has one."""
        found = messages_.normal(messages, where, self.format.left_out)
        contents = [message.get("content") for message in found]
        if not found or found[0].get("role") != "system":
            contents.insert(0, self.format.optional(record, "system", where))
        return [content for content in contents if isinstance(content, str) and content]


class QuestionEncoder(AnswersEncoder):
    """Encoders of records that are a question and its answer."""

    def _encode(self, records: Sequence[Record], wheres: Sequence[str]) -> list[Encoded]:
        said = [self._said(record, where) for record, where in zip(records, wheres)]
        if self.template is None:
            return self.pairs([prompt for prompt, _ in said], [answer for _, answer in said], wheres)
        return self.conversations(said)

    @abc.abstractmethod
    def _said(self, record: Record, where: str) -> Any:
        """A record as a conversation; without a template its (prompt, answer). Raises UserError."""

    def question(self, record: Record, where: str) -> turns.Question:
        """A record as what a model is asked and what it should answer: a conversation without its last turn, and that turn.

        Raises:
          UserError: as `encode`; a conversation that does not end with an answer in words.
        """
        self.encode([record], [where])  # what is wrong with a record is found as it is where it is learned
        said = self._said(record, where)
        if self.template is not None:
            return turns.question(self.tokenizer, self.template, said)
        prompt, answer = said
        [ids] = self.ids([prompt], [where])
        return turns.Question([*self.tokenizer.prefix_ids, *ids.tolist()], prompt, answer)


class ConversationEncoder(QuestionEncoder):
    """Conversations in OpenAI's form or ShareGPT's, rendered by the tokenizer's template or the one that is named."""

    def _said(self, record: Record, where: str) -> turns.Conversation:
        return self.conversation(self.format.value(record, "messages", where), record, where)

    def texts(self, record: Record, where: str = "record") -> list[str]:
        return self.message_texts(self.format.value(record, "messages", where), record, where)


class PairEncoder(QuestionEncoder):
    """Prompts and completions as texts: joined as they are, or turns of user and assistant where a template is named
    (data.template=default is the tokenizer's own)."""

    asks_for_template = False

    def _said(self, record: Record, where: str) -> Any:
        prompt, answer = self.texts(record, where)
        if self.template is None:
            return prompt, answer
        return self.conversation(turn("user", prompt) + turn(turns.ASSISTANT, answer), record, where)

    def texts(self, record: Record, where: str = "record") -> list[str]:
        return [self.format.text(record, what, where) for what in ("prompt", "completion")]


class MessagePairEncoder(QuestionEncoder):
    """Prompts and completions as lists of messages: one conversation, of which nothing in the prompt is learned unless
    everything is."""

    def _said(self, record: Record, where: str) -> turns.Conversation:
        prompt, answer = (self._side(record, what, where) for what in ("prompt", "completion"))
        if not self.train_on.everything:
            prompt = context(prompt)
        return self.conversation(prompt + answer, record, where)

    def _side(self, record: Record, what: str, where: str) -> list[dict[str, Any]]:
        return messages_.normal(self.format.value(record, what, where), where, self.format.left_out)

    def texts(self, record: Record, where: str = "record") -> list[str]:
        said = self._side(record, "prompt", where) + self._side(record, "completion", where)
        return self.message_texts(said, record, where)


def context(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as such that are not learned, whatever they say of that."""
    return [
        {key: value for key, value in message.items() if key != "weight"} | {"train": False} for message in messages
    ]


def turn(role: str, content: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": role, "content": content}]


class AlpacaEncoder(QuestionEncoder):
    """Instructions, with an input or not, and outputs: by a chat template where the tokenizer has one or one is named,
    else in Alpaca's own layout."""

    asks_for_template = "if any"

    def _said(self, record: Record, where: str) -> Any:
        instruction, input, output = self._triple(record, where)
        if self.template is None:
            return (ALPACA_INPUT if input else ALPACA).format(instruction=instruction, input=input), output
        prompt = f"{instruction}\n\n{input}" if input else instruction
        return self.conversation(turn("user", prompt) + turn(turns.ASSISTANT, output), record, where)

    def _triple(self, record: Record, where: str) -> tuple[str, str, str]:
        input = self.format.optional(record, "input", where)
        if input is not None and not isinstance(input, str):
            raise UserError(f"{where}: column {self.format.columns['input']!r} is a {type(input).__name__}, not a text")
        return self.format.text(record, "instruction", where), input or "", self.format.text(record, "output", where)

    def texts(self, record: Record, where: str = "record") -> list[str]:
        return [text for text in self._triple(record, where) if text]
