"""Answers that are good or bad: the loss beside its formula, and the distance that is of the whole batch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import filling, source_splits
from ptft_jax.data.builders.rated import Rated
from ptft_jax.data.tokenizers.byte import ByteTokenizer
from ptft_jax.errors import UserError
from ptft_jax.objectives.base import Context, means
from ptft_jax.objectives.kto import KTO
from ptft_jax.objectives.preference import Answers
from tests.helpers import ROWS, VOCAB, repeats, train
from tests.objectives.test_preference import alone, answers, built, logistic, packed

OBJECTIVE = KTO(beta=0.02, desirable=1.5, undesirable=0.5)
LABELS = np.float32([[1, -1], [1, 0]])  # of the pairs of each row


def batch():
    return packed(answers()) | {"labels": LABELS}


def expected(mine, theirs, labels, objective=OBJECTIVE):
    """(loss of each answer, z) of the log-probabilities of tokens of answers, and of others to their prompts."""
    ratios = np.array([[m.sum() - t.sum() for m, t in zip(*pair)] for pair in zip(mine, theirs)])
    point = max(0.0, ratios[:, 1].mean())
    good = objective.desirable * (1 - logistic(objective.beta * (ratios[:, 0] - point)))
    bad = objective.undesirable * (1 - logistic(objective.beta * (point - ratios[:, 0])))
    return np.where(labels > 0, good, bad), point


@pytest.mark.parametrize("swapped", repeats([False, True], False))
def test_the_loss_is_that_of_its_paper(swapped):
    """Packed and padded, of answers that were read alone, on both sides of where the distance is cut at 0; in parts that are told of
    the whole, its value and its gradient are the same."""
    model, *both = built()
    params, reference = both[::-1] if swapped else both
    mine = alone(params)
    losses, point = expected(mine, alone(reference), np.array([1, -1, 1]))
    context = Context(reference=reference)

    def total(params, batch, whole):
        loss = OBJECTIVE.loss(model, params, batch, context._replace(whole=whole))
        return loss.total, (loss.weight, loss.metrics)

    @jax.jit
    def gathered(params, batch):
        return OBJECTIVE.gathered(model, (params, OBJECTIVE.hidden(model, params, batch)), batch, context)

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (found, (weight, metrics)), gradient = run(params, batch(), gathered(params, batch()))
    assert weight == 3 and set(metrics) == set(OBJECTIVE.metrics)
    np.testing.assert_allclose(found, losses.sum(), rtol=1e-4)
    values = means(metrics)
    np.testing.assert_allclose(values["reference_point"], point, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(values["nll"], -np.concatenate([mine[0][0], mine[2][0]]).mean(), rtol=1e-4)
    assert values["answer_tokens"] == pytest.approx(np.mean([4, 3, 1]))

    rows = [batch() | {"pairs": batch()["pairs"] * np.eye(2, dtype=np.float32)[n][:, None]} for n in range(2)]
    whole = jax.tree.map(jnp.add, *(gathered(params, row) for row in rows))
    (one, _), first = run(params, rows[0], whole)
    (two, _), second = run(params, rows[1], whole)
    np.testing.assert_allclose(one + two, found, rtol=1e-5)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradient))
    added = jax.tree.map(jnp.add, first, second)
    jax.tree.map(lambda g, h: np.testing.assert_allclose(g, h, atol=1e-5 * largest), gradient, added)


def test_one_of_the_two_sees_the_cut():
    """The parameter sets of the test above are on different sides of 0."""
    _, params, reference = built()
    points = [expected(alone(a), alone(b), np.ones(3))[1] for a, b in ((params, reference), (reference, params))]
    assert min(points) == 0 < max(points)


@pytest.mark.heavy
def test_good_answers_alone():
    """Of the labels above the first and the third are good: the mean of their tokens' cross-entropy, as `nll` of the whole is."""
    model, params, _ = built()
    objective = OBJECTIVE.alone
    loss = jax.jit(lambda params, batch: objective.loss(model, params, batch))(params, batch())
    mine = alone(params)
    log_probs = np.concatenate([mine[0][0], mine[2][0]])
    np.testing.assert_allclose([loss.total, loss.weight], [-log_probs.sum(), len(log_probs)], rtol=1e-4)


