"""A row as a person reads it: every token with what training makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax.data import tokenizers as tok
from ptft_jax.reporting.page import templates

# What a token is to training -> its style on a terminal.
STYLES = {
    "learned": "bold green",
    "unlearned": "bold magenta",
    "context": "default",
    "prefix": "cyan",
    "hidden": "bold red",
    "padding": "grey50",
}
MEANINGS = {
    "learned": "is predicted, and counts in the loss",
    "unlearned": "is predicted, and is to become unlikely",
    "context": "is read only",
    "prefix": "is read in both directions",
    "hidden": "stands in place of the token that is to be predicted, shown after →",
    "padding": "fills the row",
}

_SHOWN = {"learned": "with loss"}  # in what people read
_PART = {True: "learned", False: "unlearned"}  # whether its text is good -> what a predicted token is


class Token(NamedTuple):
    """One token of a row.

    Attributes:
      id, text: the token that the model reads, or only predicts where it is a piece's last.
      part: of STYLES.
      segment: which piece of the row, from 1; 0 = padding.
      position: as the model is told.
      weight: of the loss on predicting it.
      answer: where the model reads another token than it is to predict, the text of the latter.
    """

    id: int
    text: str
    part: str
    segment: int
    position: int
    weight: float
    answer: str = ""


def text(tokenizer: tok.Tokenizer, token: int) -> str:
    """A token's text; control tokens by name, parts of characters as bytes."""
    data = tokenizer.token_bytes(token)
    if data:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"\\x{b:02x}" for b in data)
    named = {i: name for name, i in tokenizer.special.items()}
    return named.get(token, f"<{token}>")


def found(neighbors_UKN: np.ndarray, tokenizer: tok.Tokenizer) -> list[list[str]]:
    """The texts of passages that were found for each chunk of a row, the best first."""
    return [[tokenizer.decode(ids[ids >= 0].tolist()) for ids in chunk if (ids >= 0).any()] for chunk in neighbors_UKN]


def row(arrays: dict[str, np.ndarray], tokenizer: tok.Tokenizer, builder: Any) -> list[Token]:
    """The tokens of a row of `ptft_jax.data.rows.RowSet`, its padding last."""
    length = len(arrays["inputs"])
    segments = arrays.get("segments")
    positions = arrays.get("positions", np.arange(length))
    if segments is None:  # a window of a stream; what is padding follows from the weights
        used = np.flatnonzero(arrays["weights"] > 0)
        segments = (np.arange(length) <= (used[-1] if len(used) else -1)).astype(np.int32)
    prefix = arrays.get("prefix", np.zeros(length, bool))
    good = arrays.get("good", np.ones(length, bool))
    out: list[Token] = []
    for segment in range(1, int(segments.max(initial=0)) + 1):
        where = np.flatnonzero(segments == segment)
        for k, at in enumerate(where):
            if builder.labelled or builder.scored:
                token, part, answer = int(arrays["inputs"][at]), "context", ""
                read = k == (len(where) - 1 if builder.last or builder.scored else 0)
                if read:
                    part, answer = "hidden", _read_off(arrays, builder, segment)
                out.append(Token(token, text(tokenizer, token), part, int(segment), k, float(read), answer))
                continue
            if builder.stepped:
                token, weight = int(arrays["inputs"][at]), float(arrays["weights"][at])
                part = "hidden" if weight else "context"
                answer = ("right" if arrays["right"][at] else "wrong") if weight else ""
                out.append(Token(token, text(tokenizer, token), part, int(segment), k, weight, answer))
                continue
            token, target, weight = (arrays[name][at] for name in ("inputs", "targets", "weights"))
            place = (int(segment), int(positions[at]))
            if builder.aligned:
                part = "context" if not weight else "hidden" if token != target else "learned"
                answer = text(tokenizer, int(target)) if part == "hidden" else ""
                out.append(Token(int(token), text(tokenizer, int(token)), part, *place, float(weight), answer))
                continue
            # What is predicted is the token itself, from the position before it.
            before = arrays["weights"][where[k - 1]] if k else 0.0
            liked = good[where[k - 1]], good[at]
            part = _PART[liked[0]] if before else "prefix" if prefix[at] else "context"
            out.append(Token(int(token), text(tokenizer, int(token)), part, *place, float(before)))
            if k + 1 == len(where):
                last = _PART[liked[1]] if weight else "context"
                out.append(
                    Token(int(target), text(tokenizer, int(target)), last, place[0], place[1] + 1, float(weight))
                )
    padding = int((segments == 0).sum())
    return out + [Token(0, "·", "padding", 0, 0, 0.0)] * padding


