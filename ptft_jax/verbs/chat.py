"""Talks with a run's model, through its tokenizer's chat template.

python -m ptft_jax.verbs.chat --run=runs/base@best --template=chatml --message="Who are you?"

Without --message, each line of the input is a message. At a terminal: /reset starts again, /system TEXT starts again with
a system message, /exit or Ctrl-D ends, Ctrl-C ends an answer.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator

from absl import flags

from ptft_jax.errors import UserError, nearest
from ptft_jax.verbs.command import define_source, launch, load_source
from ptft_jax.verbs.generate import define_sampling, sampling_options, streamer, unescaped

COMMANDS = ("/reset", "/system", "/exit")


def define() -> None:
    define_source()
    flags.DEFINE_multi_string(
        "message", [], "What to say; may be given more than once, for several turns. '\\n' stands for a newline."
    )
    flags.DEFINE_string("system", "", "A system message to start with.")
    flags.DEFINE_string(
        "template",
        None,
        "A chat template by name, by default the one the run was trained by, else the tokenizer's own; chatml, llama3 or gemma "
        "for models trained with it.",
    )
    define_sampling(max_new_tokens=256)
    flags.DEFINE_bool("json", False, "Print a JSON line a turn instead of text.")


def main() -> None:
    args = flags.FLAGS
    from ptft_jax.evaluation.conversation import Conversation

    loaded = load_source()
    conversation = Conversation(
        loaded,
        template=args.template or None,
        field="--template",
        max_new_tokens=args.max_new_tokens,
        **sampling_options(args),
    )
    conversation.reset(unescaped(args.system))
    if args.message or not sys.stdin.isatty():
        _turns(conversation, map(unescaped, args.message) if args.message else _lines(), args.json)
    else:
        _talk(conversation, args.json)


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")


def _turns(conversation, messages: Iterable[str], as_json: bool) -> None:
    for message in messages:
        if not as_json:
            print(f"> {message}", flush=True)
        _turn(conversation, message, as_json)


def _turn(conversation, message: str, as_json: bool) -> None:
    show = streamer()
    answer = conversation.say(message, None if as_json else show)
    if as_json:
        row = {"user": message, "assistant": answer.text, "tokens": answer.tokens, "reason": answer.reason}
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
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
        command, _, rest = message.strip().partition(" ")
        try:
            if command == "/exit":
                return
            if command in ("/reset", "/system"):
                conversation.reset(rest.strip())
            elif command.startswith("/"):
                raise UserError(f"no command {command}{nearest(command, COMMANDS)}: there are {', '.join(COMMANDS)}")
            elif message.strip():
                _turn(conversation, message, as_json)
        except UserError as e:
            print(f"error: {e}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("\n(interrupted: not part of the conversation)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    launch(define, main)
