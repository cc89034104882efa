"""Answers that a run learned from, as a person reads them: their tokens with what each gained, and what they were rewarded with."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs.data import view

MEANINGS = {
    "context": "the prompt, what tools said, tokens whose advantage is 0, and such as a teacher is asked about",
    "better": "sampled, with an advantage above 0, kept, or chosen: becomes more probable; the larger it is, the stronger the color",
    "worse": "sampled, with an advantage below 0, or rejected: becomes less probable",
    "left-out": "sampled, and not learned from",
}
WORDS = "point at one for its number, advantage and log-probability"
# In which direction answers are learned that are chosen among, and what is said of each.
_USES = {"kept": 1.0, "chosen": 1.0, "rejected": -1.0}
_SAID = {
    "kept": "kept: learned", "chosen": "chosen: the better one of a pair", "rejected": "rejected: the worse one of a pair",
    "duplicate": "not learned from: another answer says the same", "": "not learned from",
}  # fmt: skip
_STYLES = {"context": "default", "better": "bold green", "worse": "bold red", "left-out": "grey50"}


class Sampled(NamedTuple):
    """A token of an answer.

    Attributes:
      id, text, part: of MEANINGS, as of `view.Token`.
      note: what is known of it.
      size: of its advantage, beside the largest that is shown, from 0.15 to 1.
      answer: nothing.
    """

    id: int
    text: str
    part: str
    note: str = ""
    size: float = 0.0
    answer: str = ""


def read(workdir: pathlib.Path, step: int, updates: int) -> list[dict[str, Any]]:
    """The answers that a step of a run learned from, one of `updates` of them. Raises UserError where there are none, naming the steps that
    have some."""
    from ptft_jax.training import rollout_files

    path = Workdir(workdir).rollout(step // updates)
    rows = rollout_files.read(path)
    if rows is None:
        there = sorted(int(file.stem) for file in path.parent.glob("[0-9]*.jsonl"))
        known = "it has made no step yet"
        if there:
            known = f"steps {there[0] * updates} to {(there[-1] + 1) * updates - 1} have some"
            if len(there) <= there[-1] - there[0]:
                known += ", but for those that learn from the data's answers (objective.on_policy.share)"
        raise UserError(
            f"--step={step}: {path} is not there, or not whole: a run that learns from its own answers has them there once the step "
            f"is made; of {workdir} {known}"
        )
    return rows


def advantages(row: Mapping[str, Any]) -> list[float]:
    """Of each token of an answer, or 1 and -1 of those that are chosen among."""
    if "advantages" in row:
        return row["advantages"]
    if "use" in row:
        return [_USES.get(row["use"], 0.0)] * len(row["log_probs"])
    return [row.get("advantage", 0.0)] * len(row["log_probs"])


def learned(row: Mapping[str, Any]) -> bool:
    """Whether an answer is learned from."""
    return row["use"] in _USES if "use" in row else row.get("kept", True) and row.get("counts", True)


def largest(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest size of an advantage, at least something."""
    return max([1e-12, *(abs(a) for row in rows for a in advantages(row))])


def tokens(row: Mapping[str, Any], tokenizer: tok.Tokenizer, most: float) -> list[Sampled]:
    """The tokens of a prompt and its answer; `most`: the advantage that has the strongest color."""
    ids, start = row["ids"], row["prompt_tokens"]
    out = [Sampled(i, view.text(tokenizer, i), "context", "of the prompt") for i in ids[:start]]
    counts, weighed = learned(row), "advantage" in row or "advantages" in row
    given = {n for first, stop in row.get("given", ()) for n in range(first, stop)}
    sampled = enumerate(zip(row["log_probs"], advantages(row)))
    for place, i in enumerate(ids[start:], start):
        if place in given:
            out.append(Sampled(i, view.text(tokenizer, i), "context", "said by a tool"))
            continue
        n, (log_prob, advantage) = next(sampled)
        part = "context" if advantage == 0 else "better" if advantage > 0 else "worse"
        note = (f"advantage {advantage:+.3g}, " if weighed else "") + f"log-probability {log_prob:.3g}"
        if "values" in row:
            note += f", value {row['values'][n]:.3g}, return {row['returns'][n]:.3g}"
        size = round(0.15 + 0.85 * abs(advantage) / most, 3) if counts else 0.0
        out.append(Sampled(i, view.text(tokenizer, i), part if counts else "left-out", note, size))
    return out


def title(row: Mapping[str, Any], place: int) -> str:
    """What an answer is, in a line."""
    return f"answer {place}: {row['where']}"


def counted(row: Mapping[str, Any]) -> str:
    """How long an answer is, and how it ended."""
    calls = f", {row['calls']} calls of tools" if "calls" in row else ""
    return f"prompt of {row['prompt_tokens']}, answer of {row['tokens']} tokens{calls}, ended by {row['reason']}"


def facts(row: Mapping[str, Any]) -> list[str]:
    """What an answer was rewarded with, and why."""
    out = [f"right answer: {row['reference']}"] if row["reference"] is not None else []
    for name, score in row["scores"].items():
        value = "no score" if score["value"] is None else f"{score['value']:g}"
        out.append(f"{name}: {value}" + (f" ({score['reason']})" if score["reason"] else ""))
    if "reward" not in row:
        return [*out, "learned: what the teacher predicts of each token"]
    found = advantages(row)
    gained = f"advantage {sum(found) / max(len(found), 1):+.3g}" + (" on average" if "advantages" in row else "")
    parts = [f"reward {row['reward']:g}", *([f"penalty {row['penalty']:g}"] if row["penalty"] else [])]
    parts += [f"log-ratio to the parent {row['kl']:.3g}"] if row.get("kl") else []
    if "use" in row:
        gained = _SAID[row["use"]]
    elif not row.get("kept", True):
        gained = "not learned from: other prompts took the place of this one, whose answers all have the same reward"
    elif not row["counts"]:
        gained = "not learned from: " + ("it has no score" if row["unscored"] else "dropped (alike, overlong)")
    return [*out, ", ".join([*parts, gained])]


def marked(found: Sequence[Sampled]) -> str:
    """As plain text: the answer [in brackets]."""
    prompt = [t for t in found if t.note == "of the prompt"]
    return "".join(t.text for t in prompt) + "[" + "".join(t.text for t in found[len(prompt) :]) + "]"


def colored(found: Sequence[Sampled]) -> Any:
    """As rich text: colors by part."""
    from rich.text import Text

    out = Text()
    for token in found:
        out.append(token.text, _STYLES[token.part])
    return out


def legend() -> Any:
    """As rich text: what the colors mean."""
    from rich.text import Text

    out = Text()
    for part, meaning in MEANINGS.items():
        out.append(part, _STYLES[part])
        out.append(f": {meaning}\n")
    return out


def page(heading: str, rows: Sequence[Mapping[str, Any]], tokenizer: tok.Tokenizer) -> str:
    """A page of HTML as `view.page`."""
    most = largest(rows)
    shown = [
        {"title": title(row, n), "count": counted(row), "pieces": [tokens(row, tokenizer, most)], "padding": 0, "facts": facts(row)}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    return view.filled(heading, shown, MEANINGS, WORDS)
