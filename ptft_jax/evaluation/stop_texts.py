"""Where a text ends that a model writes: at the first of some texts, which is cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError


class StopTexts:
    """The texts of rows that are being written, as far as a stop text lets them.

    Attributes:
      ids: tokens that end a row, each by itself.
    """

    def __init__(
        self,
        tokenizer: tok.Tokenizer,
        stop: Sequence[str],
        prompts: Sequence[Sequence[int]],
        *,
        gaps: Mapping[int, str],
        apart: bool,
        with_stop: bool,
    ):
        """Args are those of `ptft_jax.evaluation.samples.written_ids`, and so is the error."""
        if any(not text for text in stop):
            raise UserError("a stop text is empty: it would stop everything")
        self._tokenizer, self._stop, self._prompts = tokenizer, stop, prompts
        self._gaps, self._apart, self._with_stop = gaps, apart, with_stop
        ends = [tokenizer.special[text] for text in stop if text in tokenizer.special]
        self.ids = tuple(dict.fromkeys([*tokenizer.stop_ids, *(i for i in ends if i not in gaps)]))
        # Control tokens show as nothing, so a stop text that has some among others is looked for where they are spelled.
        spelled = {i: text for text, i in tokenizer.special.items() if i not in ends and any(text in s for s in stop)}
        self._named = {**spelled, **gaps}
        self._cut: dict[int, str] = {}  # row -> its text, of those that a stop text has ended
        # The start of a stop text waits until it is known to be none.
        self._held = max((len(s) - 1 for s in stop), default=0)

    def text(self, row: int, ids: Sequence[int]) -> str:
        """What a row says that consists of these ids."""
        return self._cut[row] if row in self._cut else self._decoded(row, ids, self._gaps)

    def text_so_far(self, row: int, ids: Sequence[int]) -> str:
        """Of a row that goes on, what no further id can change; all of one that has ended."""
        if row in self._cut:
            return self._cut[row]
        text = self._decoded(row, ids, self._gaps, self._tokenizer.decode_settled)
        return text[: max(len(text) - self._held, 0)]

    def cut(self, row: int, ids: Sequence[int]) -> int | None:
        """How many ids a row keeps that a stop text ends; None where there is none in it."""
        text = self._decoded(row, ids, self._named)
        places = [text.find(s) for s in self._stop if s in text]
        if not places:
            return None
        # The fewest tokens whose text reaches the stop: what came after it was never wanted.
        lengths = ((n, len(self._decoded(row, ids[:n], self._named))) for n in range(len(ids) + 1))
        keep, reached = next((n, length) for n, length in lengths if length >= min(places))
        shown = self._decoded(row, ids[:keep], self._gaps)
        self._cut[row] = shown[: len(shown) - (reached - min(places))]
        while self._with_stop and not any(s in self._decoded(row, ids[:keep], self._named) for s in self._stop):
            keep += 1
        return keep

    def _decoded(
        self, row: int, ids: Sequence[int], named: Mapping[int, str], decode: Callable[..., str] | None = None
    ) -> str:
        """The text of ids, in which `named` stand as they are called; `decode`: of what comes after the last of these."""
        context: Sequence[int] = () if self._apart else self._prompts[row]
        return text_of(self._tokenizer, context, ids, named, decode)


def text_of(
    tokenizer: tok.Tokenizer,
    context: Sequence[int],
    ids: Sequence[int],
    named: Mapping[int, str],
    decode: Callable[..., str] | None = None,
) -> str:
    """The text of ids after `context`, in which `named` stand as they are called; `decode`: of what comes after the last of these."""
    shown, start = "", 0
    for at in (n for n, i in enumerate(ids) if i in named):
        shown += tokenizer.decode_after(context, ids[start:at]) + named[ids[at]]
        context, start = (), at + 1
    return shown + (decode or tokenizer.decode_after)(context, ids[start:])
