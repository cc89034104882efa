"""The flags of `ptft eval` that have nearest neighbors of states say what comes next, beside the run itself."""

from __future__ import annotations

from typing import Any

from absl import flags

from ptft_jax.config.field import mass, positive, temperature
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_number

_WITH = ("k", "weight", "temperature", "tune", "buckets")
_USUAL = {"k": 16, "weight": 0.25, "temperature": 10.0}


def define() -> None:
    """--knn and what goes with it."""
    flags.DEFINE_string("knn", "", "Also with an index of --kind=knn: the nearest neighbors of each state.")
    define_number("knn_k", None, positive(16, ""), "With --knn: neighbors; 16 where not given.")
    define_number("knn_weight", None, mass(0.25, ""), "With --knn: weight of what they say; 0.25 where not given.")
    define_number(
        "knn_temperature",
        None,
        temperature(10.0, "", zero=False),
        "With --knn: what squared distances are divided by; 10 where not given.",
    )
    flags.DEFINE_enum(
        "knn_tune",
        None,
        ["train", "validation", "test"],
        "With --knn, in the place of --knn_weight: weights by distance, fitted on this split of --data.",
    )
    define_number(
        "knn_buckets", None, positive(4, ""), "With --knn_tune: of distances, each with a weight; 4 where not given."
    )


def asked() -> dict[str, Any]:
    """What the flags ask for, as arguments of `ptft_jax.evaluation.neighbors.evaluate`; {} = nothing. Raises UserError for flags that do not
    go together."""
    args = flags.FLAGS
    given = {name: getattr(args, f"knn_{name}") for name in _WITH if getattr(args, f"knn_{name}") is not None}
    if not args.knn and given:
        raise UserError(f"--knn_{next(iter(given))} is for neighbors: give --knn, an index of --kind=knn")
    if "weight" in given and "tune" in given:
        raise UserError("--knn_weight is one weight, and --knn_tune fits several: leave one of them out")
    if "buckets" in given and "tune" not in given:
        raise UserError(
            "--knn_buckets is for weights that are fitted: give --knn_tune, the split that they are fitted on"
        )
    return {"folder": args.knn, **_USUAL, **given} if args.knn else {}
