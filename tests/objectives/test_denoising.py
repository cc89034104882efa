"""Masked LM and span corruption: the loss beside closed forms and torch, and what their settings must be."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.errors import UserError
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from tests.helpers import LLAMA, SPEC
from tests.objectives.rows import BUILDERS, END, SENTINELS, WORDS, alone, packed, pieces

BERT = dict(causal=False, norm_placement="post", embedding_norm=True, head="masked_lm", activation="gelu")
CASES = [("masked_lm", BERT), ("masked_lm", dict(LLAMA, causal=False)), ("span_corruption", LLAMA)]
cases = pytest.mark.parametrize("name, family", CASES, ids=["bert", "a head of next tokens", "spans"])


@functools.cache
def built(**changes):
    model = Transformer(dataclasses.replace(SPEC, init_std=0.2, max_length=64, **changes))
    return model, jax.jit(model.init)(jax.random.key(0))


def rows(name, count=3):
    made = [packed([piece], 48) for piece in pieces(name, range(30, 30 + count))]
    return {k: np.concatenate([row[k] for row in made]) for k in made[0]}


def given(batch, values=None):
    values = batch["inputs"] if values is None else values
    return Inputs(values, **{k: batch[k] for k in ("positions", "segments", "prefix") if k in batch})


@cases
def test_the_loss_is_over_what_is_asked_for_alone(name, family):
    model, params = built(**family)
    batch = rows(name)
    loss = jax.jit(functools.partial(BUILDERS[name][1].loss, model))(params, batch)
    logits = np.asarray(jax.jit(model)(params, given(batch)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    asked = [-log_p[b, t, batch["targets"][b, t]] for b, t in np.argwhere(batch["weights"] > 0)]  # one after the other
    np.testing.assert_allclose(loss.total, sum(asked), rtol=1e-5)
    assert float(loss.weight) == len(asked)
    if name == "masked_lm":
        assert len(asked) == sum(round(0.3 * n) for n in (30, 31, 32))
    else:
        learned = np.split(batch["targets"][batch["weights"] > 0], np.cumsum((batch["weights"] > 0).sum(1))[:-1])
        assert all(row[0] == SENTINELS[0] and row[-1] == END for row in learned)


@pytest.mark.live
@cases
def test_the_loss_is_torchs_with_ignored_labels(name, family):
    torch = pytest.importorskip("torch")
    model, params = built(**family)
    batch = rows(name)
    loss = jax.jit(functools.partial(BUILDERS[name][1].loss, model))(params, batch)
    logits = torch.tensor(np.asarray(jax.jit(model)(params, given(batch))))
    labels = torch.tensor(np.where(batch["weights"] > 0, batch["targets"], -100)).long()
    theirs = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    np.testing.assert_allclose(loss.total / loss.weight, theirs.numpy(), rtol=1e-5)


def test_a_uniform_model_has_the_entropy_of_a_die():
    model, params = built(**BERT)
    zeros = jax.tree.map(np.zeros_like, params)
    loss = jax.jit(functools.partial(BUILDERS["masked_lm"][1].loss, model))(zeros, rows("masked_lm"))
    np.testing.assert_allclose(loss.total / loss.weight, math.log(SPEC.vocab_size), rtol=1e-6)


def test_a_masked_token_sees_both_sides_and_no_padding():
    model, params = built(**BERT)
    [piece] = pieces("masked_lm", [20])
    row = packed([piece], 30)
    compute = jax.jit(model.hidden)
    hidden = compute(params, given(row))
    np.testing.assert_allclose(hidden[:, :20], compute(params, piece["inputs"][None]), atol=2e-5)
    padding = np.where(row["segments"] > 0, row["inputs"], WORDS - 1)
    np.testing.assert_array_equal(hidden[:, :20], compute(params, given(row, padding))[:, :20])
    last = row["inputs"].copy()
    last[0, 19] = (last[0, 19] + 1) % WORDS
    assert np.abs(compute(params, given(row, last))[0, 0] - hidden[0, 0]).max() > 1e-3


def test_a_span_is_written_from_both_sides_of_its_gap():
    """The first word of a span depends on what comes after the gap, and on no later word of the answer."""
    model, params = built()
    [piece] = pieces("span_corruption", [30])
    inputs = int(piece["prefix"].sum())
    first = model.hidden(params, Inputs(piece["inputs"][None], prefix=piece["prefix"][None]))[0, inputs]

    tokens = np.tile(piece["inputs"], (len(piece["inputs"]), 1))
    np.fill_diagonal(tokens, (np.diag(tokens) + 1) % WORDS)  # row i has another token i
    hidden = model.hidden(params, Inputs(tokens, prefix=np.tile(piece["prefix"], (len(tokens), 1))))
    moved = np.abs(hidden[:, inputs] - first).max(-1)
    assert (moved[: inputs + 1] > 1e-4).all() and (moved[inputs + 1 :] < 1e-5).all()


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("masked_lm", {}, "set model.causal=False"),
        ("masked_lm", dict(causal=False, head="classes"), "head for classes; set model.head='masked_lm'"),
        ("prefix_lm", dict(causal=False), "bidirectional.*set model.causal=True, or objective.name='masked_lm'"),
        ("span_corruption", dict(head="classes"), "set model.head='lm'"),
        ("causal_lm", BERT, "bidirectional, and predicts no next token"),
    ],
    ids=str,
)
def test_models_that_do_not_fit_an_objective(name, changes, message):
    with pytest.raises(UserError, match=f"config.objective.name = '{name}': the model .*{message}"):
        objectives.check(name, dataclasses.replace(SPEC, **changes))


def test_models_that_fit():
    for name, family in [*CASES, ("prefix_lm", LLAMA), ("causal_lm", {})]:
        objectives.check(name, dataclasses.replace(SPEC, **family))


def test_a_masked_model_writes_no_samples():
    with pytest.raises(UserError, match="config.samples.prompts: a model of objective.name='masked_lm' fills in"):
        objectives.check_samples("masked_lm", ("the",))
    objectives.check_samples("masked_lm", ())
    objectives.check_samples("span_corruption", ("the",))


def test_built_from_settings():
    section = configs.check({"objective": {"name": "span_corruption", "z_loss": 0.1, "chunk": 3}})
    made = objectives.build(section.objective)
    assert made == dataclasses.replace(BUILDERS["span_corruption"][1], z_loss=0.1, chunk=3)
    assert [n for n in objectives.OBJECTIVES if objectives.OBJECTIVES[n].reads_prompt] == [
        "prefix_lm",
        "span_corruption",
    ]


@pytest.mark.parametrize("lengths", [np.full(SPEC.vocab_size, 2), None], ids=["chained", "not"])
def test_bits_per_byte_only_where_every_byte_is_predicted_once(lengths):
    class Program:
        def place(self, batch):
            return batch

        def evaluate(self, state, batch):
            return {"nll": (np.float32(31.0), batch["weights"].sum())}

    batch = alone(pieces("causal_lm", [20])[0])
    values = EvalSet("validation", [batch], Program(), lengths).run(None)
    assert ("validation/bits_per_byte" in values) == (lengths is not None)
    if lengths is not None:
        expected = 31 / math.log(2) / (2 * 19)
        assert values["validation/bits_per_byte"] == pytest.approx(expected, rel=1e-6)
