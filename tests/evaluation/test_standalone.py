"""By which objective a model that is there already is measured, and what is refused."""

import types

import jax.numpy as jnp
import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import pretrained
from ptft_jax.model.spec import ModelSpec
from ptft_jax.runs import loading
from tests.interop import small

HEADS = {
    "causal_lm": small.LLAMA,
    "masked_lm": small.BERT,
    "classification": {**small.BERT, "head": "classes", "classes": 3, "class_hidden": True},
}


@pytest.fixture(scope="module", params=HEADS)
def imported(request, tmp_path_factory):
    folder = small.folder(tmp_path_factory.mktemp("imported"), HEADS[request.param])
    return request.param, pretrained.find(f"hf:{folder}", "--run")


def test_the_objective_of_imported_weights_follows_from_their_head(imported):
    name, source = imported
    assert source.config.objective.name == name


def loaded_of(source):
    spec = ModelSpec(**{k: v for k, v in source.fields.items()})
    model = types.SimpleNamespace(spec=spec, max_tokens=spec.max_length)
    return loading.Loaded(source, model, {"head": {"bias": jnp.ones(3)}}, source.tokenizer)


def test_another_objective_has_to_go_with_the_model(imported):
    name, source = imported
    loaded = loaded_of(source)
    other = {"causal_lm": "masked_lm"}.get(name, "causal_lm")
    with pytest.raises(UserError, match=f"config.objective.name = '{other}': the model"):
        evaluate(loaded, "text:x", objective=other)
    with pytest.raises(UserError, match=r"--objective = 'masked_ml': expected one of .*\(did you mean 'masked_lm'\?\)"):
        evaluate(loaded, "text:x", objective="masked_ml")


def test_parameters_that_are_not_finite_are_not_measured(imported):
    _, source = imported
    loaded = loading.Loaded(source, None, {"head": {"bias": jnp.asarray([1.0, jnp.nan])}}, None)
    with pytest.raises(UserError, match=r"not finite \(NaN or infinity\):\s+head/bias: 1 of 2"):
        evaluate(loaded, "text:x")


def test_a_head_of_one_number_tells_no_classes(tmp_path):
    folder = small.folder(tmp_path / "one", {**small.BERT, "head": "classes", "classes": 1, "class_hidden": True})
    with pytest.raises(UserError, match="gives one number .regression, model.classes = 1.*init.fresh"):
        evaluate(loaded_of(pretrained.find(f"hf:{folder}", "--run")), "text:x", objective="classification")
    assert pretrained.find(f"hf:{folder}", "--run").config.objective.name == "regression"
