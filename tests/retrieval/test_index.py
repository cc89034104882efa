"""Indexes: scores beside their formula, exact search, what is refused, and what a killed process left."""

import json
import math

import numpy as np
import pytest

from ptft_jax.config.sources import SOURCES
from ptft_jax.errors import UserError
from ptft_jax.retrieval import bm25, dense, index
from ptft_jax.retrieval.passages import Corpus, Passage

TEXTS = (
    "The cat sat on the mat.",
    "A dog sat.",
    "Cats and dogs: cat, cat!",
    "the the the",
    "Owls fly by night",
    "a dog sat",
)


def corpus(folder, rows, words=0, options=""):
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(f"jsonl:{folder}/docs.jsonl{options}", "", words, SOURCES)


def made(folder, texts=TEXTS, name="index", **options):
    index.build(
        folder / name, "bm25", corpus(folder, [{"id": f"d{n}", "text": t} for n, t in enumerate(texts)]), **options
    )
    return index.Index(str(folder / name), "--index")


def by_hand(query, k1, b):
    """The formula, word by word."""
    texts = [bm25.words(text) for text in TEXTS]
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in bm25.words(query):
            n, f = sum(word in other for other in texts), text.count(word)
            score += math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * len(text) / mean))
        scores.append(score)
    return scores


def test_bm25_is_its_formula_and_ties_go_by_number(tmp_path):
    found = made(tmp_path, k1=1.2, b=0.6)
    queries = ["cat on the MAT", "the the owls", "Sat", "nothing here?", "", "?!"]
    for query in queries:
        np.testing.assert_allclose(found.searcher.scores(query), by_hand(query, 1.2, 0.6), rtol=1e-5, atol=1e-7)
    numbers, scores = found.search(queries, 3)
    assert numbers[2].tolist() == [1, 5, 0]  # equal ones: the first first
    assert numbers[3].tolist() == [-1, -1, -1] and not scores[4:].any()  # no word of it is in any
    assert found.passages[2] == Passage("d2", f"{tmp_path}/docs.jsonl, line 3", TEXTS[2])


REPORTS = {
    # xhluca/bm25s issue 127: of two passages that say a word equally often one had no score.
    "quick": (("foo", "dog", "baz", "quick god", "quick fox"), [3, 4, -1]),
    # piskvorky/gensim issue 2684: words that are in most passages counted against them, so a text was not the best for itself.
    "a b c d": (("a b c x y", "a b c d", "z"), [1, 0, -1]),
    # xhluca/bm25s issues 60 and 91, bojieli/ai-agent-book pull request 511: words that no passage has, and no word, were errors.
    "new words": (("a b", "c"), [-1, -1]),
    " ": (("a b", "c"), [-1, -1]),
}


@pytest.mark.parametrize("query", REPORTS)
def test_what_went_wrong_elsewhere(query, tmp_path):
    texts, best = REPORTS[query]
    found = made(tmp_path, texts)
    numbers, scores = found.search([query], len(best))
    assert numbers[0].tolist() == best
    # run-llama/llama_index issue 14442: scores stood beside other passages than theirs.
    whole = found.searcher.scores(query)
    assert scores[0].tolist() == [whole[n] if n >= 0 else 0 for n in best] and (whole >= 0).all()


@pytest.mark.live
def test_bm25_beside_rank_bm25():
    """Its scores, with Lucene's logarithm in the place of its own, are k1 + 1 times ours."""
    import rank_bm25

    okapi = rank_bm25.BM25Okapi([bm25.words(text) for text in TEXTS], k1=1.2, b=0.6)
    counts = {word: sum(word in bm25.words(text) for text in TEXTS) for word in okapi.idf}
    okapi.idf = {word: math.log(1 + (len(TEXTS) - n + 0.5) / (n + 0.5)) for word, n in counts.items()}
    for query in ("cat on the mat", "the the owls", "sat"):
        np.testing.assert_allclose(okapi.get_scores(bm25.words(query)) / 2.2, by_hand(query, 1.2, 0.6), rtol=1e-9)


