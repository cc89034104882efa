"""Builders: exact counts and shares, references written another way, and what each refuses."""

import dataclasses
import itertools
import json
import math
import pickle
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ptft_jax import config as configs
from ptft_jax.data import builders, packing
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import words
from ptft_jax.data.builders.causal import Causal
from ptft_jax.data.builders.masked import Masked
from ptft_jax.data.builders.prefix import Prefix
from ptft_jax.data.builders.spans import SpanCorruption
from ptft_jax.errors import UserError
from tests.data import kinds

SENTINELS = tuple(range(1000, 1200))
END = 999
BYTES = words.marks(tok.ByteTokenizer(), True)
PIECES = st.integers(2, 300)
# Chance of a false alarm of each statistical test; seeds are fixed, so a test that passed once always does.
ALARM = 1e-4


def masked(**changes):
    return Masked(**({"mask_id": 300, "marks": BYTES} | changes))


ALL = {
    "causal": Causal(),
    "prefix": Prefix(),
    "masked": masked(),
    "whole words": masked(whole_words=True),
    "spans": SpanCorruption(SENTINELS, END),
    "many spans": SpanCorruption(SENTINELS, END, 0.45, 1.0),
}
every = pytest.mark.parametrize("builder", ALL.values(), ids=ALL)


def ids_of(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n).astype(np.int32)


# What packing relies on


