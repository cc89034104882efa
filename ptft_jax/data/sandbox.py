"""Running a template that nobody has read: Jinja in a sandbox, with a bound on its work.

Jinja's sandbox keeps a template from Python's internals, but not from running for ever or filling the memory. So what
a template may call is a list, and all it does is paid for from a budget: so much a step, so much a character or
element that it handles. Whatever would cost more than is left is refused before it is done.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ptft_jax.data import provenance
from ptft_jax.data.budget import BUDGET, BUDGET_PER_CHARACTER, Budget, TooMuch
from ptft_jax.errors import UserError

LONGEST_SOURCE = 256_000  # characters; published templates have up to some ten thousand


class Generated(NamedTuple):
    """What a generation block made: characters [start, end) of the text, and the values that the variables of the loops
    around it had, innermost first (the very objects that were given, where it loops over them)."""

    start: int
    end: int
    values: tuple


class Traced(NamedTuple):
    """A rendered text, of each character its origin (`ptft_jax.data.provenance`), and what generation blocks made, in order."""

    text: str
    origin: str
    generated: list[Generated]


class Template:
    """A chat template, compiled once. Can be rendered from several threads, one after the other.

    Attributes:
      marks: whether it says itself what the assistant said, between `{% generation %}` and `{% endgeneration %}`.
    """

    def __init__(self, source: str, where: str, now: datetime.datetime | None = None):
        """`where` is for messages; `now` is the time that the template finds it to be, None = what it is. Raises UserError for what is no Jinja or needs what templates do not get."""
        self.source, self._where = source, where
        self._lock = threading.Lock()
        if len(source) > LONGEST_SOURCE:
            raise UserError(f"{where}: {len(source)} characters long, more than {LONGEST_SOURCE}")
        from ptft_jax.data.template_environment import Environment  # imports Jinja

        self._environment = Environment(now)
        with self._reported():
            self._compiled = self._environment.from_string(source)
        self.marks: bool = self._environment.marks

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for variables made of JSON's types. Raises UserError for whatever goes wrong in the template."""
        return "".join(self._pieces(variables)[0])

    def render_marked(self, variables: Mapping[str, Any]) -> tuple[str, list[Generated]]:
        """The text, and what of it generation blocks made, in order.

        Raises:
          UserError: as `render`; a block inside another, or one whose place in the text cannot be told, because it is
            in what makes a value: a macro, a set, call or filter block, a recursive loop.
        """
        pieces, started = self._pieces(variables)
        return "".join(pieces), self._generated(pieces, started)

    def trace(self, variables: Mapping[str, Any]) -> Traced:
        """As `render_marked`, with the origin of each character, which texts of `variables` may have. Only where the
        template `marks` are its generation blocks followed."""
        pieces, started = self._pieces(variables)
        generated = self._generated(pieces, started) if self.marks else []
        return Traced("".join(pieces), "".join(map(provenance.origin, pieces)), generated)

    def _generated(self, pieces: list[str], started: int) -> list[Generated]:
        from ptft_jax.data.template_environment import Mark

        generated: list[Generated] = []
        length, opened = 0, None
        for piece in pieces:
            if not isinstance(piece, Mark):
                length += len(piece)
            elif piece.starts == (opened is not None):
                inside = "one inside another" if piece.starts else "one that ends without having started"
                raise UserError(f"{self._where}: its generation blocks cannot be followed: {inside}")
            elif piece.starts:
                opened = (length, piece.values)
            else:
                start, values = opened
                generated.append(Generated(start, length, values))
                opened = None
        if opened is not None or len(generated) != started:
            why = (
                "one is left before its end"
                if opened is not None
                else "one is in a macro, a set, call or filter block, or a recursive loop"
            )
            raise UserError(f"{self._where}: its generation blocks cannot be followed: {why}")
        return generated

    def _pieces(self, variables: Mapping[str, Any]) -> tuple[list[str], int]:
        """The text in pieces, Marks among them, and how many generation blocks were started."""
        with self._lock, self._reported():
            budget = self._environment.budget = Budget(BUDGET)
            self._environment.started = 0
            before = budget.left
            budget.pay_for(dict(variables))
            budget.left = BUDGET + BUDGET_PER_CHARACTER * (before - budget.left)
            pieces = []
            for piece in self._compiled.generate(**variables):
                budget.pay(len(piece))
                pieces.append(piece)
            return pieces, self._environment.started

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # somebody else's program: anything can be raised
            lines = [
                f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename in ("<template>", "<unknown>")
            ]
            line = getattr(e, "lineno", None) or (lines[-1] if lines else None)
            ours = isinstance(e, TooMuch) or type(e).__module__.startswith("jinja2")
            kind = "" if ours else f"{type(e).__name__}: "
            text = " ".join(str(e).split()) or type(e).__name__
            raise UserError(f"{self._where}{f', line {line}' if line else ''}: {kind}{text[:500]}") from e
