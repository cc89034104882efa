"""The settings of tokenizers and of data."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, section
from ptft_jax.config.field import MANY, Field, natural, one_of, pairs, positive, temperature, texts
from ptft_jax.data.pictures.options import AugmentOptions, ImageOptions

# Of each source: its weight, or weights from steps on.
Mixture = tuple[tuple[str, float | tuple[tuple[float, float], ...]], ...]


class TokenizerOptions(Options):
    """`config.tokenizer`: what makes tokens of texts."""

    kind: str = declared(
        one_of(
            "auto",
            "auto = the parent's, or bytes without one; bpe and words are made of the training text",
            "auto",
            "byte",
            "bpe",
            "words",
            "file",
        )
    )
    vocab_size: int = declared(
        Field(
            1024,
            "of a trained bpe, with its 256 bytes and 1 special token; of words at most",
            valid=lambda v: v > 257,
            expected="more than 257",
        )
    )
    path: str = declared(
        Field("", "for kind=file: a tokenizer.json, tokenizer.model or .tiktoken file, or a folder with one")
    )
    add: tuple[str, ...] = declared(texts((), "new special tokens; they need embeddings that train"))
    add_markers: bool = declared(
        Field(False, "also add the markers of turns of data.template whose end of a turn is no token yet")
    )
    new_rows: str = declared(
        one_of("mean", "embeddings of new tokens: the mean of the others, or random", "mean", "normal")
    )


class NeighborOptions(Options):
    """`config.data.neighbors`: passages that are found for each chunk of a row, which `tune.method=retro` reads."""

    index: str = declared(
        Field("", "the index of passages that they are looked up in (ptft index --kind=bm25); '' = none")
    )
    chunk: int = declared(positive(32, "tokens of a chunk; data.length is several of them"))
    k: int = declared(positive(2, "passages of each chunk, the best of those that are found by its words"))
    length: int = declared(positive(64, "tokens of a passage at most: a longer one is an error"))


class DataOptions(Options):
    """`config.data`: what is trained on, validated and tested, and how it fills rows."""

    source: str = declared(
        Field(
            "",
            "KIND:NAME[?OPTION=VALUE&...], see docs/data.md: what is trained on, validated and tested; of a mixture, which "
            "source is validated and tested, '' = the first",
        )
    )
    mixture: Mixture = declared(
        pairs(
            (),
            "((source, weight), ...): what is trained on instead; 'parent' = the parent's data; a weight is a number, or "
            "((step, weight), ...) with straight lines between; a step below 1 is a share of training.steps",
        )
    )
    temperature: float = declared(
        temperature(0.0, "of a mixture: weights are multiplied by rows ** (1 / temperature); 0 = weights as they are")
    )
    max_epochs: float = declared(
        natural(
            0.0,
            "upper limit on the epochs of a source; of a mixture, the others take its place after that; does not set the run's length "
            "(training.epochs, training.steps); 0 = no limit",
        )
    )
    template: str = declared(Field("", "chat template by name; '' = the tokenizer's own"))
    train_on: str = declared(
        Field(
            "assistant",
            "which tokens of conversations and answers have loss: assistant, last, all, or roles joined by commas",
        )
    )
    packing: str = declared(
        one_of(
            "auto",
            "how examples fill rows: one after the other and cut anywhere (concat, for plain text), whole (first_fit, "
            "best_fit), or one a row (none); auto = concat for plain text, else best_fit",
            "auto",
            "concat",
            "none",
            "first_fit",
            "best_fit",
        )
    )
    overlong: str = declared(
        one_of(
            "raise", "examples longer than a row, where they are not cut anyway", "raise", "drop", "truncate", "split"
        )
    )
    untrainable: str = declared(one_of("raise", "examples with nothing to learn", "raise", "drop"))
    broken: str = declared(one_of("raise", "records that cannot be read", "raise", "skip"))
    leaks: str = declared(
        one_of(
            "say",
            "records that are trained on whose text, or id, stands in validation or test data of the run's sources",
            "say",
            "raise",
            "drop",
        )
    )
    workers: int = declared(natural(0, "processes that tokenize; 0 = by the size of the data and the machine"))
    length: int = declared(positive(128, "tokens per row"))
    batch_size: int = declared(positive(16, "rows per step, over all devices"))
    train_tokens: int = declared(natural(0, "use only the first so many training tokens; 0 = all", most=MANY))
    held_out: float = declared(
        Field(
            0.1,
            "share of the different records kept for validation, in expectation, and as much for test, where the source "
            "names no split; each falls to its side by what it says, see docs/data.md",
            valid=lambda v: 0 < v <= 0.4,
            expected="a share above 0, at most 0.4",
        )
    )
    prefetch: int = declared(natural(2, "batches prepared ahead"))
    neighbors: NeighborOptions = section(NeighborOptions)
    images: ImageOptions = section(ImageOptions)
    augment: AugmentOptions = section(AugmentOptions)
