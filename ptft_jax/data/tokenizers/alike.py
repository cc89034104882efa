"""Whether two tokenizers give the same ids, however their files are written: a SentencePiece model and a tokenizer.json of it do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptft_jax.data.tokenizers.base import Tokenizer
from ptft_jax.errors import UserError

# Texts that tell pipelines apart. Ids of all are compared wherever a tokenizer is written.
HARD = (
    "", " ", "  ", "a", " a", "  a", "   two   gaps  ", "a ", "a  ", "\ta", "a\tb", "\t\t", "\n", "\n\n", " \n ", "a\n\n\nb", "\r\n",
    "a\r\nb\rc", "    def f(x):\n        return x ** 2  # squared\n\n\n    class A:\n\tpass\n", "x=1;y = [ 2,3 ]",
    "café naïve façade", "cafe\u0301 nai\u0308ve", "Ångström ÅNGSTRÖM ﬁne ½ Ⅷ x²", "你好，世界。 日本語テキスト 한국어", "привет мир नमस्ते مرحبا",
    "🙂", "a🙂b 👨‍👩‍👧 👍🏽", "\x00", "a\x00b", "\x7f\u200b\ufeff\u00a0\u2003\u2028\ufffd", "0 1 12 123 1234567890 3.14 1,000",
    "don't I'LL we'Ve 'tis", "\u2581a \u2581", "!?...---___@#$%^&*()", "https://a.b/c?d=e&f=1", "aAaA AAAA aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "</s><s>[INST]<unk><pad><|endoftext|><|im_start|>", "<|x|>", "𝕏 \U0001f1e9\U0001f1ea ẞß ŉ",
)  # fmt: skip


def same(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether texts have the same ids by both: they have one identity; else every token, what is put around texts, and the ids of
    texts that tell tokenizers apart are the same."""
    if one.identity() == other.identity():
        return True
    if _facts(one) != _facts(other):
        return False
    # The unknown token is a control token in some forms only; no text is meant to spell it.
    one, other = sorted((one, other), key=lambda tokenizer: len(tokenizer.special))
    try:
        return first_other(one, other) is None and not differing(one, other)
    except UserError:  # tokens whose bytes cannot be told
        return False


def _facts(tokenizer: Tokenizer) -> tuple[object, ...]:
    special = {text: i for text, i in tokenizer.special.items() if i != tokenizer.unk_id}
    return tokenizer.vocab_size, tokenizer.end_id, tuple(tokenizer.prefix_ids), special


def first_other(one: Tokenizer, other: Tokenizer) -> int | None:
    """The first token of both that stands for other bytes in each."""
    numbers = range(min(one.vocab_size, other.vocab_size))
    return next((i for i in numbers if one.token_bytes(i) != other.token_bytes(i)), None)


def differing(one: Tokenizer, other: Tokenizer) -> list[str]:
    """Of `HARD`, and of texts with control and other added tokens in them, those that the two encode otherwise, as text and
    with control tokens."""
    added = {*one.special, *(other.added - other.special.keys())}
    spelled = [
        form.format(text) for text in _sample(sorted(added)) for form in ("{}", "a{}b", " {} a", "{} ", "{0}{0}\n")
    ]
    texts = [*HARD, *spelled]
    found = [text for text, same in zip(texts, _same(one, other, texts, special=False)) if not same]
    return found + [text for text, same in zip(spelled, _same(one, other, spelled, special=True)) if not same]


def _sample(texts: Sequence[str], most: int = 16) -> Sequence[str]:
    return texts[:: max(1, len(texts) // most)]


def _same(one: Tokenizer, other: Tokenizer, texts: Sequence[str], *, special: bool) -> list[bool]:
    ours, theirs = (t.encode_all(texts, special=special) for t in (one, other))
    return [np.array_equal(a, b) for a, b in zip(ours, theirs)]