def _read_off(arrays: dict[str, np.ndarray], builder: Any, segment: int) -> str:
    """What a sequence of a row is to give, by its number from 1 on."""
    if builder.scored:
        return "better" if segment % 2 else "worse"
    return f"number {arrays['targets']:g}" if builder.numeric else f"class {int(arrays['targets'])}"


def counted(tokens: list[Token]) -> str:
    """One line: how many tokens are what, in how many pieces."""
    parts = [(name, sum(t.part == name for t in tokens)) for name in STYLES]
    pieces = len({t.segment for t in tokens if t.segment})
    return f"{pieces} piece{'s' * (pieces != 1)}: " + ", ".join(
        f"{n} {_SHOWN.get(name, name)}" for name, n in parts if n
    )


def marked(tokens: list[Token]) -> str:
    """As plain text: [with loss], {prefix}, <read→predicted>; pieces apart from one another by lines."""
    signs = {"learned": "[]", "unlearned": ("[-", "-]"), "prefix": "{}", "hidden": "<>", "context": ("", "")}
    out, before = [], None
    for token in tokens:
        here = (token.segment, token.part)
        if token.part == "padding":
            continue
        if before is not None and (here != before or token.part == "hidden"):
            out.append(signs[before[1]][1])
            if here[0] != before[0]:
                out.append("\n---\n")
        if here != before or token.part == "hidden":
            out.append(signs[here[1]][0])
        out.append(token.text + (f"→{token.answer}" if token.answer else ""))
        before = here
    if before is not None:
        out.append(signs[before[1]][1])
    padding = sum(t.part == "padding" for t in tokens)
    return "".join(out) + (f"\n({padding} of padding)" if padding else "")


def colored(tokens: list[Token]) -> Any:
    """As rich text: colors by part, every second piece underlined; padding is only counted. Line ends that are learned
    or hidden are shown."""
    from rich.text import Text

    out = Text()
    for token in tokens:
        if token.part == "padding":
            continue
        style = STYLES[token.part] + (" underline" if token.segment % 2 == 0 else "")
        shown = token.text + (f"→{token.answer}" if token.answer else "")
        out.append(shown.replace("\n", "↵\n") if token.part in ("learned", "hidden") else shown, style)
    padding = sum(t.part == "padding" for t in tokens)
    if padding:
        out.append(f"\n({padding} of padding)", STYLES["padding"])
    return out


def legend() -> Any:
    """What the colors mean."""
    from rich.text import Text

    out = Text()
    for name, style in STYLES.items():
        out.append(_SHOWN.get(name, name), style)
        out.append(f": {MEANINGS[name]}; ")
    out.append("every second piece of a row is ")
    out.append("underlined", "underline")
    return out


def page(title: str, rows: Sequence[tuple[str, list[Token]]]) -> str:
    """A page of HTML that needs nothing else: every token of the rows (title, tokens) as a box of its part's color, with
    its id, position and weight. Text is escaped."""
    shown = []
    for name, tokens in rows:
        there = [t for t in tokens if t.part != "padding"]
        pieces = [list(group) for _, group in itertools.groupby(there, key=lambda t: t.segment)]
        shown.append({"title": name, "count": counted(tokens), "pieces": pieces, "padding": len(tokens) - len(there)})
    words = "point at one for its number, position and weight. Each box is a piece: nothing is attended across boxes"
    return filled(title, shown, MEANINGS, words)


def filled(title: str, rows: Sequence[dict[str, Any]], meanings: Mapping[str, str], words: str) -> str:
    """The page of rows {"title", "count", "pieces": tokens of each, "padding": a number, "facts": lines below it}, of parts that have
    `meanings`; `words` say what is to be found where."""
    import markupsafe

    def lines(text: str) -> Any:
        return markupsafe.Markup("<i>↵</i>\n").join(markupsafe.escape(line) for line in text.split("\n"))

    page = templates(lines=lines).get_template("tokens.html")
    return page.render(title=title, rows=rows, meanings=meanings, words=words)
