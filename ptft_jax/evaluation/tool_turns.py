"""Answers in several turns: the model calls a tool, reads what it says, and goes on.

What is read is put behind the ids that were sampled, which are never tokenized again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ptft_jax.config.seeds import Use, mixed
from ptft_jax.data import chat, spelled
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import Continuation, Written, written_ids
from ptft_jax.evaluation.stop_texts import text_of
from ptft_jax.model.decode import Generated
from ptft_jax.parallel import processes
from ptft_jax.rewards.base import Task
from ptft_jax.runs.checkpoint import together
from ptft_jax.tools.base import Result
from ptft_jax.tools.toolbox import FIELD, Toolbox

OUT_OF_CALLS = "calls"  # why a text ends that calls once more than it may
_CALLED, _PROBE = "3vq8d", "k70xw"  # words that no template writes itself


class Turn(NamedTuple):
    """What a model said up to the end of a call, what stood in that, None where it had no beginning, and what became of it."""

    text: str
    written: str | None
    results: list[Result]


class Call(NamedTuple):
    """A call that is to be answered: what stands before it in its turn, and as of `Turn`."""

    before: str
    text: str
    written: str | None


class Talk(NamedTuple):
    """What was written after a prompt.

    Attributes:
      text: of the last turn, without a call that nobody answered, and without a stop text.
      ids: all that follows the prompt: what was sampled, with what ended it, and between its turns what tools said.
      given: where in `ids` that is: [start, stop) each.
      reason: why it ended, as of `Generated`; "calls": it called once more than it may.
      tokens: how many ids were sampled, without the tokens that ended turns.
      unanswered: it ended at a call, for which there was no room, or no call left.
      turns: its calls.
      drawn, support: as of `Generated`, of what was sampled.
    """

    text: str
    ids: list[int]
    given: list[tuple[int, int]]
    reason: str
    tokens: int
    unanswered: bool
    turns: list[Turn]
    drawn: list[float] | None = None
    support: np.ndarray | None = None

    @property
    def sampled(self) -> int:
        """How many ids were."""
        return len(self.ids) - sum(stop - start for start, stop in self.given)

    @property
    def answer(self) -> Continuation:
        """What comes of it."""
        return Continuation("", self.text, self.tokens, self.reason)


def told(talk: Talk) -> dict[str, Any]:
    """What files of answers have of calls: "turns", and whether the answer ended at one ("unanswered")."""
    turns = [{**t._asdict(), "results": [result._asdict() for result in t.results]} for t in talk.turns]
    return {"turns": turns, "unanswered": talk.unanswered}


def measured_calls(talks: Sequence[Talk]) -> dict[str, float]:
    """`ptft_jax.config.verifiers.OF_CALLS`: calls per answer; the shares of them that failed, and whose result was cut, where there are any;
    and the share of answers that ended at a call that nobody answered."""
    results = [result for talk in talks for turn in talk.turns for result in turn.results]
    found = {"calls": len(results) / len(talks), "unanswered": sum(talk.unanswered for talk in talks) / len(talks)}
    if results:
        found["failed_calls"] = sum(result.failed for result in results) / len(results)
        found["cut_results"] = sum(result.cut for result in results) / len(results)
    return found


def check_template(tokenizer: tok.Tokenizer, template: Template | None, tools: Toolbox) -> None:
    """Raises UserError for a chat template that has no place for what tools say; None = prompts are plain texts."""
    if template is None:
        return
    try:
        _turn_of_tools(tokenizer, template, {}, [Result(tools.names[0], "", _PROBE)])
    except UserError as e:
        raise UserError(
            f"config.{FIELD}.use = {tools.names}: the chat template has no turn for what tools say ({e}): choose another data.template"
        ) from e


def read(
    tokenizer: tok.Tokenizer,
    tools: Toolbox,
    template: Template | None,
    task: Task,
    results: Sequence[Result],
) -> tuple[list[int], list[Result]]:
    """The ids of what a model reads of results, and the results as they are read: what a tool says is text, whatever it spells, and where
    it could not be told from a turn the call has failed."""
    if task.conversation is None or template is None:
        parts: list[int] = []
        for result in results:
            text = f"{tools.marks.before}{result.text}{tools.marks.after}"
            literal = np.zeros(len(text), bool)
            literal[len(tools.marks.before) : len(text) - len(tools.marks.after)] = True
            [(ids, _)] = tokenizer.encode_spans([text], [literal])
            parts += ids.tolist()
        return parts, list(results)
    variables = task.conversation.variables
    try:
        return _turn_of_tools(tokenizer, template, variables, results), list(results)
    except UserError:
        refused = [r._replace(text="error: it would be read as another turn", failed=True, cut=False) for r in results]
        return _turn_of_tools(tokenizer, template, variables, refused), refused


def _turn_of_tools(
    tokenizer: tok.Tokenizer, template: Template, variables: Mapping[str, Any], results: Sequence[Result]
) -> list[int]:
    """What a conversation has from the end of an answer's words to the beginning of the next. Raises UserError."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": _CALLED},
        *({"role": "tool", "name": result.tool, "content": result.text} for result in results),
    ]
    given, paths = chat.said(tokenizer, chat.check(messages), variables)
    traced = template.trace({**given, "add_generation_prompt": True})
    if traced.text.count(_CALLED) != 1 or (results[0].text == _PROBE and _PROBE not in traced.text):
        raise UserError("it does not write them out")
    spelled.check(traced, paths, tokenizer, spelled.changes(tokenizer, template))
    start = traced.text.index(_CALLED) + len(_CALLED)
    [(ids, _)] = tokenizer.encode_spans([traced.text[start:]], [spelled.literal(traced)[start:]])
    return ids.tolist()


