"""The settings of verifiers."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.field import Field, natural, one_of, pairs, positive, share, texts

_NORMALIZE = (
    "what texts are compared by: with white space as one space and none around; as SQuAD's; or letter by letter"
)

_TEMPLATE = (
    "chat template by name, or a .jinja file; none = prompt and answer as plain texts; '' = as the model was trained, of hf: and gguf: "
    "weights the tokenizer's own where it has one"
)
_UNSCORED = "what of an answer that gets no score: an error, or it is left out of the mean and counted"


class ExactOptions(Options):
    """`config.rewards.exact`: the answer is a reference."""

    normalize: str = declared(one_of("spaces", _NORMALIZE, "spaces", "squad", "none"))


class F1Options(Options):
    """`config.rewards.f1`: words that answer and reference share, as SQuAD has it."""

    unit: str = declared(
        one_of("words", "what is shared; characters for scripts without spaces", "words", "characters")
    )


class RegexOptions(Options):
    """`config.rewards.regex`: a pattern that the answer has to hold, or what it finds compared with a reference."""

    pattern: str = declared(
        Field(
            "",
            "of Python's re, looked for in the answer; what its group finds, where it has one, has to be a reference",
        )
    )
    which: str = declared(one_of("first", "of several places, with a group", "first", "last"))
    seconds: float = declared(positive(1.0, "for an answer; a search that takes longer has found nothing"))


class NumberOptions(Options):
    """`config.rewards.number`: the number that the answer ends with is that of a reference."""

    where: str = declared(
        one_of(
            "auto",
            "which number: behind '####', in the last \\boxed{}, the last one; auto = the first of these that there is",
            "auto",
            "hashes",
            "boxed",
            "last",
        )
    )
    tolerance: float = declared(natural(0.0, "relative difference that is none; 0 = exact"))


class JsonSchemaOptions(Options):
    """`config.rewards.json_schema`: the answer is JSON of a schema."""

    schema: str = declared(
        Field("", "file of the JSON schema; '' = each record has its own, in rewards.json_schema.column")
    )
    column: str = declared(
        Field("", "column of the records that holds a schema, where rewards.json_schema.schema is ''")
    )
    seconds: float = declared(positive(2.0, "for an answer; one that takes longer is not valid"))


class ProgramOptions(Options):
    """`config.rewards.program`: the answer is a Python program that passes the record's tests."""

    tests: str = declared(
        Field(
            "",
            "column with the tests: Python code, a list of such, or a list of {input, output}; '' = the reference is the code",
        )
    )
    with_prompt: bool = declared(Field(False, "the program is the prompt and the answer after it, as of completions"))
    seconds: float = declared(positive(10.0, "that a program may take, by the clock"))
    cpu_seconds: int = declared(positive(10, "that it may compute"))
    memory: int = declared(positive(512, "MiB of address space"))
    output: int = declared(positive(65536, "bytes that it may write to its output, and to a file"))


class RewardModelOptions(Options):
    """`config.rewards.reward_model`: what a reward model gives the answer."""

    run: str = declared(
        Field(
            "",
            "a run of objective.name='reward', WORKDIR[@best|@last|@STEP][#ADAPTER]; or hf:FOLDER of a sequence classifier with one number",
        )
    )
    template: str = declared(Field("", _TEMPLATE))
    batch_size: int = declared(positive(16, "answers at a time"))
    unscored: str = declared(one_of("raise", _UNSCORED, "raise", "drop"))


class EnsembleOptions(Options):
    """`config.rewards.ensemble`: what several reward models give the answer, as one number."""

    runs: tuple[str, ...] = declared(texts((), "two or more reward models, each as rewards.reward_model.run"))
    how: str = declared(
        one_of(
            "mean",
            "the number; uncertainty = the mean less rewards.ensemble.deviations times the standard deviation over the models",
            "mean",
            "min",
            "uncertainty",
        )
    )
    deviations: float = declared(positive(1.0, "of how=uncertainty: standard deviations that are taken off"))
    template: str = declared(Field("", _TEMPLATE))
    batch_size: int = declared(positive(16, "answers at a time"))
    unscored: str = declared(one_of("raise", _UNSCORED, "raise", "drop"))


