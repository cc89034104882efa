"""The settings of evaluation and of samples."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared
from ptft_jax.config.field import MANY, Field, mass, natural, positive, span, temperature, texts


class EvalOptions(Options):
    """`config.eval`: what is measured, and when."""

    every: float = declared(span(200, "steps between evaluations; 0 = only at start and end"))
    batch_size: int = declared(natural(0, "rows; 0 = data.batch_size"))
    tokens: int = declared(natural(0, "use only the first so many tokens of each set; 0 = all", most=MANY))
    source: str = declared(
        Field(
            "",
            "data to measure forgetting on; '' = what the parent was trained on, where that is known; of a run that goes on with the same "
            "data, what the parent's own forgetting was measured on",
        )
    )
    parent_data: bool = declared(Field(True, "also evaluate on what the parent was trained on (forgetting)"))
    mixture: bool = declared(Field(True, "also evaluate on every source of data.mixture"))
    test: bool = declared(Field(True, "evaluate the selected checkpoint on the test split at the end"))
    metrics: tuple[str, ...] = declared(
        texts((), "what every evaluation measures beside the objective's own: metrics of plugins, by name")
    )


class SamplesOptions(Options):
    """`config.samples`: texts that are continued while a model trains."""

    every: float = declared(span(0, "steps between samples; 0 = at start and end only"))
    prompts: tuple[str, ...] = declared(texts((), "texts to continue; () = no samples", raw=True))
    max_new_tokens: int = declared(positive(64, "tokens a sample"))
    temperature: float = declared(temperature(0.8, "0 = greedy"))
    top_p: float = declared(mass(0.95, "keep the likeliest tokens up to this mass"))
