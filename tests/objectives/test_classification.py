"""Classes of whole rows: the loss beside its formula and torch, padding, and what the model must be."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.data import builders
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.base import evaluated
from ptft_jax.objectives.classification import Classification
from tests.helpers import SPEC, quiet_train, tiny_config

BERT = dict(causal=False, norm_placement="post", embedding_norm=True, head="classes", classes=5, class_hidden=True)


@pytest.fixture(scope="module")
def built():
    model = Transformer(dataclasses.replace(SPEC, init_std=0.3, **BERT))
    return model, jax.jit(model.init)(jax.random.key(0))


def rows(length=16, seed=0):
    rng = np.random.default_rng(seed)
    sizes = np.array([4, 9, 16, 1])
    segments = (np.arange(16) < sizes[:, None]).astype(np.int32)
    tokens = rng.integers(0, SPEC.vocab_size, (4, 16)).astype(np.int32) * segments
    return {
        "inputs": tokens[:, :length],
        "segments": segments[:, :length],
        "targets": np.array([0, 4, 2, 1], np.int32),
        "weights": np.array([1, 1, 1, 0], np.float32),
    }


def scores(model, params, batch):
    return np.asarray(jax.jit(model)(params, Inputs(batch["inputs"], segments=batch["segments"])), np.float64)


def loss_of(objective, model, params, batch):
    return jax.jit(functools.partial(objective.loss, model))(params, batch)


def test_formula(built):
    model, params = built
    batch = rows()
    logits = scores(model, params, batch)
    log_z = np.log(np.exp(logits).sum(-1))
    log_p = logits - log_z[:, None]
    picked = log_p[range(4), batch["targets"]]
    loss = loss_of(Classification(z_loss=0.01, label_smoothing=0.1), model, params, batch)
    expected = (-0.9 * picked - 0.1 * log_p.mean(-1) + 0.01 * log_z**2)[:3]
    np.testing.assert_allclose(loss.total, expected.sum(), rtol=1e-5)
    assert loss.weight == 3
    np.testing.assert_allclose(loss.metrics["nll"][0], -picked[:3].sum(), rtol=1e-5)
    assert loss.metrics["accuracy"][0] == (logits.argmax(-1) == batch["targets"])[:3].sum()


@pytest.mark.live
def test_the_loss_is_torchs(built):
    torch = pytest.importorskip("torch")
    model, params = built
    batch = rows()
    labels = torch.tensor(np.where(batch["weights"] > 0, batch["targets"], -100)).long()
    logits = torch.tensor(scores(model, params, batch))
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    loss = loss_of(Classification(label_smoothing=0.2), model, params, batch)
    np.testing.assert_allclose(loss.total / loss.weight, theirs.numpy(), rtol=1e-5)


MIXED = {"other": np.array([3, 4, 0, 2], np.int32), "share": np.array([0.7, 0.25, 1.0, 0.5], np.float32)}
WEIGHTS = (0.5, 1.0, 3.0, 1.0, 2.0)


def test_mixed_rows(built):
    """Each class by its share; both may be the same; weights of classes are those of the two in their shares."""
    model, params = built
    batch = rows() | MIXED
    logits = scores(model, params, batch)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    first, second = (-log_p[range(4), batch[name]][:3] for name in ("targets", "other"))
    share = MIXED["share"][:3]
    picked = share * first + (1 - share) * second
    loss = loss_of(Classification(label_smoothing=0.1), model, params, batch)
    np.testing.assert_allclose(loss.total, (0.9 * picked - 0.1 * log_p.mean(-1)[:3]).sum(), rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["nll"], (picked.sum(), 3), rtol=1e-5)
    named = logits.argmax(-1)[:3]
    right = share * (named == batch["targets"][:3]) + (1 - share) * (named == batch["other"][:3])
    np.testing.assert_allclose(loss.metrics["accuracy"][0], right.sum(), rtol=1e-6)
    weighted = loss_of(Classification(class_weights=WEIGHTS), model, params, batch)
    one, other = (np.asarray(WEIGHTS)[batch[name][:3]] for name in ("targets", "other"))
    np.testing.assert_allclose(weighted.total, (share * one * first + (1 - share) * other * second).sum(), rtol=1e-5)
    np.testing.assert_allclose(weighted.weight, (share * one + (1 - share) * other).sum(), rtol=1e-6)


@pytest.mark.live
def test_the_loss_of_mixed_rows_is_torchs(built):
    torch = pytest.importorskip("torch")
    model, params = built
    batch = rows() | MIXED
    soft = np.zeros((3, 5))
    np.add.at(soft, (range(3), batch["targets"][:3]), MIXED["share"][:3])
    np.add.at(soft, (range(3), batch["other"][:3]), 1 - MIXED["share"][:3])
    logits = torch.tensor(scores(model, params, batch)[:3])
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(soft), label_smoothing=0.2)
    loss = loss_of(Classification(label_smoothing=0.2), model, params, batch)
    np.testing.assert_allclose(loss.total / loss.weight, theirs.numpy(), rtol=1e-5)


def test_class_weights_are_of_the_loss_alone(built):
    model, params = built
    batch = rows()
    logits = scores(model, params, batch)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = -log_p[range(4), batch["targets"]][:3]
    objective = Classification(class_weights=WEIGHTS)
    measured = jax.jit(functools.partial(evaluated, objective, (), model))(params, batch)
    weights = np.array([0.5, 2.0, 3.0])  # of classes 0, 4, 2; the fourth row is padding
    np.testing.assert_allclose(measured["loss"], [(weights * picked).sum(), weights.sum()], rtol=1e-5)
    assert objective.weight(batch) == weights.sum()
    np.testing.assert_allclose(measured["nll"], [picked.sum(), 3], rtol=1e-5)
    named = logits.argmax(-1)[:3]
    expected = np.zeros((5, 5))
    np.add.at(expected, (batch["targets"][:3], named), 1)
    np.testing.assert_array_equal(measured["confusion"], expected)
    np.testing.assert_array_equal(
        measured["by_class"], [expected.diagonal(), expected.sum(axis=1), expected.sum(axis=0)]
    )


@pytest.mark.parametrize("wrong", [(1.0, 0.0), (1.0, "a"), (-1.0,)], ids=str)
def test_class_weights_are_numbers_above_0(wrong):
    with pytest.raises(UserError, match="config.objective.class_weights: "):
        configs.check({"objective": {"class_weights": wrong}})


@pytest.mark.live
def test_the_weighted_loss_is_torchs(built):
    torch = pytest.importorskip("torch")
    model, params = built
    batch = rows()
    labels = torch.tensor(np.where(batch["weights"] > 0, batch["targets"], -100)).long()
    logits = torch.tensor(scores(model, params, batch))
    theirs = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS, dtype=torch.float64))
    loss = loss_of(Classification(class_weights=WEIGHTS), model, params, batch)
    np.testing.assert_allclose(loss.total / loss.weight, theirs.numpy(), rtol=1e-5)


def test_padding_and_rows_of_padding_change_nothing(built):
    model, params = built
    batch = rows()
    short = {k: v[:2, :9] if v.ndim == 2 else v[:2] for k, v in batch.items()}
    cut = {**batch, "weights": np.array([1, 1, 0, 0], np.float32)}
    np.testing.assert_allclose(
        loss_of(Classification(), model, params, short).total,
        loss_of(Classification(), model, params, cut).total,
        rtol=1e-5,
    )


def test_models_and_settings():
    section = configs.check({"objective": {"name": "classification", "label_smoothing": 0.1, "chunk": 4}})
    assert objectives.build(section.objective) == Classification(label_smoothing=0.1)
    assert builders.build(section.objective, tok.ByteTokenizer()).labelled
    with pytest.raises(UserError, match="config.objective.chunk = 4 is set, but nothing in this run reads it"):
        section.objective.name, section.refuse_unread()
    objectives.check("classification", dataclasses.replace(SPEC, **BERT))
    with pytest.raises(UserError, match="scores tokens; set model.head='classes'"):
        objectives.check("classification", SPEC)
    objectives.check("classification", dataclasses.replace(SPEC, head="classes"))
    new = r"set model.head='classes' and model.classes, and of a run that starts .* init.fresh=\('head/.\*',\)"
    with pytest.raises(UserError, match=new):
        objectives.check("classification", SPEC)
    with pytest.raises(UserError, match="names classes and writes no text"):
        objectives.check_samples("classification", ("a",))


@pytest.fixture
def reviews(tmp_path, cache):
    """Two hundred texts of which a word tells the class."""
    rng = np.random.default_rng(0)
    words = ["good", "bad", "odd"]
    lines = ["body,stars"]
    for _ in range(200):
        label = int(rng.integers(3))
        noise = ["".join(rng.choice(list("xyz"), 3)) for _ in range(rng.integers(1, 5))]
        lines.append(f"{' '.join([words[label], *noise])},{words[label]}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines))
    return path


def config_of(reviews, **changes):
    options = {f"model__{k}": v for k, v in BERT.items()} | {"model__classes": 3, "objective__name": "classification"}
    options |= {"training__steps": 60, "eval__every": 30, "eval__tokens": 0}
    config = tiny_config(reviews, **{**options, **changes})
    config.data.source = f"csv:{reviews}?text=body&label=stars"
    return config


@pytest.mark.slow
def test_a_run_learns_the_class_of_a_text(reviews, tmp_path):
    summary = quiet_train(config_of(reviews), tmp_path / "run")
    assert summary["before"]["validation/accuracy"] < 0.7 < 0.95 < summary["after"]["validation/accuracy"]
    assert "validation/bits_per_byte" not in summary["after"]


def test_data_that_do_not_fit_are_refused(reviews, text_file, tmp_path):
    with pytest.raises(UserError, match="config.model.classes = 2: the data have 3 classes"):
        quiet_train(config_of(reviews, model__classes=2), tmp_path / "run")
    with pytest.raises(
        UserError, match="class_weights has 2 weights, and the model 3 classes .bad, good, odd.: give one"
    ):
        quiet_train(config_of(reviews, objective__class_weights=(1.0, 2.0)), tmp_path / "run")
    with pytest.raises(UserError, match="config.data.packing = 'best_fit': a row has one class, and holds one text"):
        quiet_train(config_of(reviews, data__packing="best_fit"), tmp_path / "run")
    config = config_of(reviews)
    config.data.source = f"text:{text_file}"
    with pytest.raises(UserError, match="the objective learns from classification"):
        quiet_train(config, tmp_path / "run")
