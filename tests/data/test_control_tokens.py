"""Span corruption of texts with control tokens: these stay, spans end at them, and one end stands last."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ptft_jax import config as configs
from ptft_jax.data import builders, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.spans import SpanCorruption
from tests.data.test_builders import ALARM, END, SENTINELS, _runs, by_hand, restored

BOS, PAD, UNUSED = 990, 991, 992
CONTROL = (BOS, PAD, UNUSED, END, *SENTINELS)


def corrupted(builder, ids, seed):
    """A row as (inputs, targets)."""
    piece = builder.piece(np.asarray(ids), None, np.random.default_rng(seed))
    row = [*piece["inputs"].tolist(), int(piece["targets"][-1])]
    split = int(piece["prefix"].sum())
    assert piece["targets"].tolist() == row[1:] and len(piece["inputs"]) <= builder.slots(np.asarray(len(ids)))
    assert piece["prefix"].tolist() == [n < split for n in range(len(row) - 1)]
    assert piece["weights"].tolist() == [float(n >= split - 1 and split < len(row) - 1) for n in range(len(row) - 1)]
    return row[:split], row[split:]


def mask_of(ids, inputs, targets):
    """Which ids are in the answer: what is between control tokens is told apart by its place, all ids differ there."""
    cut = [i for i in targets[:-1] if i not in SENTINELS]
    return tuple(i in cut for i in ids)


settings_of = st.builds(
    SpanCorruption, st.just(SENTINELS), st.just(END), st.floats(0.05, 0.9), st.floats(1.0, 10.0), st.just(CONTROL)
)
texts_of = st.lists(st.integers(0, 12), min_size=1, max_size=20)


@given(
    builder=settings_of,
    lengths=texts_of,
    seed=st.integers(0, 1000),
    which=st.sampled_from([END, BOS, PAD, SENTINELS[150]]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_between_control_tokens_is_corrupted_and_nothing_else(builder, lengths, seed, which):
    """Texts of so many ids, each with a control token behind it; all other ids differ, so that each can be found."""
    ids, number = [], itertools.count()
    for length in lengths:
        ids += [*itertools.islice(number, length), which]
    total = sum(lengths)
    inputs, targets = corrupted(builder, ids, seed)
    assert targets[-1] == END and all(i < 900 or i in SENTINELS for i in targets[:-1])
    assert [i for i in inputs if i == which] == [which] * len(lengths)
    used = [i for i in targets[:-1] if i in SENTINELS]
    assert used == list(SENTINELS[: len(used)])
    if not total:
        assert inputs == ids and targets == [END]
        return
    mask = mask_of(ids, inputs, targets)
    assert (inputs, targets) == by_hand(ids, mask, SENTINELS, END)
    assert restored(inputs, targets) == ids
    noise, spans = (int(x) for x in builder.counts(np.asarray(total)))
    assert sum(mask) <= noise and _runs(mask) == len(used) <= spans and sum(mask)
    if sum(sorted(lengths)[:spans]) >= noise:  # whichever texts have the spans, there is room
        assert sum(mask) == noise
    if sum(length > 0 for length in lengths) == 1:
        assert (sum(mask), _runs(mask)) == (noise, spans)


@pytest.mark.parametrize("before, after", [([], [END]), ([BOS], [END]), ([BOS, PAD], [])])
def test_a_whole_text_is_corrupted_as_what_it_says_alone(before, after):
    """T5's masks of the ids inside, each as likely as the others."""
    n, builder = 9, SpanCorruption(SENTINELS, END, 0.4, 2.0, CONTROL)
    noise, spans = (int(x) for x in builder.counts(np.asarray(n)))
    ways = {
        mask
        for places in itertools.combinations(range(n), noise)
        if _runs(mask := tuple(i in places for i in range(n))) == spans and not mask[0] and mask[-1]
    }
    assert len(ways) == math.comb(noise - 1, spans - 1) * math.comb(n - noise - 1, spans - 1) > 5
    counts = dict.fromkeys(ways, 0)
    ids = [*before, *range(n), *after]
    for seed in range(60 * len(ways)):
        mask = mask_of(ids, *corrupted(builder, ids, seed))
        counts[mask[len(before) : len(before) + n]] += 1
    assert stats.chisquare(list(counts.values())).pvalue > ALARM


def test_every_text_has_its_part():
    """Of many short texts in one row, as many ids of each are corrupted, but at the ends, where T5's masks differ too."""
    builder = SpanCorruption(SENTINELS, END, 0.15, 3.0, CONTROL)
    ids = [i for text in range(40) for i in (*range(10 * text, 10 * text + 10), END)]
    rows = [mask_of(ids, *corrupted(builder, ids, seed)) for seed in range(400)]
    assert {(sum(row), _runs(row)) for row in rows} == {(60, 20)}
    ours = np.reshape(rows, (400, 40, 11))
    assert not ours[:, :, 10].any()
    inner = ours.sum(2)[:, 2:-2]
    assert (np.abs(inner.mean(0) - inner.mean()) < 5 * inner.std(0) / math.sqrt(400)).all() and abs(
        inner.mean() - 1.5
    ) < 0.1


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_rows_of_short_documents_have_one_end_in_their_answer(cache, tmp_path, packing):
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {n} of {n * 7 % 13}"}) + "\n" for n in range(300)))
    data = configs.check({"data": {"source": f"jsonl:{path}", "length": 64, "packing": packing}}).data
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), [f"<extra_id_{n}>" for n in range(12)])
    builder = builders.build(configs.check({"objective": {"name": "span_corruption"}}).objective, tokenizer)
    [rows] = pipeline.training(data, tokenizer, builder, steps=2, seed=0).sets
    answers = 0
    for n in range(len(rows)):
        row = rows.row(n, (0, n))
        segments = row.get("segments", np.ones(64, np.int32))
        for segment in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == segment)
            learned = row["targets"][here][row["weights"][here] > 0].tolist()
            assert learned[-1] == 256 and not {256} & set(learned[:-1]) and learned[0] == 257
            answers += 1
    assert len(rows) > 50 and (answers == len(rows) if packing == "concat" else answers > 2 * len(rows))
