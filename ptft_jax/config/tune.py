"""The settings of fine-tuning: what is added, what trains, and how far it may go from its start."""

from __future__ import annotations

from ptft_jax.adapters.options import QuantizeOptions
from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.field import Field, mass, natural, number, rules, span, texts
from ptft_jax.config.methods import METHODS, MethodOptions
from ptft_jax.regularization.options import DistillOptions, EwcOptions, MixoutOptions, SmoothOptions

# From which update on, which recipe, and at which factor of the rate.
Phases = tuple[tuple[float, str] | tuple[float, str, float], ...]


class _OwnOptions(Options):
    """`config.tune`, but for the sections of methods."""

    method: str = declared(
        Field(
            "full",
            f"what is added to the model: full = nothing, else {', '.join(METHODS)}, or several of them joined by '+'",
        )
    )
    train: str = declared(
        Field(
            "all",
            "of method=full, what trains: all, head, last:K, no_embeddings, biases, norms, attention (ptft_jax.params.recipes)",
        )
    )
    layer_decay: float = declared(
        mass(
            1.0, "factor of the learning rate from each block to the one below it, and to the embeddings; 1 = all alike"
        )
    )
    l2_sp: float = declared(
        natural(0.0, "weight of half the squared distance to where the run started, in the loss (L2-SP)")
    )
    start_decay: float = declared(natural(0.0, "decoupled decay to where the run started, times the rate"))
    phases: Phases = declared(
        Field(
            (),
            "((step, recipe), ...) or ((step, recipe, factor), ...): from each step (below 1: a share of training.steps) on only what the recipe (as tune.train) names "
            "is updated, of what the run trains, at factor times the rate",
        )
    )
    unfreeze_every: float = declared(
        span(
            0,
            "gradual unfreezing: the last block at first, one more from the top every so many steps, then all; 0 = no",
        )
    )
    ewc: EwcOptions = section(EwcOptions)
    distill: DistillOptions = section(DistillOptions)
    mixout: MixoutOptions = section(MixoutOptions)
    smooth: SmoothOptions = section(SmoothOptions)
    adapters: tuple[str, ...] = declared(
        texts(
            (),
            "names, one for each source of data.mixture in their order: an adapter for each, which its rows alone train",
        )
    )
    rates: tuple[tuple[str, float], ...] = declared(
        rules(
            (),
            "((pattern, rate), ...): learning-rate multipliers by path rule, 0 freezes; () = the method's own",
            number,
        )
    )
    quantize: QuantizeOptions = section(QuantizeOptions)


# Dataclasses have the fields of their last base first.
class TuneOptions(MethodOptions, _OwnOptions):
    """`config.tune`: how a parent is fine-tuned."""
