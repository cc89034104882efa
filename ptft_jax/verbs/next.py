"""Shows which words a run's model expects next, with their probabilities.

ptft next --run=runs/base "The cat sat on the"
ptft next --run=runs/base --run=runs/tuned "The cat sat on the" --html=next.html

Words are whole: of a word of several tokens the probabilities are multiplied, and what begins alike is told apart by what follows. The model
is given at most --most beginnings of words, the likeliest first; what is left open by that is said.
"""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from ptft_jax.config.field import positive
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import (
    SOURCES,
    define_number,
    define_plugins,
    define_weights,
    launch,
    prepare_jax,
    say,
    say_chosen,
)
from ptft_jax.verbs.generate import unescaped

WORDS = "prompt"  # the flag that words without one belong to
_BAR = 40  # characters of a probability of 1


def define() -> None:
    define_plugins()
    flags.DEFINE_multi_string("run", [], f"{SOURCES} May be given more than once.")
    define_weights()
    flags.DEFINE_multi_string(
        "prompt",
        [],
        "Plain text; also without --prompt=. '\\n' stands for a newline, '\\\\n' for a backslash and an n.",
    )
    define_number("top", 10, positive(1, ""), "Words to show.")
    define_number("most", 64, positive(1, ""), "Beginnings of words that the model is given at most.")
    flags.DEFINE_string("html", "", "A page with the words of all runs side by side.")
    flags.DEFINE_bool("json", False, "Print JSON lines instead of bars.")


def main() -> None:
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base@best, or hf:FOLDER, or gguf:FILE")
    if not args.prompt:
        raise UserError('the text is missing: ptft next --run=RUN "The cat sat on the"')
    if args.html:
        from ptft_jax.reporting import next_page  # needs an extra: said before anything is computed
        from ptft_jax.runs import places

        out = places.local(args.html, f"--html={args.html}")
        if not out.absolute().parent.is_dir():
            raise UserError(f"--html={args.html}: there is no such folder")
    found = _found([unescaped(text) for text in args.prompt])
    for text, runs in found.items():
        for name, words in runs.items():
            if args.json:
                shown = [{"word": word, "probability": p} for word, p in words.words[: args.top]]
                line = {"run": name, "prompt": text, "words": shown, "open": words.open, "looked_at": words.looked_at}
                print(json.dumps(line, ensure_ascii=False))
            else:
                print(f"{text}  [{name}]" if len(runs) > 1 else text)
                print("\n".join(bars(words, args.top)), end="\n\n")
    if args.html:
        next_page.write(found, args.top, out)
        say(f"report: {out}")


def _found(texts: list[str]) -> dict[str, dict[str, Any]]:
    """{text: {run: its `NextWords`}}."""
    args = flags.FLAGS
    prepare_jax()
    from ptft_jax.evaluation.next_words import next_words
    from ptft_jax.runs import loading

    found: dict[str, dict[str, Any]] = {text: {} for text in texts}
    for reference in args.run:
        loaded = loading.load(
            reference,
            field="--run",
            dtype=args.dtype,
            plugins=args.plugins,
            ignore=args.ignore if ":" in reference else (),
        )
        say_chosen(loaded.source)
        for text in texts:
            found[text][reference] = next_words(loaded, text, args.most)
        del loaded  # its parameters, before the next ones are loaded
    return found


def bars(words: Any, top: int) -> list[str]:
    """Lines of words, probabilities and bars, and what they leave out."""
    shown = words.words[:top]
    width = max((len(word) for word, _ in shown), default=0)
    lines = [f"  {word:<{width}}  {100 * p:5.1f}%  {'█' * round(_BAR * p)}".rstrip() for word, p in shown]
    others = sum(p for _, p in words.words[top:])
    if others >= 5e-4:
        lines.append(f"  {100 * others:.1f}% other words")
    if words.open >= 5e-4:
        lines.append(
            f"  {100 * words.open:.1f}% open: the {words.looked_at:,} likeliest beginnings were looked at (--most)"
        )
    return lines


if __name__ == "__main__":
    launch(define, main, words=WORDS)