@every
@given(n=PIECES, seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_piece_takes_the_slots_it_said(builder, n, seed):
    ids = ids_of(n, seed)
    piece = builder.piece(ids, None, np.random.default_rng(seed))
    expected = {"inputs": np.int32, "targets": np.int32, "weights": np.float32, "prefix": np.bool_}
    assert set(piece) | {"prefix"} == set(expected)
    for name, array in piece.items():
        assert array.shape == (int(builder.slots(np.asarray(n))),) and array.dtype == expected[name]
    assert piece["weights"].sum() >= 1 and set(np.unique(piece["weights"])) <= {0.0, 1.0}
    np.testing.assert_array_equal(ids, ids_of(n, seed))  # what was given is not written to


@every
def test_slots_never_decrease(builder):
    slots = builder.slots(np.arange(2, 3000))
    assert (np.diff(slots) >= 0).all() and (slots >= np.arange(2, 3000) - 1).all()


@every
def test_random_pieces_follow_from_the_generator_alone(builder):
    ids = ids_of(200)
    a, b, c = (builder.piece(ids, None, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all((a[name] == b[name]).all() for name in a)
    assert builder.random == any((a[name] != c[name]).any() for name in a)
    twin = dataclasses.replace(builder)
    assert twin == builder and hash(twin) == hash(builder) and pickle.loads(pickle.dumps(builder)) == builder


# Next token


def test_rows_of_a_class_are_texts_as_they_are():
    builder = builders.build(objective(name="classification"), tok.ByteTokenizer())
    piece = builder.piece(ids_of(7), None)
    assert set(piece) == {"inputs", "types"} and piece["inputs"].tolist() == ids_of(7).tolist()
    assert piece["types"].tolist() == [0] * len(ids_of(7)), "a text alone is of the first type"
    assert builder.labelled and builder.looks_ahead


def test_rows_of_a_class_for_a_causal_model_end_as_the_tokenizer_ends_a_text():
    """Its head reads the last of them, as other programs do that ask the tokenizer alone."""
    bytes_ = tok.ByteTokenizer()
    ids = np.asarray([*b"a text", bytes_.end_id], np.int32)  # as stores have it
    sides = [
        builders.build(objective(name=name), bytes_, causal)
        for name in ("classification", "regression")
        for causal in (0, 1)
    ]
    assert [bytes(b.piece(ids, None)["inputs"][:6].tolist()) for b in sides] == [b"a text"] * 4
    assert [len(b.piece(ids, None)["inputs"]) for b in sides] == [7, 6, 7, 6]
    assert [int(b.slots(np.asarray(7))) for b in sides] == [7, 6, 7, 6] and [b.last for b in sides] == [0, 1, 0, 1]
    ends = tok.from_files({**bytes_.files(), "tokenizer_config.json": b'{"add_eos_token": true}'}, "x")
    assert len(builders.build(objective(name="classification"), ends, True).piece(ids, None)["inputs"]) == 7
    assert builders.build(objective(name="masked_lm", mask_rate=0.4), tok.with_tokens(bytes_, ("[MASK]",)), True)


def test_causal():
    piece = Causal().piece(np.array([5, 6, 7, 8]), np.array([True, False, True, True]))
    assert [piece[k].tolist() for k in ("inputs", "targets", "weights")] == [[5, 6, 7], [6, 7, 8], [0, 1, 1]]


# Prefix


def test_a_prompt_is_the_prefix_and_what_follows_is_learned_where_it_is_trained():
    trained = np.array([0, 0, 0, 1, 1, 0, 0, 1], bool)  # a second turn's question is read causally
    piece = Prefix().piece(np.arange(10, 18), trained, np.random.default_rng(0))
    assert piece["inputs"].tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert piece["targets"].tolist() == [11, 12, 13, 14, 15, 16, 17]
    assert piece["prefix"].tolist() == [True] * 3 + [False] * 4
    assert piece["weights"].tolist() == [0, 0, 1, 1, 0, 0, 1]
    inside = Prefix().piece(np.arange(4), np.asarray([True, True, False, True]), np.random.default_rng(0))
    assert inside["prefix"].tolist() == [True, False, False] and inside["weights"].tolist() == [1, 0, 1]
    nothing = Prefix().piece(np.arange(4), np.zeros(4, bool), np.random.default_rng(0))
    assert nothing["prefix"].all() and not nothing["weights"].any()


def test_no_target_is_seen_by_what_predicts_it():
    """A position of the prefix sees all of it, so none of its tokens may be learned there."""
    rng = np.random.default_rng(0)
    for n in range(2, 40):
        piece = Prefix().piece(np.arange(n), None, rng)
        split = int(piece["prefix"].sum())
        assert piece["prefix"].tolist() == [i < split for i in range(n - 1)] and split >= 1
        assert piece["targets"][piece["weights"] > 0].tolist() == list(range(split, n))


def test_plain_text_is_split_anywhere_alike():
    rng = np.random.default_rng(0)
    splits = [int(Prefix().piece(np.arange(9), None, rng)["prefix"].sum()) for _ in range(4000)]
    counts = np.bincount(splits, minlength=9)[1:]
    assert len(counts) == 8 and stats.chisquare(counts).pvalue > ALARM


# Masks


def test_counts_are_exact_and_shares_as_given():
    rng = np.random.default_rng(0)
    rows = [masked(rate=0.2, mask_share=0.7, random_share=0.2).piece(ids_of(500, i), None, rng) for i in range(200)]
    chosen = [row["weights"] > 0 for row in rows]
    assert {int(c.sum()) for c in chosen} == {100}
    hidden = sum(int((row["inputs"] == 300).sum()) for row in rows)
    changed = sum(int((row["inputs"] != row["targets"]).sum()) for row in rows) - hidden
    for row, c in zip(rows, chosen):
        np.testing.assert_array_equal(row["inputs"][~c], row["targets"][~c])
    # A random token is the token itself once in 256.
    observed = [hidden, changed, 20_000 - hidden - changed]
    expected = np.array([0.7, 0.2 * 255 / 256, 0.1 + 0.2 / 256]) * 20_000
    assert stats.chisquare(observed, expected).pvalue > ALARM
    places = np.sum(chosen, axis=0)  # every position is chosen alike
    assert stats.chisquare(places).pvalue > ALARM
    random = np.concatenate([r["inputs"][(r["inputs"] != r["targets"]) & (r["inputs"] != 300)] for r in rows])
    assert stats.chisquare(np.bincount(random, minlength=256)).pvalue > ALARM


@pytest.mark.parametrize("n, count", [(1, 1), (2, 1), (6, 1), (10, 2), (13, 2), (100, 15)])
def test_at_least_one_token_is_chosen(n, count):
    assert masked().piece(ids_of(n), None, np.random.default_rng(0))["weights"].sum() == count


@pytest.mark.parametrize("whole", [False, True])
def test_control_tokens_and_what_is_not_trained_are_never_chosen(whole):
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), ["[MASK]", "[CLS]"])
    builder = Masked(257, words.marks(tokenizer, True), rate=0.5, mask_share=0.0, random_share=1.0, whole_words=whole)
    ids = np.array([258, 65, 66, 256, 67, 32, 258, 68, 256, 69])
    trained = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 0], bool)
    rng, found = np.random.default_rng(0), np.zeros(10)
    for _ in range(300):
        piece = builder.piece(ids, trained, rng)
        assert piece["weights"].sum() == 2 and piece["inputs"][piece["weights"] > 0].max() < 256
        found += piece["weights"]
    assert np.flatnonzero(found).tolist() == [1, 2, 5, 7]
    empty = builder.piece(ids, np.zeros(10, bool), rng)
    assert not empty["weights"].any() and (empty["inputs"] == ids).all()


