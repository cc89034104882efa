"""Functions of tests as verifiers of a plugin."""

import os

from ptft_jax.config.verifiers import VerifierSpec
from tests.unruly import misbehave


def unruly(answer, task):
    """Does what the answer says, or gives its length, in the process that it names."""
    misbehave(answer)
    if answer == "text":
        return "good"
    return len(answer), str(os.getpid())


VERIFIERS = {
    "unruly": VerifierSpec("tests.rewards.given:unruly"),
    "own": VerifierSpec(unruly),
    "inner": VerifierSpec(lambda answer, task: 1.0),
}
