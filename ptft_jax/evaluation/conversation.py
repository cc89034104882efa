"""Talking with a model: its chat template, its turns, and the room that is left for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data import chat, endings, turns
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.evaluation import tool_turns
from ptft_jax.evaluation.samples import SAMPLING, check_writer, continue_ids
from ptft_jax.evaluation.tool_turns import Turn
from ptft_jax.model import decode
from ptft_jax.rewards.base import Task
from ptft_jax.runs import identity
from ptft_jax.tools.toolbox import Toolbox

MAX_NEW_TOKENS = 256  # of an answer, where nothing else is asked for


class Answer(NamedTuple):
    """What the model said, how many tokens that took, and why it ended: end, stop, length (max_new_tokens), or full
    (the model sees no more), or calls (`ptft_jax.evaluation.tool_turns`); and the turns before it, in which it called tools."""

    text: str
    tokens: int
    reason: str
    turns: tuple[Turn, ...] = ()


class Conversation:
    """A conversation with a loaded run (`ptft_jax.runs.loading.load`).

    Attributes:
      messages: what was said so far, as `ptft_jax.data.chat` wants it.
    """

    def __init__(
        self,
        loaded: Any,
        *,
        template: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        field: str = "template",
        release: bool = False,
        tools: Toolbox | None = None,
        **options: Any,
    ):
        """
        Args:
          template: see `ptft_jax.data.chat.template`; None = the one that came with the adapter put onto it, else the one that
            the run was trained with, else the tokenizer's own. `field` is what the setting is called in messages.
          max_new_tokens: the longest answer.
          tools: that it may call; None = none.
          release: the loaded run is not used elsewhere, as `ptft_jax.evaluation.samples.generate` has it.
          options: sampling (default: a temperature of 0.8), seed and stop of `continue_ids`.

        Raises:
          UserError: the tokenizer has no such template; a model that writes no text, or whose parameters are not finite.
        """
        check_writer(loaded)
        self._loaded, self._most = loaded, max_new_tokens
        own = "" if template else loaded.template
        if not (own or template or loaded.source is None):
            own = identity.chat_template(loaded.source)
        self._template = (
            Template(own, f"{loaded.source.name}: chat template")
            if own
            else chat.template(loaded.tokenizer, template, field)
        )
        self._seed, self._stop = options.pop("seed", 0), list(options.pop("stop", ()))
        self._options = {"sampling": SAMPLING, **options}
        end = endings.of(loaded.tokenizer, self._template)
        if end.text and end.token not in loaded.tokenizer.stop_ids:
            self._stop.append(end.text)
        self._tools = tools
        if tools:
            tool_turns.check_template(loaded.tokenizer, self._template, tools)
        self._params = decode.laid_out(loaded.params, consume=release)  # once for all turns
        self.messages: list[dict[str, str]] = []

    def reset(self, system: str = "") -> None:
        """Starts again, with a system message where one is given."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def say(self, text: str, on_text: Callable[[str], None] | None = None) -> Answer:
        """The model's answer; `on_text` is called with it while it grows, where no tools may be called.

        Raises:
          UserError: no room for an answer, or the template refuses the conversation; it then stays as it was.
        """
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = chat.encode_chat(tokenizer, messages, True, template=self._template).tolist()
        room = model.max_tokens - len(ids)
        if room < 1:
            raise UserError(
                f"the conversation with this message has {len(ids)} tokens, and the model sees at most "
                f"{model.max_tokens}, its answer included: start again, or say it in fewer words"
            )
        asked: dict[str, Any] = {
            "max_new_tokens": min(self._most, room),
            "seed": mixed(self._seed, Use.ANSWER, len(messages)),
            "stop": self._stop,
            "prefix": self._loaded.reads_prompt,
            **self._options,
        }
        found: tuple[Turn, ...] = ()
        if self._tools:
            task = Task("", (), {}, "", turns.Conversation(messages, {}, ""))
            asked |= {"tools": self._tools, "tasks": [task], "templates": [self._template]}
            [talked] = tool_turns.talk(model, self._params, tokenizer, [ids], **asked)
            row, found = talked.answer, tuple(talked.turns)
        else:
            show = (lambda _, text: on_text(text)) if on_text else None
            [row] = continue_ids(model, self._params, tokenizer, [ids], apart=True, on_text=show, **asked)
        for turn in found:
            messages.append({"role": "assistant", "content": turn.text})
            messages += ({"role": "tool", "name": result.tool, "content": result.text} for result in turn.results)
        self.messages = [*messages, {"role": "assistant", "content": row.text}]
        full = row.reason == "length" and room < self._most
        return Answer(row.text, row.tokens, "full" if full else row.reason, found)
