"""Combining finished runs into one: which method reads what, and each from its models to a workdir."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ptft_jax import environment
from ptft_jax.combining import arithmetic, lowrank, scoring, writing
from ptft_jax.combining.models import Model, Reader, alike, check_one_base, notes
from ptft_jax.config.field import MANY, natural, positive, seed
from ptft_jax.errors import UserError, nearest
from ptft_jax.reporting import merge_page
from ptft_jax.runs import places

_DATA = ("data", "tokens", "batch_size")
_NUMBERS = {
    "experts": positive(8, ""),
    "experts_per_token": positive(2, ""),
    "seed": seed(0, ""),
    "skip": natural(0, ""),
    "merge": positive(1, ""),
    "tokens": natural(0, "", most=MANY),
    "batch_size": positive(16, ""),
}
_MISSING = {
    "density": "the share of each task vector that --method={} keeps, above 0, at most 1 (0.2 in the paper of TIES, 0.1 for DARE's drop rate of 0.9)",
    "experts": "how many experts --method={} makes of each MLP, such as 8",
}


class _Kind(NamedTuple):
    """How many runs a method takes at least and at most (0 = any), the options that it reads, and those that it needs."""

    least: int
    most: int
    reads: tuple[str, ...]
    needs: tuple[str, ...] = ()


def _pruning(rule: str) -> _Kind:
    prune, join = arithmetic.RULES[rule]
    reads = ("weights", *(("density",) if prune else ()), *(("seed",) if prune == "random" else ()))
    reads += ("sign",) if join == "ties" else ()
    return _Kind(2 if join == "ties" else 1, 0, reads, ("density",) if prune else ())


def _whole(rule: str) -> _Kind:
    kind = _pruning(rule)
    extra = ("base", *(("trim",) if arithmetic.RULES[rule][0] == "magnitude" else ()))
    return kind._replace(reads=(*kind.reads, *extra))


# Of whole models, and of adapters for one base (lowrank.WAYS).
METHODS: Mapping[str, _Kind] = {
    "interpolate": _Kind(1, 1, ("base", "alpha", "curve", "rule", "budget", "source", *_DATA)),
    "slerp": _Kind(2, 2, ("alpha",)),
    "soup": _Kind(2, 0, ("weights",)),
    "greedy_soup": _Kind(2, 0, ("metric", *_DATA)),
    "tower": _Kind(2, 2, ("skip", "projector", "merge", "seed")),
    "upcycle": _Kind(1, 1, ("experts", "experts_per_token", "seed"), ("experts",)),
    "task": _whole("linear"),
    **{rule: _whole(rule) for rule in arithmetic.RULES if rule != "linear"},
}
ADAPTERS: Mapping[str, _Kind] = {
    "cat": _Kind(1, 0, ("weights",)),
    "svd": _Kind(1, 0, ("weights", "rank")),
    **{rule: _pruning(rule) for rule in arithmetic.RULES},
    **{
        rule + lowrank.SVD: _pruning(rule)._replace(reads=(*_pruning(rule).reads, "rank"))
        for rule in arithmetic.RULES
        if rule != "linear"
    },
}
_DEFAULTS = {
    "weights": (), "density": 1.0, "seed": 0, "sign": "total", "trim": "model", "rank": 0, "base": "", "alpha": None,
    "experts": 0, "experts_per_token": 2, "curve": "", "rule": "", "budget": 0.0, "metric": "nll", "data": "", "source": "", "tokens": None, "batch_size": 16,
    "skip": 0, "projector": "mlp", "merge": 1,
}  # fmt: skip


def combine(
    method: str,
    runs: Sequence[str],
    out: str | pathlib.Path,
    *,
    adapter: bool = False,
    ignore: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    **given: Any,
) -> dict[str, Any]:
    """Combines runs, and writes the result as a run's workdir that every verb takes.

    Args:
      method: of `METHODS`, or with `adapter` of `ADAPTERS`.
      runs: references: WORKDIR[@best|@last|@STEP], hf:..., gguf:...; adapters are merged, unless `adapter`.
      out: the workdir.
      adapter: the runs are adapters of one method for one base, and so is the result.
      ignore: patterns of tensors of imported weights that may be left out.
      say: is told which checkpoint a run's name alone stands for.
      given: options by name, of those that the method reads:
        weights: one number per run, default 1; negative ones take away. A soup divides by their sum.
        density: the share of a task vector that is kept (1 - the drop rate of DARE).
        trim: "model" keeps the largest of a whole task vector, "layer" of each layer's each parameter.
        sign: how TIES elects signs, "total" or "frequency".
        seed: of what DARE drops.
        skip, projector, merge: of a tower, `model.tower_skip`, `model.projector` and `model.projector_merge`; `seed` is of the projector.
        experts, experts_per_token: of the mixture of experts that a dense model becomes; `seed` is of its routers.
        rank: of the result of an SVD; 0 = the largest of the adapters'.
        base: what task vectors start from, and what is interpolated with; "" = the runs' parent, by their lineage.
        alpha, curve, rule, budget: see `scoring.curve`; alpha is 0.5 where neither it nor a rule is given. Of slerp, 0 is the first
          run and 1 the second.
        metric, data, source, tokens, batch_size: what is measured on what (`measuring.Measured`).

    Returns:
      What was done: {"out", "method", the options that mattered, "base", "runs", "fingerprint"}.

    Raises:
      UserError: an option that is missing or that the method does not read, models that do not fit together, `out` exists.
    """
    kind = _kind(method, adapter)
    options = _options(method, kind, len(runs), adapter, given)
    options = _line(options) if method == "interpolate" else options
    out = places.local(out, f"--out={out}").expanduser()
    writing.refuse_existing(out)
    reader = Reader(ignore, say)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is an error before it is written
        return _combined(method, kind, reader, runs, out, options, adapter)


def _combined(
    method: str,
    kind: _Kind,
    reader: Reader,
    runs: Sequence[str],
    out: pathlib.Path,
    options: Mapping[str, Any],
    adapter: bool,
) -> dict[str, Any]:
    if adapter:
        from ptft_jax.combining import adapter_merge

        return adapter_merge.combine(method, [reader.run(name) for name in runs], out, options)
    sources = [reader.run(name) for name in runs]
    models = [reader.open(source) for source in sources]
    if method == "interpolate":
        return _interpolate(reader, models[0], runs[0], out, options)
    if method == "upcycle":
        from ptft_jax.combining import upcycling

        params, fields = upcycling.upcycled(models[0], options)
        recipe = {"method": method, **{name: options[name] for name in kind.reads}}
        return _write(out, params, models, None, recipe, seed=options["seed"], fields=fields)
    if method == "tower":
        from ptft_jax.combining import towers

        params, fields = towers.joined((models[0], models[1]), options)
        recipe = {"method": method, **{name: options[name] for name in kind.reads}}
        return _write(out, params, models, None, recipe, seed=options["seed"], fields=fields)
    models = alike(models)
    if method == "slerp":
        return _slerp(models, out, options["alpha"])
    if method in ("soup", "greedy_soup"):
        return _soup(method, models, runs, out, options)
    base = reader.parent(sources[0], options["base"])
    _, base = alike([models[0], base])
    check_one_base(base, models)
    params = _edited(base, models, "linear" if method == "task" else method, options)
    recipe = {"method": method, **{k: options[k] for k in kind.reads if k != "base"}}
    return _write(out, params, models, base, recipe, seed=options["seed"])


def _kind(method: str, adapter: bool) -> _Kind:
    table, other = (ADAPTERS, METHODS) if adapter else (METHODS, ADAPTERS)
    if method not in table:
        hint = nearest(method, table)
        if method in other:
            hint = ", which is for adapters: give --adapter" if other is ADAPTERS else ", which is for whole models"
        what = "of adapters" if adapter else "of whole models"
        raise UserError(f"--method={method}: expected one {what}: {', '.join(table)}{hint}")
    return table[method]


def _options(method: str, kind: _Kind, runs: int, adapter: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in _DEFAULTS:
            raise UserError(f"--{name} is no option{nearest(name, _DEFAULTS)}")
        if name not in kind.reads:
            reads = ", ".join(f"--{n}" for n in kind.reads) or "no options"
            raise UserError(f"--{name} is set, but --method={method} does not read it; it reads {reads}")
    for name in kind.needs:
        if name not in given:
            raise UserError(f"--{name} is missing: {_MISSING[name].format(method)}")
    if runs < kind.least or (kind.most and runs > kind.most):
        count = str(kind.least) if kind.most == kind.least else f"{kind.least} or more"
        raise UserError(f"--method={method} combines {count} of --run, not {runs}")
    for name, field in _NUMBERS.items():
        if given.get(name) is not None and (wrong := field.read(given[name])[1]):
            raise UserError(f"--{name}{wrong}")
    options = {**_DEFAULTS, **given, "reads": kind.reads}
    if "weights" in kind.reads:
        weights = tuple(map(float, options["weights"])) or (1.0,) * runs
        if len(weights) != runs or not all(map(math.isfinite, weights)):
            raise UserError(f"--weights={','.join(map(str, weights))}: expected {runs}, a number for each --run")
        if method == "soup" and sum(weights) <= 0:
            raise UserError(f"--weights={','.join(map(str, weights))}: expected a sum above 0, by which a soup divides")
        options["weights"] = weights
    if method == "slerp":
        options["alpha"] = _share(0.5 if options["alpha"] is None else options["alpha"], "the first run", "the second")
    if "density" in kind.reads and not 0 < options["density"] <= 1:
        raise UserError(f"--density={options['density']}: expected a share above 0, at most 1")
    if "rank" in given and options["rank"] < 1:
        raise UserError(f"--rank={options['rank']}: expected 1 or more")
    for name, choices in (
        ("sign", ("total", "frequency")),
        ("trim", ("model", "layer")),
        ("metric", scoring.METRICS),
        ("projector", ("mlp", "linear")),
    ):
        if options[name] not in choices:
            raise UserError(f"--{name}={options[name]}: expected one of {', '.join(choices)}")
    return options


def _write(
    out: pathlib.Path,
    params: Mapping[str, np.ndarray],
    models: Sequence[Model],
    base: Model | None,
    recipe: Mapping[str, Any],
    *,
    seed: int = 0,
    fields: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Writes whole parameters, and says what was done; `fields` of `config.model` are others than the first model's."""
    first = models[0]
    chain = [base.entry(), *base.behind()] if base else []
    start = base.reference if base else ""
    weights = recipe.get("weights", (None,) * len(models))
    runs = [{**model.entry(), **({} if w is None else {"weight": w})} for model, w in zip(models, weights)]
    behind = [entry for model in models for entry in model.behind()]
    config = writing.config_of(first, start, seed)
    config["model"] |= fields or {}
    config["model"]["param_dtype"] = str(arithmetic.wider(params.values()))
    recipe = {**recipe, **writing.noted(notes([*models, *([base] if base else [])]))}
    fingerprint = writing.write(
        out, params, config, first, runs=runs, chain=chain, behind=behind, recipe=recipe, **more
    )
    names = [model.name for model in models]
    return {"out": str(out), **recipe, "base": start, "runs": names, "fingerprint": fingerprint}