def of_precomputed(seed):
    """A batch of rows of one answer, and another's, each, and what a reference makes of them."""
    rng = np.random.default_rng(seed)
    rows = [
        [[(rng.integers(0, VOCAB, int(prompt + size)), int(prompt)) for size in rng.integers(1, 6, 2)]]
        for prompt in rng.integers(1, 3, ROWS)
    ]
    made = packed(rows, length=16, most=1)
    labels = np.where(rng.random((ROWS, 1)) < 0.5, 1, -1).astype(np.float32)
    return made | {"labels": labels, "reference": -rng.gamma(8.0, 3.0, (ROWS, 1, 2)).astype(np.float32)}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [dict(devices=4, kind="pmap", micro=2), pytest.param(dict(devices=8, fsdp=2, micro=2), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_distance_is_of_the_whole_batch(options):
    """On a mesh, in parts, and in parts of each device: not that of a part."""
    objective = KTO(beta=0.1, precomputed=True)
    batches = [of_precomputed(seed) for seed in range(2)]
    one = train(objective=objective, batches=batches, dropout=0.0)
    other = train(objective=objective, batches=batches, dropout=0.0, **options)
    np.testing.assert_allclose(other.losses, one.losses, rtol=1e-5)
    np.testing.assert_allclose(other.grad_norms, one.grad_norms, rtol=1e-4)


# What rows are made of.


def write(folder, rows):
    for name, some in (("train", rows), ("validation", rows[:2]), ("test", rows[:2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return f"jsonl:{folder}"


def rows_of(source, **changes):
    values = {"data": {"source": source, "length": 48, **changes}, "model": {"max_length": 192}}
    data = configs.check({**values, "objective": {"name": "kto"}}).data
    tokens = source_splits.tokenized(data, source, "train", ByteTokenizer(), Rated.kinds)
    return filling.filled(data, tokens, Rated(), partial=False).rows


def record(n):
    return {"prompt": f"ask {n:02}", "completion": f" say {n:02}", "label": float(n % 3 == 0) if n % 2 else n % 3 == 0}


@pytest.mark.parametrize("chat", [False, True])
def test_rows(chat, tmp_path):
    """Each answer after its prompt, and beside it the answer of another record after the same prompt; each is another's once."""
    rows = [record(n) for n in range(40)]
    changes = {}
    if chat:
        roles = (("prompt", "user"), ("completion", "assistant"))
        rows = [row | {name: [{"role": role, "content": row[name]}] for name, role in roles} for row in rows]
        changes = {"template": "chatml", "length": 192}
    made = rows_of(write(tmp_path, rows), **changes)
    batch = made.batch(np.arange(len(made)), [(0, n) for n in range(len(made))])
    own, others = [], []
    for n in range(len(made)):
        pairs = int(batch["pairs"][n].sum())
        assert np.array_equal(np.sign(np.abs(batch["labels"][n])), batch["pairs"][n])
        for pair in range(pairs):
            texts = []
            for segment in (2 * pair + 1, 2 * pair + 2):
                here = batch["segments"][n] == segment
                learned = here & (batch["weights"][n] > 0)
                texts.append(
                    [
                        bytes(ids[ids < 256].astype(np.uint8)).decode()
                        for ids in (batch["inputs"][n][here], batch["targets"][n][learned])
                    ]
                )
            (first, answer), (second, other) = texts
            number, wrong = (int(text.split("say ")[1][:2]) for text in (answer, other))
            assert f"ask {number:02}" in first and f"ask {number:02}" in second and number != wrong
            assert "ask" not in answer + other
            assert batch["labels"][n, pair] == (1 if number % 3 == 0 else -1)
            own.append(number)
            others.append(wrong)
    assert sorted(own) == sorted(others) == sorted(set(own)) and len(own) == 40


def sides(rows):
    """Of rows of one answer and another's each: (the learned bytes of both, the label)."""
    batch = rows.batch(np.arange(len(rows)), [(0, n) for n in range(len(rows))])
    for n in range(len(rows)):
        learned = [(batch["segments"][n] == k) & (batch["weights"][n] > 0) for k in (1, 2)]
        ids = [batch["targets"][n][here] for here in learned]
        yield [bytes(some[some < 256].astype(np.uint8)).decode() for some in ids], batch["labels"][n, 0]


@pytest.mark.parametrize("overlong", ["raise", "drop", "truncate"])
def test_an_answer_is_not_cut_for_another(overlong, tmp_path):
    """In rows of 16 positions "aaaa" + 12 bytes and the end token fill one: no position is left; "bbbb" + 5 leave 7, of which its prompt
    takes 4 and one id is the end token of none: 3 bytes of the other's answer; short ones have all of it."""
    rows = [
        {"prompt": prompt, "completion": completion, "label": True}
        for prompt, completion in (("aaaa", "A" * 12), ("bbbb", "B" * 5), ("cccc", "C"))
    ]
    found = dict(label_free(rows_of(write(tmp_path, rows), length=16, packing="none", overlong=overlong)))
    assert set(found) == {"A" * 12, "B" * 5, "C"} and found["A" * 12] == ""
    assert found["B" * 5] in ("A" * 4, "C") and found["C"] in ("A" * 8, "B" * 5)


def label_free(rows):
    return [tuple(texts) for texts, _ in sides(rows)]


def test_answers_to_other_prompts(tmp_path):
    """Not to the same one, of which there are several; an empty answer is left out by itself."""
    rows = [{"prompt": f"ask {n % 4}", "completion": f" {n:02} of {n % 4}", "label": n % 3 == 0} for n in range(16)]
    own, other = zip(*label_free(rows_of(write(tmp_path, rows), packing="none")))
    assert sorted(own) == sorted(other) and all(a[-1] != b[-1] for a, b in zip(own, other))
    rows[5]["completion"] = ""
    source = write(tmp_path, rows) + "?empty_answers=context"
    own, other = zip(*label_free(rows_of(source, packing="none", untrainable="drop")))
    assert len(own) == 15 and sorted(own) == sorted(other)


def test_without_another_answer_there_is_no_distance():
    """z is of the answers that have another beside them: the second of the first row has none, and the third pair is not there."""
    ratios, lengths = np.float32([[[9, 1], [9, 5]], [[9, 3], [9, 7]]]), np.float32([[[4, 2], [4, 0]], [[4, 1], [4, 2]]])
    answers = Answers(ratios, ratios, np.zeros_like(ratios), lengths, None)
    total, count = KTO()._apart(answers, {"pairs": np.float32([[1, 1], [1, 0]])})
    assert (total, count) == (1 + 3, 2)


BAD = {
    "a label": (
        [record(n) for n in range(150)] + [record(0) | {"label": "maybe"}],
        "line 151: column 'label' is 'maybe': expected true",
    ),
    "an early label": ([record(0), record(1) | {"label": 3.5}], "line 2.*: column 'label' is not true or false"),
    "labels of another kind": (
        [record(n) | {"label": "good"} for n in range(3)],
        "line 1: column 'label' is 'good': expected true",
    ),
    "no label": ([{"prompt": "a", "completion": "b"}] * 3, "the objective learns from rated, not from answers"),
    "pairs": ([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3, "learns from rated, not from preference"),
    "empty": (
        [*map(record, range(3)), record(3) | {"completion": "  "}],
        "line 4: the answer is empty, and can be called neither",
    ),
    "alone": ([record(0)], "line 1: the only answer"),
    "a single prompt": ([record(0), record(0) | {"label": False}] * 2, "line 1: all answers are to its prompt"),
    "long": ([*map(record, range(3)), record(3) | {"completion": "x" * 60}], "line 4: .* are more than a row holds"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name, tmp_path):
    rows, message = BAD[name]
    source = write(tmp_path, rows)
    with pytest.raises(UserError, match=message) as caught:
        rows_of(source)
    assert str(tmp_path) in str(caught.value)
