"""The settings of measures of behavior."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.field import Field, natural, one_of, part, positive, texts, whole_share

MEASURES = ("recall", "options", "extraction", "probability")
_MEASURE = (
    "what of a question is counted: recall, options, extraction as the tasks of these names have it; probability = that of the right "
    "option among the options"
)
_REFUSES = (
    "I don't know", "I do not know", "I'm not sure", "I am not sure", "I cannot", "I can't", "I can not", "I'm sorry", "I am sorry",
    "unknown", "no answer",
)  # fmt: skip


class KnownOptions(Options):
    """`config.eval.behavior.known`: what is known against what is not."""

    confidence: str = declared(
        one_of(
            "token",
            "how sure a model is: token = the largest probability of the first token of its answer; entropy = exp(-entropy) of that token; "
            "options = the largest probability of an option among the options",
            "token",
            "entropy",
            "options",
        )
    )
    phrases: tuple[str, ...] = declared(
        texts(_REFUSES, "an answer that has one of these, in whatever case, abstains; () = none does by what it says")
    )
    threshold: float = declared(whole_share(0.0, "less sure than this abstains, too"))


class CalibrationOptions(Options):
    """`config.eval.behavior.calibration`: whether probabilities of options are what they say."""

    bins: int = declared(positive(10, "of how sure, from 0 to 1"))


class DatesOptions(Options):
    """`config.eval.behavior.dates`: accuracy by date."""

    by: str = declared(one_of("year", "what dates are taken together", "year", "month", "day"))
    measure: str = declared(one_of("recall", _MEASURE, *MEASURES[:3]))


class ParaphrasesOptions(Options):
    """`config.eval.behavior.paraphrases`: one fact, asked in several ways."""

    columns: tuple[str, ...] = declared(
        texts(("paraphrase_of",), "columns of the questions that are alike of those about one fact")
    )
    measure: str = declared(one_of("recall", _MEASURE, *MEASURES[:3]))


class GroupsOptions(Options):
    """`config.eval.behavior.groups`: what differs by group."""

    measure: str = declared(
        one_of(
            "recall",
            f"{_MEASURE}; first_option = that of the first option, whichever is right, of questions of any kind",
            *MEASURES,
            "first_option",
        )
    )
    level: float = declared(part(0.95, "of the intervals"))
    resamples: int = declared(positive(1000, "of the bootstrap", most=1_000_000))
    swaps: str = declared(
        Field("swap_of", "column that questions share that differ in the group alone (counterfactuals)")
    )


class StylesOptions(Options):
    """`config.eval.behavior.styles`: how a model writes, and what it refuses."""

    verifiers: tuple[str, ...] = declared(
        texts((), "what scores style or register, as eval.answers.verifiers; () = only refusals are counted")
    )
    phrases: tuple[str, ...] = declared(
        texts(_REFUSES[:-2], "an answer that has one of these, in whatever case, refuses")
    )


class RetrievalOptions(Options):
    """`config.eval.behavior.retrieval`: what a model makes of passages before its questions."""

    phrases: tuple[str, ...] = declared(
        texts(_REFUSES, "an answer that has one of these, in whatever case, abstains; () = none does")
    )
    memory: bool = declared(
        Field(
            True,
            "questions with a right passage are asked without passages, too: what is followed where the two differ",
        )
    )


class ProbeOptions(Options):
    """`config.eval.behavior.probe`: what can be read linearly off each layer."""

    label: str = declared(Field("", "column with the class of a question; '' = its right answer"))
    at: str = declared(
        Field("", "column with a text of the prompt, off whose last token is read; '' = the prompt's last token")
    )
    held_out: float = declared(part(0.25, "share of the questions that the probe is measured on"))
    ridge: float = declared(natural(1.0, "L2 penalty; 0 = least squares"))


class BehaviorOptions(Options):
    """`config.eval.behavior`: what a model does with questions whose answers are known (docs/behavior.md)."""

    tasks: tuple[str, ...] = declared(
        texts((), "what is measured: recall, options, extraction, known, calibration, ...; () = nothing")
    )
    source: str = declared(
        Field("", "questions; of a source that is trained on and of several splits validation, else all that it holds")
    )
    also: tuple[str, ...] = declared(texts((), "further sources of questions, read likewise"))
    records: int = declared(natural(0, "use only the first so many of each source; 0 = all"))
    before: str = declared(
        Field(
            " ",
            "between a question and an answer or option where neither has white space there; nothing where data.template makes turns",
            raw=True,
        )
    )
    max_new_tokens: int = declared(positive(16, "tokens of an answer, of tasks that let the model write"))
    stop: tuple[str, ...] = declared(texts((), "texts that end such an answer, and are cut off"))
    normalize: str = declared(
        one_of("spaces", "what such an answer is compared by, as rewards.exact.normalize", "spaces", "squad", "none")
    )
    match: str = declared(
        one_of("equal", "starts = it is right where it goes on after the right answer, too", "equal", "starts")
    )
    known: KnownOptions = section(KnownOptions)
    calibration: CalibrationOptions = section(CalibrationOptions)
    dates: DatesOptions = section(DatesOptions)
    paraphrases: ParaphrasesOptions = section(ParaphrasesOptions)
    groups: GroupsOptions = section(GroupsOptions)
    styles: StylesOptions = section(StylesOptions)
    retrieval: RetrievalOptions = section(RetrievalOptions)
    probe: ProbeOptions = section(ProbeOptions)
