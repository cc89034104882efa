"""What the verbs that delete runs share."""

from __future__ import annotations

from absl import flags


def define() -> None:
    """--run, --within."""
    flags.DEFINE_multi_string("run", [], "Workdir of a run; also without --run=.")
    flags.DEFINE_string("within", ".", "Runs below this folder, and beside the run, are asked whether they need it.")
