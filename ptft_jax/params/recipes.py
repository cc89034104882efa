"""Named choices of what trains in full fine-tuning, as path rules."""

from __future__ import annotations

import re

from ptft_jax.errors import UserError, nearest

Rules = tuple[tuple[str, float], ...]

_REST = ((".*", 0.0),)
_OUTPUT = (("(final_norm|head)/.*", 1.0),)
RECIPES: dict[str, tuple[str, Rules]] = {
    "all": ("every parameter", ((".*", 1.0),)),
    "head": ("the output head alone: a linear probe", (("head/.*", 1.0), *_REST)),
    "last:K": ("the last K blocks, the final norm and the head", ()),
    "no_embeddings": ("everything but the embeddings", (("embed/.*", 0.0), (".*", 1.0))),
    "biases": ("biases (BitFit, Ben Zaken et al. 2021)", (("(.*/)?bias", 1.0), *_REST)),
    "norms": ("norms (LN-tuning, Qi et al. 2022)", (("(.*/)?[a-z_]*norm/(scale|bias)", 1.0), *_REST)),
    "attention": ("attention (Touvron et al. 2022, section 4)", (("blocks/attention/.*", 1.0), *_REST)),
}


# Where the config gives no rate: of all parameters, Devlin et al. 2018, appendix A.3 (2e-5 to 5e-5).
_FULL = 2e-5
_RATES = {
    "head": 1e-3,  # as for a model of its own on frozen features
    "biases": 4e-4,  # Ben Zaken et al. 2021 search 1e-4 to 1e-3
    "norms": 1e-3,  # in PEFT's comparison of methods 1e-4 learned nothing
}


def rules(name: str, reinitialized: tuple[str, ...] = (), field: str = "tune.train") -> Rules:
    """The rules of a recipe.

    Args:
      name: a key of RECIPES; "last:2" for its "last:K".
      reinitialized: patterns of parameters that start from random numbers, and train whatever the recipe.
      field: the config field that names it, for messages.

    Raises:
      UserError: no such recipe.
    """
    found = re.fullmatch(r"last:([1-9]\d*)", name)
    if found:
        chosen: Rules = ((f"blocks[-{found[1]}:]/.*", 1.0), *_OUTPUT, *_REST)
    elif name in RECIPES and RECIPES[name][1]:
        chosen = RECIPES[name][1]
    else:
        known = ", ".join(RECIPES)
        raise UserError(f"config.{field} = {name!r}: expected one of {known}{nearest(name, RECIPES)}")
    return (*((pattern, 1.0) for pattern in reinitialized), *chosen)


def learning_rate(name: str) -> float:
    """The peak rate for a recipe of RECIPES where the config gives none."""
    return _RATES.get(name, _FULL)
