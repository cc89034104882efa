"""Running a template that nobody has read: Jinja in a sandbox, with a bound on its work.

Jinja's sandbox keeps a template from Python's internals, but not from running for ever or filling the memory. So what
a template may call is a list, and all it does is paid for from a budget: so much a step, so much a character or
element that it handles. Whatever would cost more than is left is refused before it is done.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from ptft_jax.data.budget import BUDGET, BUDGET_PER_CHARACTER, Budget, TooMuch
from ptft_jax.errors import UserError

LONGEST_SOURCE = 256_000  # characters; published templates have up to some ten thousand


class Template:
    """A chat template, compiled once. Can be rendered from several threads, one after the other.

    `{% generation %}` ... `{% endgeneration %}` is accepted; what is between is rendered like the rest.
    """

    def __init__(self, source: str, where: str):
        """`where` is for messages. Raises UserError for what is no Jinja or needs what templates do not get."""
        self.source, self._where = source, where
        self._lock = threading.Lock()
        if len(source) > LONGEST_SOURCE:
            raise UserError(f"{where}: {len(source)} characters long, more than {LONGEST_SOURCE}")
        from ptft_jax.data.template_environment import Environment  # imports Jinja

        self._environment = Environment()
        with self._reported():
            self._compiled = self._environment.from_string(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for variables made of JSON's types. Raises UserError for whatever goes wrong in the template."""
        with self._lock, self._reported():
            budget = self._environment.budget = Budget(BUDGET)
            before = budget.left
            budget.pay_for(dict(variables))
            budget.left = BUDGET + BUDGET_PER_CHARACTER * (before - budget.left)
            pieces = []
            for piece in self._compiled.generate(**variables):
                budget.pay(len(piece))
                pieces.append(piece)
            return "".join(pieces)

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