class ProcessRewardOptions(Options):
    """`config.rewards.process_reward`: what a process reward model gives the steps of the answer, its lines, as one number."""

    run: str = declared(Field("", "a run of objective.name='process_reward', WORKDIR[@best|@last|@STEP][#ADAPTER]"))
    how: str = declared(
        one_of("product", "the number, of the probabilities that the steps are right", "product", "min", "last")
    )
    batch_size: int = declared(positive(16, "answers at a time"))
    unscored: str = declared(one_of("raise", _UNSCORED, "raise", "drop"))


class JudgeOptions(Options):
    """`config.rewards.judge`: what a model says of the answer, by a rubric."""

    run: str = declared(
        Field("", "a model that writes: WORKDIR[@best|@last|@STEP][#ADAPTER] of a run, hf:FOLDER, or gguf:FILE")
    )
    rubric: str = declared(
        Field(
            "",
            "what it is asked, a text with the places {prompt}, {answer} and {reference}; '' = rewards.judge.rubric_file",
        )
    )
    rubric_file: str = declared(Field("", "a file of it"))
    scale: tuple[tuple[str, float], ...] = declared(
        pairs(
            (("1", 1.0), ("2", 2.0), ("3", 3.0), ("4", 4.0), ("5", 5.0)),
            "((label, value), ...): what it answers by, and what that is worth",
        )
    )
    how: str = declared(
        one_of(
            "probabilities",
            "the mean of the values, by the probabilities of their labels as the next token; or what is found in a text that it writes",
            "probabilities",
            "text",
        )
    )
    least_mass: float = declared(
        share(0.01, "of how=probabilities: probability of all labels together below which an answer has no score")
    )
    pattern: str = declared(
        Field(
            "",
            "of how=text: of Python's re, finds the label or the value; '' = a number, or a label where they are words",
        )
    )
    which: str = declared(
        one_of(
            "only",
            "of how=text: of several places; only = they have to say the same, else there is no score",
            "only",
            "first",
            "last",
        )
    )
    max_new_tokens: int = declared(positive(64, "of how=text: tokens that it may write"))
    template: str = declared(Field("", _TEMPLATE))
    batch_size: int = declared(positive(16, "answers at a time"))
    unscored: str = declared(one_of("raise", _UNSCORED, "raise", "drop"))


class PrinciplesOptions(Options):
    """`config.rewards.principles`: the share of principles that the answer keeps, by their checks."""

    file: str = declared(Field("", "a file of principles, TOML or JSON, each with a check"))
    weights: tuple[tuple[str, float], ...] = declared(
        pairs((), "((principle, weight), ...) of those that do not weigh 1")
    )
    unscored: str = declared(one_of("raise", _UNSCORED, "raise", "drop"))


class FunctionOptions(Options):
    """`config.rewards.function`, of functions of plugins, which are called in a process of their own."""

    seconds: float = declared(positive(60.0, "for an answer; then the process is ended, and there is no score"))
    unscored: str = declared(one_of("raise", _UNSCORED, "raise", "drop"))


class CombinedOptions(Options):
    """`config.rewards.combined`: the weighted sum of others."""

    parts: tuple[tuple[str, float], ...] = declared(
        pairs((), "((verifier, weight), ...): the score is the sum of weight * score")
    )


class RewardsOptions(Options):
    """`config.rewards`: the verifiers, each with its settings."""

    exact: ExactOptions = section(ExactOptions)
    f1: F1Options = section(F1Options)
    regex: RegexOptions = section(RegexOptions)
    number: NumberOptions = section(NumberOptions)
    json_schema: JsonSchemaOptions = section(JsonSchemaOptions)
    program: ProgramOptions = section(ProgramOptions)
    reward_model: RewardModelOptions = section(RewardModelOptions)
    ensemble: EnsembleOptions = section(EnsembleOptions)
    process_reward: ProcessRewardOptions = section(ProcessRewardOptions)
    judge: JudgeOptions = section(JudgeOptions)
    principles: PrinciplesOptions = section(PrinciplesOptions)
    combined: CombinedOptions = section(CombinedOptions)
    function: FunctionOptions = section(FunctionOptions)
