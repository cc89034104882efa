"""What people should know of how a run changed what its model writes: said at evaluations, and when it ends."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptft_jax.config.verifiers import is_of_answers
from ptft_jax.objectives.base import Rows
from ptft_jax.parallel import processes
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training.hooks import Hook, Moment

LONGER = 1.5  # answers so many times as long, or as short, are said
ENDED = 0.1  # likewise a share of answers that end by themselves which is so much smaller
_LAST = 10  # training is judged by one in so many of its logged steps, the last

Values = Mapping[str, float]  # "SET/NAME" -> value


def of_training(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """ "training/NAME" -> the mean of each metric over the last tenth of the steps that were logged, `rows` of metrics.jsonl."""
    rows = [row for row in rows if row["kind"] == "train"]
    last = rows[-math.ceil(len(rows) / _LAST) :]
    names = {name: None for row in last for name, value in row.items() if isinstance(value, float)}
    values = {name: [row[name] for row in last if name in row] for name in names}
    return {f"training/{name}": sum(each) / len(each) for name, each in values.items()}


def of_answers(before: Values, after: Values) -> list[str]:
    """Whether answers that the model writes became much longer or shorter, or end by themselves less often."""
    found = []
    for name, now in after.items():
        measured, _, what = name.rpartition("/")
        if not is_of_answers(measured) or name not in before:
            continue
        was = before[name]
        if what == "length" and was and now and max(now / was, was / now) >= LONGER:
            much = f"{now / was:.2g} times as long" if now > was else f"{was / now:.2g} times shorter"
            found.append(
                f"answers became {much}: {name} went from {was:.4g} to {now:.4g} tokens; judges and reward models often prefer longer ones, so "
                "compare scores at equal length (length_controlled in the report)"
            )
        if what == "ended" and now <= was - ENDED:
            found.append(
                f"answers end by themselves less often: {name} went from {was:.3g} to {now:.3g}; others are cut at max_new_tokens"
            )
    return found


def watch(
    objective: Any, workdir: pathlib.Path, first_step: int, known: Values, say: Callable[[str], None]
) -> list[Hook]:
    """Says at evaluations what the objective remarks of them, once per launch: a run need not end before somebody knows.

    Args:
      first_step: what the run began with.
      known: what was measured before that, beside its first evaluation.
    """
    if type(objective).remarks is Rows.remarks:
        return []  # it never does
    said: list[str] = []

    def do(moment: Moment) -> None:
        if said or not processes.main():
            return
        rows = Workdir(workdir).read_metrics()
        before = {**next((r for r in rows if r["kind"] == "eval" and r["step"] == first_step), {}), **known}
        said.extend(objective.remarks(before, {**of_training(rows), **moment.evaluated}))
        for remark in said:
            say(f"{workdir}: step {moment.step}: {remark}")

    return [Hook(lambda moment: moment.evaluates and not moment.first and not moment.last, do)]