# In an order that the tokenizers were not trained on: some would have tokens of several words otherwise.
TEXT = "fire doglay roof catsat\nstone mats fell on rainmat"


@pytest.mark.parametrize("kind", kinds.ALL, ids=lambda kind: kind.__name__)
def test_words_of_every_kind_of_tokenizer(kind):
    tokenizer = tok.from_files(kind(), kind.__name__)
    ids = np.concatenate([tokenizer.encode(TEXT), [tokenizer.end_id]])
    marks = words.marks(tokenizer, True)
    groups = np.split(ids, np.flatnonzero(words.starts(marks, ids))[1:])
    assert groups[-1].tolist() == [tokenizer.end_id]
    texts = [b"".join(tokenizer.token_bytes(int(i)) for i in g).decode().strip() for g in groups[:-1]]
    assert [text for text in texts if text] == TEXT.split()
    assert any(len(g) > 1 for g in groups)

    builder = Masked(0, marks, rate=0.3, mask_share=0.0, random_share=0.0, whole_words=True)
    rng, firsts = np.random.default_rng(0), np.cumsum([0, *map(len, groups)])
    count = max(1, round(0.3 * (len(ids) - 1)))
    totals = []
    for _ in range(50):
        weights = builder.piece(ids, None, rng)["weights"]
        shares = [weights[a:b].mean() for a, b in itertools.pairwise(firsts)]
        assert set(shares) <= {0.0, 1.0}, "a word is chosen whole or not at all"
        totals.append(weights.sum())
    assert max(totals) <= count and np.mean(totals) > count - max(map(len, groups)) / 2


def test_wordpiece_takes_punctuation_for_words():
    import tokenizers

    vocab = ["[UNK]", "[SEP]", "[MASK]", "don", "'", "t", "think", "##ing", ",", "you", "##self"]
    library = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    named = json.dumps({"sep_token": "[SEP]", "mask_token": "[MASK]"}).encode()
    tokenizer = tok.from_files({"tokenizer.json": library.to_str().encode(), "tokenizer_config.json": named}, "bert")
    ids = tokenizer.encode("don't, thinking youself")
    assert [vocab[i] for i in ids] == ["don", "'", "t", ",", "think", "##ing", "you", "##self"]
    assert words.starts(words.marks(tokenizer, True), ids).tolist() == [True] * 5 + [False, True, False]


def test_a_word_longer_than_the_count_is_chosen_alone():
    ids = np.array([list(b"abcdefgh ijklmnop")]).ravel()
    for seed in range(20):
        weights = masked(whole_words=True).piece(ids, None, np.random.default_rng(seed))["weights"]
        assert weights.tolist() in ([1] * 8 + [0] * 9, [0] * 8 + [1] + [0] * 8, [0] * 9 + [1] * 8)


