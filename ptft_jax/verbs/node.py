"""Carries out one node of an experiment, as --executor=jobs has it done on a machine elsewhere; its task is a file of that.

python -m ptft_jax.verbs.node --task=/gcs/BUCKET/rates/jobs/NAME/task.json
"""

from __future__ import annotations

import pathlib
import signal
import sys

from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs.command import BAD_INPUT, TERMINATED, launch


def define() -> None:
    flags.DEFINE_string("task", None, "The file that --executor=jobs has written.")


def main() -> int:
    """0 where it came to a result; 2, which no other machine makes better, where it failed; 143 where it saved, and is to be begun again."""
    from ptft_jax.experiments.executors import elsewhere
    from ptft_jax.experiments.executors.as_jobs import Files
    from ptft_jax.experiments.store import RESULTS
    from ptft_jax.runs.files import read_json, write_json

    if not flags.FLAGS.task:
        raise UserError("--task is missing: the file that --executor=jobs has written")
    path = pathlib.Path(flags.FLAGS.task)
    if not path.is_file():
        raise UserError(f"--task={path}: this machine does not see it: all need one file system")
    here, asked = Files(path.parent), list[int]()
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    if here.outcome.is_file():  # begun again after it had ended
        found = read_json(here.outcome)
    else:
        here.began.touch()
        given = read_json(path)
        found = elsewhere.carry_out(given["task"], given["asked_by"], leave=lambda: bool(asked) or here.leave.exists())
        if not here.leave.exists() and found["status"] in ("interrupted", *(("killed",) if asked else ())):
            return TERMINATED  # the machine is taken away
        write_json(here.outcome, found)
    print(f"{found['status']}{': ' if found['message'] else ''}{found['message']}", file=sys.stderr)
    return 0 if found["status"] in (*RESULTS, "pruned", "interrupted") else BAD_INPUT


if __name__ == "__main__":
    launch(define, main)
