"""Words for masking: where they end in every kind of tokenizer, and that they are chosen as BERT chooses them."""

import collections
import itertools
import json
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import words
from ptft_jax.data.builders.masked import Masked
from tests.data import kinds
from tests.data.test_builders import ALARM

BYTES = tok.ByteTokenizer()

# A text, and its words by BERT's rules (bert/tokenization.py): white space is between them, or a word of its own.
SPLIT = {
    "don't stop": "don|'|t| |stop",
    "日本語": "日|本|語",
    "東京タワーへ行く": "東|京|タワーへ|行|く",  # kana are no CJK characters to BERT
    "한국어 말": "한국어| |말",
    "https://a.bc/d_e?f=1": "https|:|/|/|a|.|bc|/|d|_|e|?|f|=|1",
    "x += $5~": "x| |+|=| |$|5|~",
    "naïve cafe\u0301": "naïve| |cafe\u0301",
    "«q»…—r": "«|q|»|…|—|r",
    "a\u00a0b\u3000c\u2028d": "a|\u00a0|b|\u3000|c|\u2028|d",
    "🙂🙃 ok": "🙂🙃| |ok",  # neither letter, punctuation nor CJK
    "𠀀𠀁𪛖": "𠀀|𠀁|𪛖",
    "ab\u200bcd": "ab\u200bcd",
}


def groups(tokenizer, ids):
    """The ids of each word."""
    found = words.starts(words.marks(tokenizer, True), ids)
    return np.split(ids, np.flatnonzero(found)[1:])


@pytest.mark.parametrize("text", SPLIT)
def test_words_of_bytes(text):
    found = groups(BYTES, BYTES.encode(text))
    assert "|".join(bytes(g.tolist()).decode() for g in found) == SPLIT[text]


def test_control_tokens_and_cut_characters():
    ids = np.concatenate([BYTES.encode("ab"), [256], BYTES.encode("cd"), BYTES.encode("é語é")[1:-1]])
    assert [len(g) for g in groups(BYTES, ids)] == [2, 1, 3, 3, 1]  # a half of é is of the word it stands in
    assert words.starts(words.marks(BYTES, True), np.array([256])).tolist() == [True]


WORDPIECE = {
    "don't, thinking": ["don", "'", "t", ",", "think ##ing"],
    "a##b": ["a", "#", "#", "b"],
    "日本think": ["日", "本", "think"],
}


def bert_like(vocab):
    import tokenizers

    library = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    library.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    named = json.dumps({"sep_token": "[SEP]", "mask_token": "[MASK]", "unk_token": "[UNK]"}).encode()
    return tok.from_files({"tokenizer.json": library.to_str().encode(), "tokenizer_config.json": named}, "bert")


@pytest.mark.parametrize("text", WORDPIECE)
def test_words_of_wordpiece(text):
    vocab = ["[UNK]", "[SEP]", "[MASK]", "don", "'", "t", "think", "##ing", ",", "a", "b", "#", "日", "本"]
    tokenizer = bert_like(vocab)
    ids = tokenizer.encode(text)
    assert [" ".join(vocab[i] for i in g) for g in groups(tokenizer, ids)] == WORDPIECE[text]


# Which words


def published(sizes, count, order):
    """The words that BERT's code chooses, which goes through them in this order (create_masked_lm_predictions)."""
    chosen, total = set(), 0
    for word in order:
        if total >= count:
            break
        if total + sizes[word] > count:
            continue
        chosen.add(word)
        total += sizes[word]
    return frozenset(chosen)


CHOICES = [((3, 1, 2, 4), 3), ((2, 2, 2), 3), ((1, 5, 1, 3, 2), 4), ((9, 1, 1, 2), 3), ((4, 4), 5)]