@pytest.mark.live
def test_shares_beside_transformers():
    """The same tokens are hidden, replaced and kept as often; theirs chooses each on its own, ours an exact count."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    import tokenizers

    vocab = {**{chr(0x4E00 + i): i for i in range(256)}, "<|endoftext|>": 256, "[MASK]": 257}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<|endoftext|>"))
    library.add_special_tokens(["<|endoftext|>", "[MASK]"])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, mask_token="[MASK]", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    collate = transformers.DataCollatorForLanguageModeling(theirs, mlm_probability=0.15, return_tensors="pt")
    torch.manual_seed(0)
    rows = [np.append(ids_of(399, i), 256) for i in range(200)]
    batch = collate([{"input_ids": row.tolist()} for row in rows])
    labels, tokens = batch["labels"].numpy(), batch["input_ids"].numpy()
    reference = _fates(tokens, np.stack(rows), labels != -100, 257)
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), ["[MASK]"])
    builder = builders.build(configs.check({"objective": {"name": "masked_lm"}}).objective, tokenizer)
    rng = np.random.default_rng(0)
    mine = [builder.piece(row, None, rng) for row in rows]
    ours = _fates(
        *(np.stack([m[k] for m in mine]) for k in ("inputs", "targets")), [m["weights"] > 0 for m in mine], 257
    )
    assert ours.sum() == 200 * round(0.15 * 399)
    spread = math.sqrt(200 * 399 * 0.15 * 0.85)
    assert abs(reference.sum() - ours.sum()) < 4 * spread
    assert not np.asarray(labels[:, -1] != -100).any() and not any(m["weights"][-1] for m in mine)
    assert stats.chi2_contingency([ours, reference]).pvalue > ALARM


def _fates(tokens, originals, chosen, mask):
    """How many of the chosen are hidden, replaced, and as they were."""
    tokens, originals = tokens[np.asarray(chosen)], originals[np.asarray(chosen)]
    hidden, same = (tokens == mask).sum(), (tokens == originals).sum()
    return np.array([hidden, len(tokens) - hidden - same, same])


# Spans


def by_hand(ids, mask, sentinels, end):
    """Inputs and targets, one id after the other."""
    inputs, targets, used = [], [], 0
    for i, token in enumerate(ids):
        if not mask[i]:
            inputs.append(token)
            continue
        if i == 0 or not mask[i - 1]:
            inputs.append(sentinels[used])
            targets.append(sentinels[used])
            used += 1
        targets.append(token)
    return inputs, [*targets, end]


def restored(inputs, targets):
    """The text: sentinels of the inputs give way to what follows them in the targets."""
    spans, current = {}, None
    for token in targets[:-1]:
        if token >= SENTINELS[0]:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return [x for token in inputs for x in spans.get(token, [token])]


spans_of = st.builds(
    SpanCorruption,
    st.just(SENTINELS),
    st.just(END),
    st.floats(0.05, 0.9),
    st.floats(1.0, 10.0),
)


@given(builder=spans_of, n=PIECES, seed=st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_spans_are_those_of_the_mask_and_the_text_can_be_restored(builder, n, seed):
    ids = ids_of(n, seed)
    if int(builder.counts(np.asarray(n))[1]) > len(SENTINELS):
        return
    mask = builder.mask(n, np.random.default_rng(seed))
    piece = builder.piece(ids, None, np.random.default_rng(seed))
    inputs, targets = by_hand(ids.tolist(), mask, SENTINELS, END)
    row = [*piece["inputs"].tolist(), int(piece["targets"][-1])]
    assert row == inputs + targets
    assert piece["targets"].tolist() == row[1:]
    assert piece["prefix"].tolist() == [True] * len(inputs) + [False] * (len(targets) - 1)
    assert piece["targets"][piece["weights"] > 0].tolist() == targets
    assert restored(inputs, targets) == ids.tolist()
    noise, spans = (int(x) for x in builder.counts(np.asarray(n)))
    assert mask.sum() == noise and (np.diff(mask.astype(int)) == 1).sum() == spans
    assert 1 <= noise < n and not mask[0] and mask[-1]


@given(builder=spans_of)
@settings(max_examples=50, deadline=None)
def test_slots_never_decrease_whatever_the_settings(builder):
    assert (np.diff(builder.slots(np.arange(1, 400))) >= 0).all()


def published_mask(n, density, mean_span, rng):
    """The way of T5's and flax's code: markers of first elements are shuffled, and a running sum numbers the segments."""
    noise = min(max(round(n * density), 1), n - 1)
    spans = max(round(noise / mean_span), 1)

    def lengths(items):
        marks = np.arange(items - 1) < spans - 1
        rng.shuffle(marks)
        return np.bincount(np.cumsum(np.append(False, marks)), minlength=spans)

    kept, cut = lengths(n - noise), lengths(noise)
    ends = np.cumsum(np.stack([kept, cut], axis=1).reshape(-1))[:-1]
    starts = np.zeros(n, int)
    starts[ends] = 1
    return np.cumsum(starts) % 2 == 1


@pytest.mark.parametrize("n, density, mean_span", [(12, 0.4, 2.0), (20, 0.15, 3.0), (9, 0.33, 1.0)])
def test_every_division_into_spans_is_as_likely_as_the_others(n, density, mean_span):
    builder, rng = SpanCorruption(SENTINELS, END, density, mean_span), np.random.default_rng(0)
    noise, spans = (int(x) for x in builder.counts(np.asarray(n)))
    ways = {
        mask
        for places in itertools.combinations(range(n), noise)
        if _runs(mask := tuple(i in places for i in range(n))) == spans and not mask[0] and mask[-1]
    }
    assert len(ways) == math.comb(noise - 1, spans - 1) * math.comb(n - noise - 1, spans - 1)
    for draw in (lambda: builder.mask(n, rng), lambda: published_mask(n, density, mean_span, rng)):
        counts = dict.fromkeys(ways, 0)
        for _ in range(60 * len(ways)):
            counts[tuple(draw().tolist())] += 1  # a KeyError is a mask that should not be
        assert len(ways) == 1 or stats.chisquare(list(counts.values())).pvalue > ALARM


def _runs(mask):
    return sum(b and not a for a, b in itertools.pairwise((False, *mask)))


def test_counts_are_those_of_the_published_code():
    builder, rng = SpanCorruption(SENTINELS, END), np.random.default_rng(0)
    for n in range(2, 700):
        mask = published_mask(n, 0.15, 3.0, rng)
        assert (mask.sum(), _runs(mask)) == tuple(int(x) for x in builder.counts(np.asarray(n)))


# Settings


def objective(**changes):
    return configs.check({"objective": changes}).objective


def test_builders_are_made_from_settings_and_tokenizer():
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), ["<mask>", "<extra_id_0>", "<extra_id_1>", "<extra_id_3>"])
    assert builders.build(objective(), tokenizer) == Causal()
    assert builders.build(objective(name="prefix_lm"), tokenizer) == Prefix()
    made = builders.build(objective(name="masked_lm", mask_rate=0.4, whole_word=True), tokenizer)
    assert made == Masked(257, words.marks(tokenizer, True), 0.4, 0.8, 0.1, True)
    made = builders.build(objective(name="span_corruption", mean_span=4.0), tokenizer)
    assert made == SpanCorruption((258, 259), 256, 0.15, 4.0)


def test_a_named_mask_token_comes_first():
    files = kinds.wordpiece()
    tokenizer = tok.with_tokens(tok.from_files(files, "wordpiece"), ["<mask>"])
    named = types.SimpleNamespace(
        named={"mask_token": "<mask>"},
        special={"[MASK]": 4, "<mask>": 300},
        origin="x",
        special_ids=frozenset((4, 300)),
    )
    from ptft_jax.data.builders.masked import mask_id

    assert mask_id(named) == 300
    assert mask_id(tokenizer) in tokenizer.special_ids


def test_a_setting_of_another_objective_is_not_read():
    section = configs.check({"objective": {"name": "prefix_lm", "mask_rate": 0.3}})
    builders.build(section.objective, tok.ByteTokenizer())
    with pytest.raises(UserError, match="config.objective.mask_rate = 0.3 is set, but nothing in this run reads it"):
        section.refuse_unread()


def test_missing_tokens_are_named():
    with pytest.raises(UserError, match=r"bytes has no mask token; add one: config.tokenizer.add=\('\[MASK\]',\)"):
        builders.build(objective(name="masked_lm"), tok.ByteTokenizer())
    few = tok.with_tokens(tok.ByteTokenizer(), ["<extra_id_0>", "<extra_id_1>"])
    builder = builders.build(objective(name="span_corruption"), few)
    assert packing.longest(builder.slots, 40) == 36
    builder.check(40)
    message = "rows of 128 tokens need 6 sentinels, <extra_id_0> to <extra_id_5>, and the tokenizer has 2 of them"
    with pytest.raises(UserError, match=message) as e:
        builder.check(128)
    added = eval(str(e.value).partition("config.tokenizer.add=")[2])
    enough = builders.build(objective(name="span_corruption"), tok.with_tokens(few, added))
    enough.check(128)
    for n in range(2, packing.longest(enough.slots, 128) + 1):  # no piece of such a row wants for one
        enough.piece(ids_of(n), None, np.random.default_rng(n))


def test_contradictions():
    with pytest.raises(UserError, match="random_token_share = 0.5: with mask_token_share 0.8 more than all"):
        builders.build(objective(name="masked_lm", random_token_share=0.5), tok.ByteTokenizer())
    for field, value in (("mask_rate", 0.0), ("mask_rate", 1.0), ("noise_density", 1.0), ("mean_span", 0.5)):
        with pytest.raises(UserError, match=f"config.objective.{field} = {value}"):
            objective(**{field: value})