class _Row:
    """An answer on its way."""

    def __init__(self, most: int):
        self.most, self.ids, self.given = most, list[int](), list[tuple[int, int]]()
        self.drawn, self.support, self.turns = list[float](), list[np.ndarray](), list[Turn]()
        self.text, self.reason, self.tokens, self.unanswered, self.done = "", "", 0, False, False

    @property
    def room(self) -> int:
        return self.most - len(self.ids)

    def add(self, text: str, generated: Generated) -> list[int]:
        """Takes a turn. Gives its ids, with the token that ended it."""
        self.tokens += len(generated.ids)
        new = [*generated.ids, *([] if generated.end is None else [generated.end])]
        self.ids += new
        self.text, self.reason = text, generated.reason
        self.drawn += generated.drawn or []
        self.support += [] if generated.support is None else [generated.support]
        return new

    def stop(self, before: str, reason: str) -> None:
        """Ends it at a call that nobody answers; `before`: its last turn up to that."""
        self.text, self.reason, self.unanswered, self.done = before, reason, True, True

    def go_on(self, turn: Turn, ids: Sequence[int]) -> None:
        self.turns.append(turn)
        self.given.append((len(self.ids), len(self.ids) + len(ids)))
        self.ids += ids

    def talk(self) -> Talk:
        support = np.concatenate(self.support) if self.support else None
        told = (self.text, self.ids, self.given, self.reason, self.tokens, self.unanswered, self.turns)
        return Talk(*told, self.drawn or None, support)


