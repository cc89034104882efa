"""Similarity by n-grams against sets, estimates against their distribution, clusters against all pairs."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data.prepare import duplicates, minhash
from ptft_jax.data.prepare.minhash import Near
from ptft_jax.data.prepare.words import words_of
from ptft_jax.errors import UserError

LETTERS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join), max_size=20)


def sets(texts, n):
    out = []
    for text in texts:
        words = text.split()
        grams = {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
        out.append(grams or ({tuple(words)} if words else set()))
    return out


def true_jaccard(a, b):
    return len(a & b) / max(len(a | b), 1)


def sketched(texts, near):
    shingles, offsets = minhash.shingles(words_of(texts), near.words)
    signatures = minhash.signatures(shingles, offsets, near.bands * near.rows, near.seed)
    return duplicates.Sketches(minhash.bands(signatures, np.diff(offsets) == 0, near).T, shingles, offsets), signatures


def corpus(count, seed=0, words=60):
    """Texts in families: each shares a part of a text before it, of every size."""
    draw = random.Random(seed)
    vocabulary = [f"w{n}" for n in range(4000)]
    texts = []
    for n in range(count):
        fresh = [draw.choice(vocabulary) for _ in range(words)]
        if n and draw.random() < 0.7:
            other = draw.choice(texts).split()
            keep = draw.randrange(words + 1)
            fresh = other[:keep] + fresh[keep:]
        texts.append(" ".join(fresh))
    return texts


@settings(max_examples=100, deadline=None)
@given(texts=LETTERS, n=st.integers(1, 4))
def test_shingles_are_the_sets_of_ngrams(texts, n):
    shingles, offsets = minhash.shingles(words_of(texts), n)
    found = [shingles[a:b] for a, b in itertools.pairwise(offsets)]
    expected = sets(texts, n)
    assert [len(f) for f in found] == [len(e) for e in expected]
    assert all((np.diff(f.astype(np.int64)) > 0).all() for f in found)
    for (f, e), (g, d) in itertools.combinations(zip(found, expected), 2):
        assert minhash.jaccard(f, g) == true_jaccard(e, d)


def test_signatures_estimate_similarity_as_broder_says():
    # The share of equal entries is a mean of Bernoulli draws: within 5 standard deviations for every pair (chance of
    # one in 10**6 each, 1770 pairs, fixed seed), and without bias over pairs.
    texts, near = corpus(60), Near(words=2, bands=64, rows=4)
    _, signatures = sketched(texts, near)
    errors = []
    for (i, a), (j, b) in itertools.combinations(enumerate(sets(texts, 2)), 2):
        similarity = true_jaccard(a, b)
        estimate = float((signatures[i] == signatures[j]).mean())
        bound = 5 * math.sqrt(similarity * (1 - similarity) / 256) + 1 / 256
        assert abs(estimate - similarity) <= bound, (i, j, similarity, estimate)
        errors += [estimate - similarity] if 0 < similarity < 1 else []
    assert len(errors) > 50
    # Pairs share texts, so their errors are not independent: a bound for 12 independent ones of at most 1/32 each.
    assert abs(np.mean(errors)) < 3 / 32 / math.sqrt(12)


def test_signatures_do_not_depend_on_the_company():
    texts = [*corpus(40), "", "short", *[" ".join(f"x{n}" for n in range(40000))]]
    near = Near()
    _, together = sketched(texts, near)
    for n, text in enumerate(texts):
        assert np.array_equal(sketched([text], near)[1][0], together[n])
    assert (together[40] == 2**32 - 1).all()


def test_estimates_agree_with_datasketch():
    datasketch = pytest.importorskip("datasketch")
    texts, permutations = corpus(20, seed=3), 512
    _, mine = sketched(texts, Near(words=2, bands=128, rows=4))
    theirs = []
    for grams in sets(texts, 2):
        m = datasketch.MinHash(num_perm=permutations, seed=7)
        m.update_batch([" ".join(g).encode() for g in grams])
        theirs.append(m)
    for i, j in itertools.combinations(range(len(texts)), 2):
        # Two independent estimates of one number, each with a standard deviation of at most 0.5 / sqrt(512).
        assert abs((mine[i] == mine[j]).mean() - theirs[i].jaccard(theirs[j])) < 5 * math.sqrt(2) * 0.5 / 512**0.5


def components(texts, n, threshold):
    """Connected components of all pairs, by breadth-first search."""
    grams = sets(texts, n)
    near = {i: [j for j in range(len(texts)) if i != j and grams[i] and true_jaccard(grams[i], grams[j]) >= threshold]
            for i in range(len(texts))}  # fmt: skip
    names = [-1] * len(texts)
    for i in range(len(texts)):
        queue = [i] if names[i] < 0 else []
        for k in queue:
            if names[k] < 0:
                names[k] = i
                queue += near[k]
    return names


# With one row a band and 200 bands, a pair of similarity 0.2 is missed once in 10**19.
SURE = {"bands": 200, "rows": 1}


@settings(max_examples=100, deadline=None)
@given(texts=LETTERS, n=st.integers(1, 3), threshold=st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_clusters_are_the_components_of_all_pairs(texts, n, threshold):
    sketches, _ = sketched(texts, Near(threshold, n, **SURE))
    clusters = duplicates.Clusters(len(texts))
    duplicates.near(sketches, np.arange(len(texts)), threshold, clusters)
    assert clusters.names().tolist() == components(texts, n, threshold)


@settings(max_examples=100, deadline=None)
@given(texts=LETTERS, n=st.integers(1, 2), threshold=st.sampled_from([0.3, 0.6, 0.9]), seed=st.integers(0, 9))
def test_candidates_of_one_bucket_are_compared_completely(texts, n, threshold, seed):
    draw = random.Random(seed)
    texts = [text for text in texts if text] + [" ".join(draw.choices("abcdefgh", k=9)) for _ in range(seed * 4)]
    sketches, _ = sketched(texts, Near(threshold, n, **SURE))
    one = duplicates.Sketches([np.zeros(len(texts), np.uint64)], sketches.shingles, sketches.offsets)
    clusters = duplicates.Clusters(len(texts))
    duplicates.near(one, np.arange(len(texts)), threshold, clusters)
    assert clusters.names().tolist() == components(texts, n, threshold)


def test_no_pair_over_the_threshold_survives_in_a_corpus():
    texts, near = corpus(300, seed=1), Near(0.5, 2, bands=60, rows=4)
    sketches, _ = sketched(texts, near)
    clusters = duplicates.Clusters(len(texts))
    looked = duplicates.near(sketches, np.arange(len(texts)), near.threshold, clusters)
    # All candidates are compared exactly, so clusters are never too large; with these bands a pair at the threshold is
    # missed with probability 0.02, which no pair of this corpus is.
    assert near.found(0.5) > 0.97
    assert clusters.names().tolist() == components(texts, 2, 0.5)
    assert looked < 300 * 299 / 2 / 10, "bands must spare most comparisons"


def test_candidates_are_found_with_the_probability_that_is_said():
    near, pairs, found = Near(bands=4, rows=2), 400, 0
    draw = np.random.default_rng(0)
    for seed in range(pairs):
        x = draw.choice(2**32, 80, replace=False).astype(np.uint32)
        values = np.concatenate([np.sort(x[:60]), np.sort(np.append(x[:40], x[60:]))])  # 40 of 80 in both
        signatures = minhash.signatures(values, np.asarray([0, 60, 120]), 8, seed)
        bands = minhash.bands(signatures, np.zeros(2, bool), near)
        found += bool((bands[0] == bands[1]).any())
    expected = near.found(0.5)
    assert expected == 1 - (1 - 0.25) ** 4
    assert abs(found / pairs - expected) < 4 * math.sqrt(expected * (1 - expected) / pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"threshold": 0}, "--near_threshold=0"), ({"threshold": 1.5}, "above 0"), ({"rows": 0}, "--near_rows=0")],
)
def test_bad_settings(change, message):
    with pytest.raises(UserError, match=message):
        Near(**change)


def judged(texts, train, threshold=0.6, present=None):
    near = Near(threshold, 2, **SURE)
    digests = np.asarray([[hash(text) % 2**64, len(text)] for text in texts], np.uint64)
    present = np.ones(len(texts), bool) if present is None else np.asarray(present)
    verdict = duplicates.judge(digests, sketched(texts, near)[0], present, train, threshold)
    return {name: which.tolist() for name, which in verdict.reasons.items()}, verdict.like


A, A_NEAR, B, C = "a b c d e f g h", "a b c d e f g i", "p q r s t u v w", "k l m n o k l m"


def test_the_first_of_each_cluster_stays():
    reasons, like = judged([A, B, A, A_NEAR, A_NEAR, C], train=6)
    assert reasons == {"leak": [], "duplicate": [2, 4], "near_duplicate": [3]}
    assert like.tolist() == [0, 1, 0, 0, 3, 5]


def test_what_repeats_held_out_records_leaks():
    reasons, like = judged([A, B, A_NEAR, C, A, A, B], train=4)
    assert reasons == {"leak": [0, 1, 2], "duplicate": [], "near_duplicate": []}
    assert like.tolist() == [4, 6, 4, 3, 4, 5, 6], "held-out records stay, repeats of each other too"


def test_records_that_are_lost_already_count_for_nothing():
    reasons, _ = judged([A, A_NEAR, A, A], train=3, present=[False, True, True, False])
    assert reasons == {"leak": [], "duplicate": [], "near_duplicate": [2]}
    reasons, _ = judged([A, B, A, B], train=2, present=[True, True, False, True])
    assert reasons == {"leak": [1], "duplicate": [], "near_duplicate": []}


def test_texts_without_words_are_compared_as_a_whole_only():
    reasons, _ = judged(["...", "!!!", "...", ""], train=4)
    assert reasons == {"leak": [], "duplicate": [2], "near_duplicate": []}


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_union_find(pairs):
    clusters = duplicates.Clusters(20)
    names = list(range(20))
    for i, j in pairs:
        name = clusters.join(i, j)
        a, b = names[i], names[j]
        names = [min(a, b) if n in (a, b) else n for n in names]
        assert name == min(a, b)
    assert [clusters.find(i) for i in range(20)] == clusters.names().tolist() == names
