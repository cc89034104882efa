"""Training a tokenizer on a run's own text."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from ptft_jax.data import cache
from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers.base import END_OF_TEXT, FILE
from ptft_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from ptft_jax.errors import UserError

_PART = 1 << 16  # characters of a long text that are given at once: the library collects some hundred before it counts


class Long(Protocol):
    """A text that is read some at a time."""

    def blocks(self) -> Iterator[str]: ...


class Texts(Protocol):
    """Texts that are read when they are needed, and known by what they are made of.

    Attributes:
      identity: equal for equal texts.
      origin: what they are of, for people.
    """

    identity: tuple[str, ...]
    origin: str

    def __iter__(self) -> Iterator[str | Long]: ...


def train_bpe(texts: Texts | Sequence[str], vocab_size: int) -> HuggingFaceTokenizer:
    """A byte-level BPE of exactly `vocab_size` ids, cached by the texts' identity, or their content. Texts are not held.

    Raises:
      UserError: the texts are too short for so many merges.
    """

    def make() -> Any:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[END_OF_TEXT],
            show_progress=False,
        )
        tokenizer.train_from_iterator(_parts(texts), trainer)
        found = tokenizer.get_vocab_size()
        if found != vocab_size:
            raise UserError(f"config.tokenizer.vocab_size = {vocab_size}: the training text gives only {found} tokens")
        return tokenizer

    return _kept("bpe", f"{vocab_size:,} tokens", texts, vocab_size, make)


def train_words(texts: Texts | Sequence[str], vocab_size: int) -> HuggingFaceTokenizer:
    """The words of the texts as tokens, each with the space before it: the most frequent ones, as many as `vocab_size` ids have place for
    beside 256 bytes, which spell all others. It is a byte-level BPE without merges that takes words whole. Cached as `train_bpe`."""

    def make() -> Any:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
        counts: collections.Counter[str] = collections.Counter()
        for text in _parts(texts):
            counts.update(word for word, _ in cut.pre_tokenize_str(text))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
        tokens = [END_OF_TEXT, *alphabet, *words[: vocab_size - len(alphabet) - 1]]
        model = models.BPE({token: n for n, token in enumerate(tokens)}, [], ignore_merges=True)
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
        tokenizer.add_special_tokens([END_OF_TEXT])
        return tokenizer

    return _kept("words", "words", texts, vocab_size, make)


def _kept(
    kind: str, what: str, texts: Texts | Sequence[str], vocab_size: int, make: Callable[[], Any]
) -> HuggingFaceTokenizer:
    """What `make` gives, of the `tokenizers` library, or gave before of these texts and so many ids; `what` it is, for people."""
    import tokenizers

    known, origin = (texts, "texts") if isinstance(texts, Sequence) else (texts.identity, texts.origin)
    named = f"{kind}-1" if isinstance(texts, Sequence) else f"{kind}-of-1"
    path = cache.root() / "tokenizers" / cache.digest(named, tokenizers.__version__, str(vocab_size), *known) / FILE
    if not cache.used(path, f"{what} of {origin}"):
        text = make().to_str()
        cache.write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), f"{what} of {origin}")
    return HuggingFaceTokenizer({FILE: path.read_bytes()}, str(path))


def _parts(texts: Iterable[str | Long]) -> Iterator[str]:
    """The texts, long ones in parts, which have the same words."""
    for text in texts:
        if isinstance(text, str):
            yield from cutting.parts(text, cutting.BEFORE, _PART)
        else:
            yield from cutting.regrouped(text.blocks(), cutting.BEFORE, _PART)