def talk(
    model: Any,
    params: Any,
    tokenizer: tok.Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    tools: Toolbox | None = None,
    tasks: Sequence[Task] = (),
    templates: Sequence[Template | None] = (),
    before: Sequence[Sequence[Turn]] = (),
    max_new_tokens: int,
    seed: int = 0,
    stop: Sequence[str] = (),
    with_stop: bool = False,
    adapters: Sequence[int] | None = None,
    check: Callable[[], None] | None = None,
    **options: Any,
) -> list[Talk]:
    """Continues prompts of token ids, each text apart, in as many turns as it calls tools. A row's result does not depend on other rows, but
    where it is sampled on its number; the noise of a turn follows from the seed, that, and the number of the turn.

    Args:
      tools: that may be called; None = a single turn.
      tasks, templates: of each prompt, where there are tools.
      before: of each prompt the turns of a launch that was ended; a call that is the same has the same results, without being made again.
      max_new_tokens: of an answer, with what tools say.
      seed, stop, with_stop, adapters, check, options: as of `ptft_jax.evaluation.samples.written_ids`; where tools may be called, ids have
        what stops them; `check` is called before calls, too.

    Raises:
      UserError: as of `written_ids`; a tool that cannot be made.
    """
    rows = [_Row(max_new_tokens) for _ in prompts]
    stops = (*stop, *((tools.marks.closes,) if tools else ()))
    going, turn = list(range(len(rows))), 0
    while going:
        asked = [*going, *going[:1] * (_of_few(len(going), len(rows)) - len(going))]
        written = written_ids(
            model,
            params,
            tokenizer,
            [[*prompts[n], *rows[n].ids] for n in asked],
            max_new_tokens=max_new_tokens,
            most=[rows[n].room if place < len(going) else 1 for place, n in enumerate(asked)],
            numbers=asked,
            seed=mixed(seed, Use.TURN, turn) if turn else seed,
            stop=stops,
            adapters=None if adapters is None else [adapters[n] for n in asked],
            apart=True,
            check=check,
            with_stop=with_stop or tools is not None,
            **options,
        )
        calls = _calls(tokenizer, tools, stop, rows, going, written)
        going = [n for n in going if n in calls]
        found = _answered(tools, rows, calls, before, check) if tools and calls else {}
        for n in going:
            assert tools is not None, "they are called"
            ids, results = read(tokenizer, tools, templates[n], tasks[n], found[n])
            if len(ids) < rows[n].room:  # something can be said after it
                rows[n].go_on(Turn(calls[n].text, calls[n].written, results), ids)
            else:
                rows[n].stop(calls[n].before, "length")
        going, turn = [n for n in going if not rows[n].done], turn + 1
    return [row.talk() for row in rows]


def _of_few(count: int, most: int) -> int:
    """A number of rows, at least `count`, of few: each is compiled."""
    many = 1
    while many < count:
        many = min(4 * many, most)
    return many


def _calls(
    tokenizer: tok.Tokenizer,
    tools: Toolbox | None,
    stop: Sequence[str],
    rows: Sequence[_Row],
    going: Sequence[int],
    written: Sequence[Written],
) -> dict[int, Call]:
    """Takes what was written. Gives the calls of the rows that call a tool and may."""
    found: dict[int, Call] = {}
    for n, (text, generated) in zip(going, written):
        new = rows[n].add(text, generated)
        if tools is None or generated.reason not in ("end", "stop"):
            continue
        opens, closes = tools.marks[:2]
        names = {tokenizer.special[mark]: mark for mark in (opens, closes) if mark in tokenizer.special}
        said = text_of(tokenizer, (), new, names)
        ends = {mark: said.find(mark) for mark in (*stop, closes) if mark in said}
        if closes not in ends or ends[closes] > min(ends.values()):
            continue
        start = said.rfind(opens, 0, ends[closes])
        before = said[: start if start >= 0 else ends[closes]]
        if len(rows[n].turns) == tools.calls:
            rows[n].stop(before, OUT_OF_CALLS)
        else:
            written_in = said[start + len(opens) : ends[closes]] if start >= 0 else None
            found[n] = Call(before, said[: ends[closes] + len(closes)], written_in)
    return found


def _answered(
    tools: Toolbox,
    rows: Sequence[_Row],
    calls: Mapping[int, Call],
    before: Sequence[Sequence[Turn]],
    check: Callable[[], None] | None,
) -> dict[int, list[Result]]:
    """The results of calls, of all processes: one of them calls."""
    alone = jax.process_count() == 1  # several ask equally often

    def each() -> list[tuple[int, list[Result]]]:
        found = []
        for n, (_, _, written) in calls.items():
            if check is not None and alone:
                check()
            known = before[n][len(rows[n].turns) :][:1] if before else ()
            again = known and known[0].written == written
            found.append((n, list(known[0].results) if again else tools.results(written)))
        return found

    shared = processes.shared(together(lambda: each() if processes.main() else None))  # as JSON has it
    return {n: [Result(*result) for result in results] for n, results in shared}
