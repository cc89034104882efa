"""Talks with a run's model, through its tokenizer's chat template.

python -m ptft_jax.verbs.chat --run=runs/base@best --template=chatml --message="Who are you?"

Without --message, each line of the input is a message, at a terminal or not; but /reset starts again, /system TEXT starts again
with a system message, /exit or the input's end (Ctrl-D) ends. At a terminal, Ctrl-C ends an answer. What is wrong with a message
is said, and the conversation goes on as if it had not been; the exit status is then 2, but at a terminal.

Where the run's config has tools, or --tools names some, the model may call them: calls are printed with what they gave.

A message is plain text: control tokens that it spells are none.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs.answered import define_tools, tool_settings
from ptft_jax.verbs.command import BAD_INPUT, define_source, launch, load_source, say_chosen
from ptft_jax.verbs.generate import define_sampling, sampling_options, streamer, unescaped

COMMANDS = ("/reset", "/system", "/exit")


def define() -> None:
    define_source()
    flags.DEFINE_multi_string(
        "message",
        [],
        "What to say; may be given more than once, for several turns. '\\n' stands for a newline, '\\\\n' for a backslash and an n.",
    )
    flags.DEFINE_string("system", "", "A system message to start with.")
    flags.DEFINE_string(
        "template",
        None,
        "A chat template by name, by default the run's or the tokenizer's own; chatml, llama3 or gemma for models trained with it.",
    )
    define_tools()
    define_sampling(256, "Tokens of an answer at most.")
    flags.DEFINE_bool("json", False, "Print a JSON line a turn instead of text.")


def main() -> int | None:
    args = flags.FLAGS
    from ptft_jax.evaluation.conversation import Conversation
    from ptft_jax.tools import toolbox

    loaded = load_source()
    conversation = Conversation(
        loaded,
        template=args.template,
        field="--template",
        max_new_tokens=args.max_new_tokens,
        release=True,
        tools=toolbox.of_run(loaded.source, tool_settings(args.tools)),
        **sampling_options(args),
    )
    conversation.reset(unescaped(args.system))
    say_chosen(loaded.source)
    if args.message:
        return _turns(conversation, map(unescaped, args.message), args.json, say=_turn)
    if not sys.stdin.isatty():
        return _turns(conversation, _lines(), args.json)
    _talk(conversation, args.json)
    return None


def _lines() -> Iterator[str]:
    """The lines of the input that are not blank, without their ends, as whatever system writes them."""
    for read in sys.stdin:
        yield from filter(str.strip, re.split(r"\r\n|\r|\n", read.removeprefix("\ufeff")))


class _End(Exception):
    """The conversation is to end."""


def _turns(conversation, messages: Iterable[str], as_json: bool, say=None) -> int:
    """Says all of these, with `say` (default: `_said`, to which some lines are commands). Returns the exit status."""
    status = 0
    for message in messages:
        if not as_json:
            print(f"> {message}", flush=True)
        try:
            (say or _said)(conversation, message, as_json)
        except _End:
            break
        except UserError as e:
            status = BAD_INPUT
            print(f"error: {e}", file=sys.stderr, flush=True)
            if as_json:
                print(json.dumps({"user": message, "error": str(e)}, ensure_ascii=False), flush=True)
    return status


def _said(conversation, line: str, as_json: bool) -> None:
    """Does what a line of the input asks for. Raises UserError, or _End."""
    command, _, rest = line.strip().partition(" ")
    if command == "/exit":
        raise _End
    if command in ("/reset", "/system"):
        conversation.reset(rest.strip())
    elif command.startswith("/"):
        raise UserError(f"no command {command}{nearest(command, COMMANDS)}: there are {', '.join(COMMANDS)}")
    elif command:
        _turn(conversation, line, as_json)


def _turn(conversation, message: str, as_json: bool) -> None:
    show = streamer()
    answer = conversation.say(message, None if as_json else show)
    if as_json:
        row = {"user": message, "assistant": answer.text, "tokens": answer.tokens, "reason": answer.reason}
        row |= {"turns": [turn._asdict() for turn in answer.turns]} if answer.turns else {}
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    for turn in answer.turns:
        print(turn.text)
        for result in turn.results:
            print(f"({result.tool or 'no tool'}: {result.text})")
    show(answer.text)
    print(flush=True)
    if answer.reason == "full":
        print("(the answer ends here: the model sees no more; start again)", file=sys.stderr, flush=True)


def _talk(conversation, as_json: bool) -> None:
    """At a terminal: what goes wrong with a message is said, and the conversation goes on."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  editing and history for input()
    while True:
        try:
            message = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        try:
            _said(conversation, message, as_json)
        except _End:
            return
        except UserError as e:
            print(f"error: {e}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("\n(interrupted: not part of the conversation)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    launch(define, main)
