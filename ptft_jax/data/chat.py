"""Chat: conversations rendered by a tokenizer's template, and encoded.

Templates come with downloaded models and are programs: `ptft_jax.data.sandbox` runs them.
"""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import provenance, spelled
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.chat_templates import BUILT_IN
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError, nearest

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")


def template(
    tokenizer: tok.Tokenizer,
    name: str | None = None,
    field: str = "template",
    now: datetime.datetime | None = None,
) -> Template:
    """The tokenizer's chat template, compiled; make it once where many conversations are rendered.

    Args:
      name: one of the tokenizer's templates, by default its "default"; or one of BUILT_IN, which fit models that were
        trained with it and are never chosen unasked; or a file that ends in .jinja.
      field: what the choice is called in messages.
      now: the time that the template finds it to be, None = what it is.

    Raises:
      UserError: the tokenizer has no template, or none of that name; a template that is no Jinja.
    """
    known = {**BUILT_IN, **tokenizer.chat_templates}
    if name is None and "default" not in known:
        others = f" (it has some by name: {', '.join(tokenizer.chat_templates)})" if tokenizer.chat_templates else ""
        raise UserError(
            f"{tokenizer.origin}: the tokenizer has no chat template{others}: choose one, such as "
            f"{field}={' or '.join(BUILT_IN)}, if the model was trained with it, or if this run is to teach it"
        )
    name = name or "default"
    if name.endswith(".jinja"):
        try:
            return Template(pathlib.Path(name).expanduser().read_text(encoding="utf-8"), name, now)
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{field} = {name!r}: cannot be read: {e}") from e
    if name not in known:
        raise UserError(
            f"{field} = {name!r}: expected one of {', '.join(known)}, or a .jinja file{nearest(name, known)}"
        )
    where = f"{tokenizer.origin}: chat template" if name == "default" else f"chat template {name!r}"
    return Template(known[name], where, now)


def check(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a conversation as plain JSON values.

    Each has a "role" of ROLES and "content": a text, a list of {"type": "text", "text": ...}, or None beside
    "tool_calls". Other keys are for the template.

    Raises:
      UserError: naming the message's index.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise UserError(f"messages: {type(messages).__name__}, expected a list of messages")
    if not messages:
        raise UserError("messages: none; a conversation has at least one")
    return [_checked(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _checked(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f'{where}: {message!r}, expected {{"role": ..., "content": ...}}')
    role = message.get("role")
    if role not in ROLES:
        near = nearest(role, ROLES) if isinstance(role, str) else ""
        raise UserError(f"{where}: role = {role!r}: expected one of {', '.join(ROLES)}{near}")
    content = message.get("content")
    if content is None:
        if not message.get("tool_calls"):
            raise UserError(f"{where}: it has no content")
    elif isinstance(content, list):
        for number, part in enumerate(content):
            if not (isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)):
                raise UserError(f'{where}: content[{number}] = {part!r}: expected {{"type": "text", "text": ...}}')
    elif not isinstance(content, str):
        raise UserError(f"{where}: content is a {type(content).__name__}, expected a text or a list of parts")
    return plain(dict(message), where)


def plain(value: Any, where: str) -> Any:
    """A copy made of JSON's types only, so that a template finds no methods but theirs. Raises UserError."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as e:
        raise UserError(f"{where}: not JSON: {e}") from e


def render(
    tokenizer: tok.Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = False,
    *,
    template: Template | str | None = None,
    **variables: Any,
) -> str:
    """A conversation as the text that a model reads.

    Args:
      add_generation_prompt: end with what starts an answer.
      template: see `template`, or one that it returned.
      variables: further variables of the template, such as tools, documents, enable_thinking; JSON values.

    Raises:
      UserError: a malformed message; a template that is missing, fails, refuses the conversation, or does what a
        template must not.
    """
    compiled = template if isinstance(template, Template) else _template(tokenizer, template)
    return compiled.render(
        {
            **template_variables(tokenizer, variables),
            "messages": check(messages),
            "add_generation_prompt": bool(add_generation_prompt),
        }
    )


def template_variables(tokenizer: tok.Tokenizer, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What templates are given beside the conversation. Raises UserError for what is not JSON."""
    return {**tokenizer.named, "tools": None, "documents": None, **plain(variables, "template variables")}


def said(
    tokenizer: tok.Tokenizer, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> tuple[dict[str, Any], list[provenance.Path]]:
    """What a template is given of checked messages and further variables, with texts that know that they are of the data
    (but roles, which are words of templates), and where each of these is, see `provenance.said`."""
    paths: list[provenance.Path] = []
    given = {"messages": list(messages), "tools": None, "documents": None, **plain(variables, "template variables")}
    found = provenance.said(given, (), paths, lambda path: path[0] == "messages" and path[2:] == ("role",))
    return {**tokenizer.named, **found}, paths


def encode_chat(
    tokenizer: tok.Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = False,
    *,
    template: Template | str | None = None,
    control_tokens: bool = False,
    **variables: Any,
) -> np.ndarray:
    """int32 [n]: the ids of a rendered conversation, the template's control tokens as such.

    The template alone says whether there is a BOS token, as in Hugging Face's apply_chat_template; before a built-in
    template's text comes what the tokenizer has texts start with, see `prefix`.

    Args:
      add_generation_prompt: end with what starts an answer, by the model that gave those before.
      control_tokens: messages that spell control tokens become them, as in apply_chat_template; else these are text.

    Raises:
      UserError: as `render`, and where a message cannot be told from a turn, see `ptft_jax.data.spelled`.
    """
    compiled = template if isinstance(template, Template) else _template(tokenizer, template)
    messages = check(messages)
    given, paths = said(tokenizer, messages, variables)
    traced = compiled.trace({**given, "add_generation_prompt": bool(add_generation_prompt)})
    if control_tokens:
        ids = tokenizer.encode(traced.text, special=True)
    else:
        own = [i for i, m in enumerate(messages) if m["role"] == "assistant"] if add_generation_prompt else []
        spelled.check(traced, paths, tokenizer, spelled.changes(tokenizer, compiled), own=own)
        [(ids, _)] = tokenizer.encode_spans([traced.text], [spelled.literal(traced)])
    return np.concatenate([prefix(tokenizer, compiled, ids), ids])


def prefix(tokenizer: tok.Tokenizer, template: Template, ids: np.ndarray) -> np.ndarray:
    """int32 [n]: what comes before a rendered conversation's ids: the tokenizer's `prefix_ids`, where the template is
    built in and has not written them itself; else nothing."""
    start = np.asarray(tokenizer.prefix_ids, np.int32)
    written = np.array_equal(ids[: len(start)], start)
    return start if built_in(tokenizer, template) and not written else start[:0]


def built_in(tokenizer: tok.Tokenizer, template: Template) -> str | None:
    """The name of a built-in template; None where the tokenizer brings it."""
    if template.source in tokenizer.chat_templates.values():
        return None
    return next((name for name, source in BUILT_IN.items() if source == template.source), None)


def is_built_in(template: Template) -> bool:
    """Whether the source is that of a built-in template, whoever brings it, or an export of one, which may write before it what the
    tokenizer has texts start with."""
    return template.source.endswith(tuple(BUILT_IN.values()))


_template = template  # where a parameter has its name