@pytest.mark.parametrize("sizes, count", CHOICES)
def test_words_are_chosen_as_often_as_berts_code_chooses_them(sizes, count):
    """Its outcomes counted over all orders."""
    text = " ".join("abcdefghi"[:n] for n in sizes)
    with_spaces = [n for size in sizes for n in (size, 1)][:-1]
    ids = BYTES.encode(text)
    # Spaces are not trained, so that the words are those of the sizes.
    trained = ids != 32
    total = int(trained.sum())
    builder = Masked(300, words.marks(BYTES, True), count / total, 1.0, 0.0, True)
    outcomes = collections.Counter(
        published(sizes, count, order) for order in itertools.permutations(range(len(sizes)))
    )
    expected = {k: n / math.factorial(len(sizes)) for k, n in outcomes.items()}
    firsts = np.cumsum([0, *with_spaces])
    seen, rng = collections.Counter(), np.random.default_rng(0)
    for _ in range(3000):
        weights = builder.piece(ids, trained, rng)["weights"]
        spans = [weights[a : a + n] for a, n in zip(firsts[::2], sizes)]
        assert all(set(span) in ({0.0}, {1.0}) for span in spans)
        seen[frozenset(n for n, span in enumerate(spans) if span[0])] += 1
    assert set(seen) == set(expected)
    if len(expected) > 1:
        assert stats.chisquare([seen[k] for k in expected], [3000 * p for p in expected.values()]).pvalue > ALARM


texts = st.text(st.sampled_from("abcde  .,/日本é\n"), min_size=2, max_size=300)


@given(text=texts, rate=st.floats(0.05, 0.5), seed=st.integers(0, 100))
@settings(max_examples=150, deadline=None)
def test_no_word_overruns_the_share_and_little_is_missing(text, rate, seed):
    ids = BYTES.encode(text)
    builder = Masked(300, words.marks(BYTES, True), rate, 1.0, 0.0, True)
    weights = builder.piece(ids, None, np.random.default_rng(seed))["weights"]
    count = max(1, int(np.rint(rate * len(ids))))
    ends = np.cumsum([0, *map(len, groups(BYTES, ids))])
    shares = [float(weights[a:b].mean()) for a, b in itertools.pairwise(ends)]
    sizes = np.diff(ends)
    if sizes.min() > count:  # no word fits: single tokens
        assert weights.sum() == count
        return
    assert set(shares) <= {0.0, 1.0}
    left = [size for size, share in zip(sizes, shares) if not share]
    assert weights.sum() <= count
    assert weights.sum() == count or not left or weights.sum() + min(left) > count


LONG = {
    "japanese": "東京タワーは東京都港区にある総合電波塔である。昭和33年に竣工し、高さは333メートルとなっている。" * 6,
    "urls": "https://example.org/a/long/path?with=parameters&and=more#and-a-fragment " * 8,
    "code": "for(int i=0;i<n;++i){total_of_rows+=table[i].count*weights[i];}" * 8,
    "prose": "The cat sat on the mat, and the dog lay by the fire; rain fell on the old stone roof. " * 6,
    "one long word": "x" * 300 + " " + "The cat sat on the mat, and the dog lay by the fire. " * 12,
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [kinds.byte, kinds.gpt2, kinds.unigram, kinds.sentencepiece_bpe], ids=lambda k: k.__name__
)
@pytest.mark.parametrize("name", LONG)
def test_the_share_is_kept(name, kind):
    """Over many draws the count is missed by less than half a word of usual length, and never exceeded."""
    tokenizer = tok.from_files(kind(), kind.__name__)
    ids = tokenizer.encode(LONG[name])
    builder = Masked(0, words.marks(tokenizer, True), 0.15, 1.0, 0.0, True)
    able = ~np.isin(ids, sorted(tokenizer.special_ids))  # what it knows none of the characters of has no words
    rng, count = np.random.default_rng(0), round(0.15 * able.sum())
    totals = [builder.piece(ids, None, rng)["weights"].sum() for _ in range(40)]
    assert max(totals) <= count and np.mean(totals) > count - 2