def _each(model: Model, leaf: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    return {path: leaf(path) for path in model.leaves.shapes}


def _line(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of interpolate, with "alpha" as it is used and "alphas" of the curve, () without one. Raises UserError."""
    rule, alpha, text = options["rule"], options["alpha"], options["curve"]
    if rule and rule not in scoring.RULES:
        raise UserError(f"--rule={rule}: expected one of {', '.join(scoring.RULES)}{nearest(rule, scoring.RULES)}")
    if rule and alpha is not None:
        raise UserError("--alpha and --rule both choose the model that is written: give one of them")
    if rule and not text:
        raise UserError(f"--rule={rule} chooses from a curve: give --curve=0,0.1,...,1")
    if (options["budget"] != 0.0) != (rule == "budget"):
        raise UserError("--budget, in nats per token above 0, goes with --rule=budget")
    for name in ("data", "source", "tokens"):
        if options[name] and not text:
            raise UserError(f"--{name} is what a curve is measured on: give --curve=0,0.1,...,1")
    if text:
        environment.needed("matplotlib", "--curve, which is drawn,")  # before anything is measured
    alpha = 0.5 if alpha is None and not rule else alpha
    if alpha is not None:
        _share(alpha, "the parent", "the run")
    return {**options, "alpha": alpha, "alphas": scoring.points(text) if text else ()}


def _interpolate(
    reader: Reader, child: Model, run: str, out: pathlib.Path, options: Mapping[str, Any]
) -> dict[str, Any]:
    parent = reader.parent(child.source, options["base"])
    _, parent = alike([child, parent])
    check_one_base(parent, [child])
    if options["alphas"]:
        params, recipe, more = _from_curve(parent, child, run, options)
    else:

        def leaf(path: str) -> np.ndarray:
            """One alone, so that neither model is held whole."""
            two = ({path: model.leaves[path]} for model in (parent, child))
            return scoring.between(*two, options["alpha"])[path]

        params, recipe, more = _each(child, leaf), {"alpha": options["alpha"]}, {}
    return _write(out, params, [child], parent, {"method": "interpolate", **recipe}, **more)


def _from_curve(
    parent: Model, child: Model, run: str, options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Measures a curve. Returns the parameters that are chosen, the recipe, and what else `writing.write` takes."""
    rule = options["rule"]
    measured = scoring.Measured(run, parent.source, **{name: options[name] for name in (*_DATA, "source")})
    if rule in ("sum", "budget") and not measured.has_source:
        raise UserError(f"--rule={rule}: what {parent.name} was trained on is not known: give --source")
    two = [_each(model, model.leaves.__getitem__) for model in (parent, child)]
    choice = {name: options[name] for name in ("alpha", "rule", "budget")}
    found = scoring.curve(*two, options["alphas"], measured, **choice)
    params = scoring.between(*two, found.alpha)
    at = {row["alpha"]: {k: v for k, v in row.items() if k != "alpha"} for row in found.rows}
    tests = ("test", "source_test")
    before = {**at.get(0.0, {}), **measured.values(two[0], tests)}
    after = {**at[found.alpha], **measured.values(params, tests)}
    recipe = {"alpha": found.alpha, "curve": found.rows}
    if rule:
        recipe["rule"] = rule
    if rule == "budget":
        recipe["budget"] = options["budget"]
    return params, recipe, {"measured": {"before": before, "after": after}, "files": merge_page.figures(recipe)}


def _slerp(models: Sequence[Model], out: pathlib.Path, alpha: float) -> dict[str, Any]:
    params = _each(
        models[0],
        lambda path: arithmetic.by_layer(
            path, [model.leaves[path] for model in models], lambda _, two: arithmetic.slerp(*two, alpha)
        ),
    )
    return _write(out, params, models, None, {"method": "slerp", "alpha": alpha})


def _share(alpha: float, zero: str, one: str) -> float:
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha={alpha}: expected a number from 0 ({zero}) to 1 ({one})")
    return alpha


def _soup(
    method: str, models: Sequence[Model], runs: Sequence[str], out: pathlib.Path, options: Mapping[str, Any]
) -> dict[str, Any]:
    if method == "soup":
        params = _each(
            models[0],
            lambda path: arithmetic.by_layer(
                path,
                [model.leaves[path] for model in models],
                lambda _, arrays: arithmetic.mean(arrays, options["weights"]),
            ),
        )
        shares = tuple(weight / sum(options["weights"]) for weight in options["weights"])
        return _write(out, params, models, None, {"method": method, "weights": shares})
    metric = options["metric"]
    measured = scoring.Measured(runs[0], **{name: options[name] for name in _DATA})
    values: dict[str, float] = {}

    def measure(params: scoring.Params) -> float:
        values.update(measured.values(params, ("validation",)))
        if f"validation/{metric}" not in values:
            raise UserError(f"--metric={metric}: the runs' objective measures {', '.join(sorted(values))}")
        return values[f"validation/{metric}"]

    params, steps = scoring.greedy(models, measure, scoring.METRICS[metric])
    kept = {row["model"] for row in steps if row["kept"]}
    weights = tuple(1 / len(kept) if n in kept else 0.0 for n in range(len(models)))
    steps = [{k: v for k, v in row.items() if k != "model"} for row in steps]
    after = measured.values(params, ("validation", "test"))
    recipe = {"method": method, "metric": metric, "weights": weights, "steps": steps}
    return _write(out, params, models, None, recipe, measured={"after": after})


def _edited(base: Model, children: Sequence[Model], rule: str, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """base + what the rule makes of the children's task vectors."""
    weights, density = options["weights"], options["density"]
    prune = arithmetic.RULES[rule][0]
    least: list[float] = []
    if prune == "magnitude" and options["trim"] == "model":
        least = [arithmetic.threshold(lambda child=child: _vectors(base, child), density) for child in children]

    def pruned(path: str, layer: int, n: int, one: np.ndarray) -> np.ndarray:
        if prune == "random":
            return arithmetic.drop(one, density, options["seed"], path, layer, n)
        return arithmetic.above(one, least[n]) if least else arithmetic.trim(one, density)

    def layers(path: str) -> Callable[[int, list[np.ndarray]], np.ndarray]:
        def one(layer: int, arrays: list[np.ndarray]) -> np.ndarray:
            start, *ends = arrays
            if not prune:
                return arithmetic.task(start, ends, weights)
            vectors = [pruned(path, layer, n, arithmetic.vector(start, end)) for n, end in enumerate(ends)]
            merged = arithmetic.merge(rule, vectors, weights, options["sign"])
            return (start.astype(np.float64) + merged).astype(arithmetic.wider(arrays))

        return one

    return _each(
        base,
        lambda path: arithmetic.by_layer(
            path, [base.leaves[path], *(child.leaves[path] for child in children)], layers(path)
        ),
    )


def _vectors(base: Model, child: Model):
    """The task vector in parts, a layer of a leaf at a time."""
    for path in base.leaves.shapes:
        start, end = base.leaves[path], child.leaves[path]
        parts = zip(start, end) if arithmetic.layers_of(path, start.shape) else [(start, end)]
        for a, b in parts:
            yield arithmetic.vector(a, b)
