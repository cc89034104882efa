"""The flags of `ptft eval` that measure what can be told from the states of a model of images, in the place of what it says itself."""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags

from ptft_jax.config.field import positive
from ptft_jax.environment import needed
from ptft_jax.errors import UserError
from ptft_jax.verbs.command import define_number

_NAMES = ("shots", "pooling", "k", "seed", "prompts")


def define() -> None:
    """--probe and what goes with it."""
    flags.DEFINE_list(
        "probe",
        [],
        "Of images, in the place of all else: how well classes are told from the model's states, by ridge, linear, attention, knn; or by their names, prompts.",
    )
    flags.DEFINE_list("probe_shots", None, "With --probe: images of each class that are learned from; 0 = all.")
    flags.DEFINE_enum(
        "probe_pooling",
        None,
        ["token", "mean"],
        "With --probe: what is read; as the model's head has it where not given.",
    )
    define_number("probe_k", None, positive(20, ""), "With --probe=knn: neighbors; 20 where not given.")
    flags.DEFINE_multi_string(
        "probe_prompts",
        None,
        "With --probe=prompts: a text with {} in the place of the name of a class; may be given several times.",
    )
    flags.DEFINE_string(
        "probe_html", None, "With --probe=knn: also write a page of some images beside their nearest to this file."
    )
    flags.DEFINE_integer("probe_seed", None, "With --probe_shots: which images they are; 0 where not given.")


def page() -> tuple[Any, pathlib.Path]:
    """(what writes --probe_html, or None, and where): what it needs is said to lack before anything is computed."""
    wanted = flags.FLAGS.probe_html
    if wanted is None:
        return None, pathlib.Path()
    from ptft_jax.reporting import neighbors_page
    from ptft_jax.runs import places

    needed("PIL.Image", "a picture on a page")
    return neighbors_page, places.local(wanted, f"--probe_html={wanted}")


def asked() -> dict[str, Any]:
    """What the flags ask for, as arguments of `ptft_jax.evaluation.probes.evaluate`; {} = nothing. Raises UserError for flags that do not go
    together."""
    args = flags.FLAGS
    given = {name: getattr(args, f"probe_{name}") for name in _NAMES if getattr(args, f"probe_{name}") is not None}
    if not args.probe and given:
        raise UserError(
            f"--probe_{next(iter(given))} is for probes: give --probe, of ridge, linear, attention, knn, prompts"
        )
    if "k" in given and "knn" not in args.probe:
        raise UserError("--probe_k is for nearest neighbors: name knn in --probe")
    if args.probe_html is not None and "knn" not in args.probe:
        raise UserError("--probe_html shows nearest neighbors: name knn in --probe")
    if args.probe_html is not None and not pathlib.Path(args.probe_html).absolute().parent.is_dir():
        raise UserError(f"--probe_html={args.probe_html}: there is no such folder")
    if "prompts" in given and "prompts" not in args.probe:
        raise UserError("--probe_prompts is for classes by their names: name prompts in --probe")
    if args.probe == ["prompts"] and (idle := [name for name in given if name != "prompts"]):
        raise UserError(f"--probe_{idle[0]} is for probes that learn: prompts does not")
    if args.probe and args.split == "train":
        raise UserError("--split=train: probes learn from it; measure another split")
    for flag in ("answers", "knn", "tokens", "objective"):
        if args.probe and getattr(args, flag):
            raise UserError(f"--{flag} is not for probes: leave it or --probe out")
    if wrong := [text for text in given.get("shots", ()) if not text.isdecimal()]:
        raise UserError(f"--probe_shots={wrong[0]}: expected counts of images of each class; 0 = all")
    if "shots" in given:
        given["shots"] = tuple(map(int, given["shots"]))
    return {"probes": tuple(args.probe), **given} if args.probe else {}