def test_a_text_of_one_word_is_masked_in_part():
    ids = BYTES.encode("abcdefghij" * 10)
    builder, rng = Masked(300, words.marks(BYTES, True), 0.15, 1.0, 0.0, True), np.random.default_rng(0)
    rows = np.array([builder.piece(ids, None, rng)["weights"] for _ in range(2000)])
    assert set(rows.sum(1)) == {15}
    assert stats.chisquare(rows.sum(0)).pvalue > ALARM


# Beside transformers


def joined(spans, word_spans, n):
    """Which tokens belong together, by union of all that share a word; those of white space are alone."""
    owner = list(range(n))

    def root(i):
        while owner[i] != i:
            i = owner[i]
        return i

    for first, last in word_spans:
        inside = [i for i, (a, b) in enumerate(spans) if a < last and b > first]
        for i in inside[1:]:
            owner[max(root(i), root(inside[0]))] = min(root(i), root(inside[0]))
    return [root(i) for i in range(n)]


PLAIN = "Don't you think it's 12.5% (or so)? naïve café — déjà-vu… x_y=[1,2]; 你好,世界! 東京タワー 한국어 привет мир"


@pytest.mark.live
@pytest.mark.parametrize(
    "kind", [kinds.byte, *kinds.HUGGING_FACE, kinds.sentencepiece_bpe, kinds.tiktoken], ids=lambda k: k.__name__
)
def test_words_are_those_of_berts_basic_tokenizer(kind):
    transformers = pytest.importorskip("transformers")
    basic = transformers.BasicTokenizer(do_lower_case=False, strip_accents=False)
    tokenizer = tok.from_files(kind(), kind.__name__)
    rng = np.random.default_rng(0)
    pieces = PLAIN.split(" ")
    compared = 0
    for _ in range(60):
        text = " ".join(rng.permutation(pieces)[:4])
        if kind is kinds.wordpiece:
            text = text.lower()
        [(ids, spans)] = tokenizer.encode_spans([text])
        if (ids == tokenizer.unk_id).any():  # which is a control token, whatever it stands for
            continue
        compared += 1
        at, word_spans = 0, []
        for word in basic.tokenize(text):
            at = text.index(word, at)
            word_spans.append((at, at + len(word)))
            at += len(word)
        blank = [not (i in tokenizer.special_ids or tokenizer.token_bytes(int(i)).strip()) for i in ids]
        spans = [(0, 0) if nothing else tuple(span) for nothing, span in zip(blank, spans.tolist())]
        expected = joined(spans, word_spans, len(ids))
        starts = words.starts(words.marks(tokenizer, True), ids)
        found = np.flatnonzero(starts)[np.cumsum(starts) - 1].tolist()
        letters = [i for i in range(len(ids)) if not blank[i]]
        assert [found[i] for i in letters] == [expected[i] for i in letters], (text, spans)
    assert compared >= 5


@pytest.mark.live
def test_words_of_random_characters_are_those_of_berts_basic_tokenizer():
    transformers = pytest.importorskip("transformers")
    basic = transformers.BasicTokenizer(do_lower_case=False, strip_accents=False)
    rng = np.random.default_rng(0)
    blocks = [(0x20, 0x7E), (0xA1, 0x17F), (0x370, 0x4FF), (0x2010, 0x2027), (0x3000, 0x30FF), (0x3400, 0x3410), (0x4DB0, 0x4E20),
              (0x9FF0, 0xA010), (0xAC00, 0xAC20), (0xF900, 0xF910), (0xFF01, 0xFF20), (0x1F600, 0x1F610), (0x20000, 0x20010), (0x2F800, 0x2F810)]  # fmt: skip
    for _ in range(300):
        chosen = [blocks[i] for i in rng.integers(0, len(blocks), 30)]
        text = "".join(chr(int(rng.integers(a, b + 1))) for a, b in chosen)
        # Theirs is of normal form C, and without control characters and code points that are none.
        text = unicodedata.normalize("NFC", "".join(c for c in text if unicodedata.category(c)[0] != "C"))
        found = [bytes(g.tolist()).decode().strip() for g in groups(BYTES, BYTES.encode(text))]
        assert [word for word in found if word] == basic.tokenize(text), text
