"""Text to token ids and back, for every kind of tokenizer: bytes, tokenizer.json, SentencePiece, tiktoken ranks."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.options import TokenizerOptions
from ptft_jax.data.tokenizers import alike, sentencepiece_model, settings, tiktoken_ranks
from ptft_jax.data.tokenizers.base import END_OF_TEXT, FILE, Tokenizer
from ptft_jax.data.tokenizers.byte import ByteTokenizer
from ptft_jax.data.tokenizers.fitting import Texts, train_bpe, train_words
from ptft_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from ptft_jax.data.tokenizers.sentencepiece_model import SentencePieceTokenizer
from ptft_jax.data.tokenizers.tiktoken_ranks import TiktokenTokenizer
from ptft_jax.errors import UserError, listed

__all__ = [
    "END_OF_TEXT",
    "FILE",
    "ByteTokenizer",
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "Texts",
    "TiktokenTokenizer",
    "Tokenizer",
    "build",
    "byte_lengths",
    "check_fits",
    "decode",
    "fingerprint",
    "from_file",
    "from_files",
    "stored",
    "train_bpe",
    "train_words",
    "with_tokens",
]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids to text, without control tokens; bytes that are no UTF-8 (a character cut in half) show as U+FFFD."""
    return tokenizer.decode(ids)


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """int32 [V]: how many bytes of text each token stands for; control tokens count as none."""
    return np.asarray([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)], np.int32)


def fingerprint(tokenizer: Tokenizer) -> str:
    """32 hex digits; equal for tokenizers that map texts to the same ids."""
    return cache.digest(*tokenizer.identity())


def from_files(files: Mapping[str, bytes], origin: str) -> Tokenizer:
    """The tokenizer of a folder's files, given as name -> content (others than a tokenizer's may be among them).

    Args:
      origin: where they are from, for messages.

    Raises:
      UserError: no vocabulary among them, or anything malformed or contradictory, naming the file.
    """
    if FILE in files:
        try:
            content = json.loads(files[FILE])
        except ValueError as e:
            raise UserError(f"{origin}: not a tokenizer file: {e}") from e
        is_bytes = content == {"ptft_jax": "bytes"}
        return ByteTokenizer(files, origin) if is_bytes else HuggingFaceTokenizer(files, origin)
    models = [name for name in sentencepiece_model.FILES if name in files]
    if any(name.endswith(tiktoken_ranks.SUFFIX) for name in files) or (
        "tokenizer.model" in models and tiktoken_ranks.looks_like(files["tokenizer.model"])
    ):
        return TiktokenTokenizer(files, origin)
    if models:
        return SentencePieceTokenizer(files, origin)
    raise UserError(
        f"{origin}: no such tokenizer file: expected {FILE}, {', '.join(sentencepiece_model.FILES)} "
        f"or one ending in {tiktoken_ranks.SUFFIX}; there are:{listed(sorted(files) or ['none'])}"
    )


def from_file(path: pathlib.Path) -> Tokenizer:
    """Reads the tokenizer of a folder (of a model, or a run's workdir), or a vocabulary file with the settings beside
    it. Raises UserError where there is none."""
    path = pathlib.Path(path)
    if path.is_dir():
        names = {FILE, *sentencepiece_model.FILES, *(p.name for p in path.glob(f"*{tiktoken_ranks.SUFFIX}"))}
        if not any((path / name).is_file() for name in names):
            raise UserError(f"{path / FILE}: no such tokenizer file, nor another kind's in this folder")
        files = {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
        if FILE in files:
            files = {FILE: files[FILE]}
        folder = path
    elif path.is_file():
        known = {".json": FILE, ".model": path.name if path.name in sentencepiece_model.FILES else "tokenizer.model"}
        files = {known.get(path.suffix, path.name): path.read_bytes()}
        folder = path.parent
    else:
        raise UserError(f"{path}: no such tokenizer file")
    files |= {name: (folder / name).read_bytes() for name in settings.FILES if (folder / name).is_file()}
    return from_files(files, str(path))


def stored(folder: pathlib.Path) -> set[str]:
    """The names of a tokenizer's files that there are in a run's workdir."""
    names = {FILE, *sentencepiece_model.FILES, *settings.FILES} - {"config.json"}
    return {path.name for path in folder.iterdir() if path.name in names or path.suffix == tiktoken_ranks.SUFFIX}


def with_tokens(tokenizer: Tokenizer, new_tokens: Sequence[str], *, special: bool = True) -> Tokenizer:
    """The tokenizer with further tokens, whose ids follow the existing ones in the order given.

    Args:
      special: control tokens, which plain text never becomes; else tokens that are found in any text.

    Raises:
      UserError: a token that exists already, is given twice, or is empty.
    """
    seen: set[str] = set()
    for text in new_tokens:
        if not isinstance(text, str) or not text:
            raise UserError(f"new token {text!r}: expected a text that is not empty")
        if text in seen or tokenizer.has(text):
            raise UserError(
                f"new token {text!r}: " + ("given twice" if text in seen else "the tokenizer has it already")
            )
        seen.add(text)
    return tokenizer.with_tokens(list(new_tokens), special) if new_tokens else tokenizer


def check_fits(tokenizer: Tokenizer, vocab_size: int, where: str) -> None:
    """Raises UserError where the tokenizer has ids that a model of `vocab_size` has no embedding for. A larger model
    is fine: embeddings are often padded."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"{where}: the model has embeddings for {vocab_size} tokens, but the tokenizer {tokenizer.origin} has ids up "
            f"to {tokenizer.vocab_size - 1}"
        )


def build(
    config: TokenizerOptions, train_texts: Callable[[], Texts | Sequence[str]], parent: Tokenizer | None
) -> Tokenizer:
    """The tokenizer that `config.tokenizer` names; `parent` is that of the model this run starts from.

    Raises:
      UserError: no such file, or another vocabulary than the parent's, whose embeddings would then mean other tokens.
    """
    kind = config.kind
    if kind == "auto":
        tokenizer: Tokenizer = parent or ByteTokenizer()
    elif kind == "byte":
        tokenizer = ByteTokenizer()
    elif kind == "bpe":
        tokenizer = train_bpe(train_texts(), config.vocab_size)
    elif kind == "words":
        tokenizer = train_words(train_texts(), config.vocab_size)
    else:
        tokenizer = from_file(pathlib.Path(config.path).expanduser())
    if parent and not alike.same(tokenizer, parent):
        raise UserError(
            f"config.tokenizer.kind = {kind!r}: its vocabulary ({tokenizer.vocab_size} tokens) is not that of the parent "
            f"{parent.origin} ({parent.vocab_size} tokens); leave it at 'auto' to use the parent's"
        )
    return with_tokens(tokenizer, config.add) if config.add else tokenizer