def test_dense_search_is_exact_in_blocks_and_ties_go_by_number(monkeypatch):
    monkeypatch.setattr(dense, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    keys[20] = keys[3]
    for query, (numbers, products) in zip(queries, dense.nearest(queries, keys, 9)):
        expected = sorted(range(30), key=lambda n: (-float(keys[n] @ query), n))[:9]
        np.testing.assert_allclose(products, keys[numbers] @ query, rtol=1e-5)
        assert numbers.tolist() == expected


def test_documents_are_cut_by_words_and_nothing_is_lost(tmp_path):
    [*parts] = corpus(tmp_path, [{"id": "x", "text": "one two  three four five"}, {"id": "y", "text": "six"}], words=2)
    assert [(p.id, p.text) for p in parts] == [("x#0", "one two"), ("x#1", "three four"), ("x#2", "five"), ("y", "six")]
    assert parts[1].where.endswith("docs.jsonl, line 1, part 1")
    index.build(
        tmp_path / "index",
        "bm25",
        corpus(tmp_path, [{"id": "x", "text": "one two three"}, {"id": "y", "text": "z"}], words=2),
        words=2,
    )
    written = index.Index(str(tmp_path / "index"), "").passages
    assert [written.numbers(name) for name in ("x", "x#1", "y", "z")] == [(0, 1), (1,), (2,), ()]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "a"}, {"text": " \n"}], "docs.jsonl, line 2: field 'text': an empty passage"),
        ([{"text": "a"}, {"text": "..."}], "docs.jsonl, line 2: field 'text': '...' has no word"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "docs.jsonl, line 2: the id 1 is that of"),
        ([{"question": "a", "answer": "b"}] * 3, "an index is made of texts, and this is"),
    ],
)
def test_what_is_no_corpus(rows, says, tmp_path):
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        index.build(tmp_path / "index", "bm25", corpus(tmp_path, rows))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs.jsonl"]


def test_the_same_again_does_nothing_and_anything_else_is_refused(tmp_path):
    first = made(tmp_path)
    assert made(tmp_path).fingerprint == first.fingerprint
    with pytest.raises(UserError, match="made of something else.*\n.*settings.k1: 1.5 there, 2.0 now"):
        made(tmp_path, k1=2.0)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert made(moved).fingerprint == first.fingerprint  # of the same texts, wherever they lie
    assert made(moved, TEXTS[1:], "other").fingerprint != first.fingerprint


def test_another_corpus_and_damage_are_told(tmp_path):
    found = made(tmp_path)
    with (tmp_path / "docs.jsonl").open("a") as f:
        f.write('{"id": "new", "text": "more"}\n')
    with pytest.raises(UserError, match=r"its corpus has changed since it was made: .*docs\.jsonl"):
        index.Index(str(found.folder), "retrieve")
    (tmp_path / "docs.jsonl").unlink()  # an index goes without its corpus
    index.Index(str(found.folder), "retrieve")
    with (found.folder / "passages.jsonl").open("r+b") as f:
        f.write(b"{ ")
    with pytest.raises(UserError, match=r"passages\.jsonl: damaged"):
        index.Index(str(found.folder), "retrieve")


def test_a_killed_process_is_continued_and_leaves_nothing_half_made(tmp_path, monkeypatch):
    """What a kill leaves is the hidden folder: what is done of it is taken, of other settings nothing."""

    class Hashed:
        identity, width, asked = {"pooling": "mean"}, 3, 0

        def passages(self, texts, wheres):
            Hashed.asked += len(texts)
            return np.asarray([[len(text), text.count("a"), 1] for text in texts], np.float32)

    rows = [{"id": str(n), "text": "a" * (n + 1)} for n in range(10)]
    whole = dense.build

    def killed(folder, passages, encoder, done, at, rows=4):
        def dying(count):
            at(count)
            if count == 8 and not done:
                raise SystemExit  # of a kill nothing cleans up, see below

        whole(folder, passages, encoder, done, dying, rows)

    monkeypatch.setattr(dense, "build", killed)
    monkeypatch.setattr("ptft_jax.data.whole_folders.shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        index.build(tmp_path / "index", "dense", corpus(tmp_path, rows), encoder=Hashed())
    assert not (tmp_path / "index").exists() and Hashed.asked == 8
    monkeypatch.undo()
    facts, there = index.build(tmp_path / "index", "dense", corpus(tmp_path, rows), encoder=Hashed())
    assert Hashed.asked == 10 and not there
    index.build(tmp_path / "fresh", "dense", corpus(tmp_path, rows), encoder=Hashed())
    for name in ("vectors.npy", "passages.jsonl"):
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert facts["fingerprint"] == index.manifest(tmp_path / "fresh", "")["fingerprint"]
    assert {path.name for path in tmp_path.iterdir()} == {"docs.jsonl", "index", "fresh"}
