"""Training a tokenizer on a run's own text."""

from __future__ import annotations

from collections.abc import Sequence

from ptft_jax.data import cache
from ptft_jax.data.tokenizers.base import END_OF_TEXT, FILE
from ptft_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from ptft_jax.errors import UserError


def train_bpe(texts: Sequence[str], vocab_size: int) -> HuggingFaceTokenizer:
    """A byte-level BPE of exactly `vocab_size` ids, cached by the texts' content.

    Raises:
      UserError: the texts are too short for so many merges.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    key = cache.digest("bpe-1", tokenizers.__version__, str(vocab_size), *texts)
    path = cache.root() / "tokenizers" / key / FILE
    if not path.exists():
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[END_OF_TEXT],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        found = tokenizer.get_vocab_size()
        if found != vocab_size:
            raise UserError(f"config.tokenizer.vocab_size = {vocab_size}: the training text gives only {found} tokens")
        cache.write_atomic(path, lambda temporary: temporary.write_text(tokenizer.to_str(), encoding="utf-8"))
    return HuggingFaceTokenizer({FILE: path.read_bytes()}, str(path))
