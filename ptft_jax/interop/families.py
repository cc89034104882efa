"""The registry of families: which one a config.json belongs to, and which ones can express a model of ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config.field import hashable
from ptft_jax.config.plugins import tables
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.interop import llamas
from ptft_jax.interop.config_reader import Fields, check, check_sizes
from ptft_jax.interop.names import Model
from ptft_jax.model.spec import STRUCTURE, ModelSpec, contradictions


@functools.cache
def known(plugins: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """`model_type` -> family, of the package and of plugins, in the order in which they are tried for a model of ours.

    Raises:
      UserError: see `ptft_jax.config.plugins.tables`; or a family of a plugin whose own name is another.
    """
    found = {name: spec.build() for name, spec in tables(plugins).families.items()}
    for name, family in found.items():
        if (own := getattr(family, "model_type", None)) != name:
            raise UserError(f"config.plugins: FAMILIES[{name!r}]: its model_type is {own!r}")
    return found


FAMILIES = known()

_DEFAULTS = {path.removeprefix("model."): f.default for path, f in configs.fields() if path.startswith("model.")}


def get(name: str, where: str, plugins: Sequence[str] = ()) -> Any:
    """The family of a `model_type`. Raises UserError with those there are."""
    families = known(tuple(plugins))
    if name not in families:
        raise UserError(
            f"{where}: model_type {name!r} is not supported, only {', '.join(families)}{nearest(name, families)}"
        )
    return families[name]


def read(
    config: Mapping[str, Any],
    where: str,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    plugins: Sequence[str] = (),
) -> tuple[Any, dict[str, Any]]:
    """The family and the model that a config.json describes; `shapes`: of the tensors beside it, by name; `plugins`: that may
    have its family.

    Raises:
      UserError: another family, a field that is missing, a setting that has no counterpart here, or sizes that contradict
        each other or the tensors.
    """
    check(config, where)
    if shapes is not None:
        check_sizes(config, shapes, where)
    c = Fields(config, where)
    family = get(c.need("model_type"), where, plugins)
    if c.get("quantization_config", None):
        method = config["quantization_config"].get("quant_method", "some way")
        raise UserError(f"{where}: the weights are quantized by {method}; give the unquantized model, or a GGUF file")
    model = family.read(c)
    for name, value, expected in contradictions({**_DEFAULTS, **model}):
        raise UserError(f"{where}: config.json: model.{name} would be {value!r}: expected {expected}")
    return family, canonical(model)


def canonical(model: Model) -> dict[str, Any]:
    """Every structural field and `vocab_size`, sizes filled in, so that equal models are equal dicts."""
    values = {name: hashable(model.get(name, _DEFAULTS[name])) for name in (*STRUCTURE, "vocab_size")}
    spec = ModelSpec(**values).resolved
    values |= {name: getattr(spec, name) for name in ("kv_heads", "head_dim", "mlp_width", "text_mlp_width")}
    values["attention_scale"] = values["attention_scale"] or values["head_dim"] ** -0.5
    values["biases"] = tuple(sorted(values["biases"]))
    if values["norm"] != "layer":  # such norms have no bias to speak of
        values["biases"] = tuple(b for b in values["biases"] if b != "norm")
    cycle = llamas.shortest_cycle(spec.kinds)
    return values | {"layer_kinds": cycle, "window": values["window"] if "sliding" in cycle else 0}


def write(family: Any, model: Model) -> dict[str, Any]:
    """A config.json for the model."""
    architecture = getattr(family, "architecture_of", lambda _: family.architecture)(model)
    return {"architectures": [architecture], "model_type": family.model_type, **family.write(model)}


def differences(family: Any, model: Model) -> list[str]:
    """What of the model a family cannot express, a line a field; none where writing and reading gives it back."""
    wanted = canonical(model)
    try:
        found = canonical(family.read(Fields(write(family, wanted), family.model_type)))
    except (UserError, KeyError) as e:
        return [str(e)]
    return [f"{k}: {wanted[k]!r} (would be {found[k]!r})" for k in wanted if not same(wanted[k], found[k])]


def same(a: Any, b: Any) -> bool:
    """Whether two values of a field mean the same."""
    # A scale is written as its square's inverse (query_pre_attn_scalar), which costs a rounding.
    return abs(a - b) <= 1e-12 * abs(a) if isinstance(a, float) and isinstance(b, float) else a == b


def choose(model: Model, preferred: str = "", plugins: Sequence[str] = ()) -> Any:
    """A family that can express the model, `preferred` first. Raises UserError with what stands in the way."""
    if model.get("tower"):
        raise UserError(
            "the model reads images by a tower (model.tower), and such models are not written in other libraries' forms: its runs are what ptft reads"
        )
    if preferred:
        family = get(preferred, "--family", plugins)
        wrong = differences(family, model)
        if wrong:
            raise UserError(f"the family {preferred!r} cannot express this model:{listed(wrong, 20)}")
        return family
    families = known(tuple(plugins))
    tried = {name: differences(family, model) for name, family in families.items()}
    for name, wrong in tried.items():
        if not wrong:
            return families[name]
    name, wrong = min(tried.items(), key=lambda item: len(item[1]))
    raise UserError(
        f"no family of {', '.join(families)} can express this model; nearest is {name}, but for:{listed(wrong, 20)}"
    )


def of(
    model: Model, chain: list[dict[str, Any]], preferred: str = "", plugins: Sequence[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """The family to write a model as, and the config.json that it was imported with.

    Args:
      chain: the lineage behind the model. Where it began with imported weights, their family is taken if it can still
        express the model.
      preferred: a `model_type` that must be taken.
      plugins: modules that have further families.

    Returns:
      (family, config), with {} where the model was not imported, or from another family.
    """
    origin = next((entry for entry in chain if "model_type" in entry), {})
    kept = origin.get("model_type", "")
    # A family of a plugin that is not named here is left for one that is known.
    if not preferred and kept in known(tuple(plugins)) and not differences(get(kept, "lineage", plugins), model):
        preferred = kept
    family = choose(model, preferred, plugins)
    return family, origin["config"] if kept == family.model_type else {}
