"""The settings of evaluation and of samples."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.field import MANY, Field, mass, natural, positive, span, temperature, texts
from ptft_jax.evaluation.tasks.options import BehaviorOptions


class AnswersOptions(Options):
    """`config.eval.answers`: answers that the model writes to the prompts of a data source, and how good they are."""

    verifiers: tuple[str, ...] = declared(
        texts(
            (), "what scores answers, see docs/answers.md: exact, f1, regex, number, ...; () = no answers are written"
        )
    )
    source: str = declared(
        Field(
            "",
            "prompts and answers; '' = the run's own validation data; of a source that is trained on its validation split, of another all "
            "that it holds, and of several splits validation",
        )
    )
    reference: str = declared(
        Field("", "column of the records with the right answer, or a list of such; '' = the answer that is learned")
    )
    records: int = declared(natural(100, "use only the first so many records; 0 = all"))
    every: float = declared(span(0, "steps between, a multiple of those of eval.every; 0 = with every evaluation"))
    max_new_tokens: int = declared(
        natural(
            0,
            "tokens of an answer; prompts that leave no room for so many are not asked; 0 = 64, or, of a run that learns from its own answers, "
            "objective.policy.max_new_tokens",
        )
    )
    temperature: float = declared(temperature(0.0, "0 = greedy"))
    top_p: float = declared(mass(1.0, "keep the likeliest tokens up to this mass; at a temperature above 0"))
    stop: tuple[str, ...] = declared(texts((), "texts that end an answer, and are cut off"))


class EvalOptions(Options):
    """`config.eval`: what is measured, and when."""

    every: float = declared(span(200, "steps between evaluations; 0 = only at start and end"))
    batch_size: int = declared(natural(0, "rows; 0 = data.batch_size"))
    tokens: int = declared(
        natural(0, "use only the first so many tokens of each set; 0 = all, as a part is another measure", most=MANY)
    )
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
    pictures: int = declared(
        natural(12, "of images: how many the report shows, of the most confident mistakes and of others; 0 = none")
    )
    metrics: tuple[str, ...] = declared(
        texts((), "what every evaluation measures beside the objective's own: metrics of plugins, by name")
    )
    answers: AnswersOptions = section(AnswersOptions)
    behavior: BehaviorOptions = section(BehaviorOptions)


class SamplesOptions(Options):
    """`config.samples`: texts that are continued while a model trains."""

    every: float = declared(span(0, "steps between samples; 0 = at start and end only"))
    prompts: tuple[str, ...] = declared(texts((), "texts to continue; () = no samples", raw=True))
    max_new_tokens: int = declared(positive(64, "tokens a sample"))
    temperature: float = declared(temperature(0.8, "0 = greedy"))
    top_p: float = declared(mass(0.95, "keep the likeliest tokens up to this mass"))
