"""Where models of images look, beside the attention that transformers puts out."""

import jax
import numpy as np
import pytest

from ptft_jax.evaluation.attention_maps import maps
from ptft_jax.model.inputs import Inputs
from tests.parity import compare, families

pytestmark = pytest.mark.live
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["vit", "dinov2-registers"])
def test_they_are_those_of_transformers(name, tmp_path):
    case = next(case for case in families.CASES if case.name == name)
    other = families.build(case)
    other.save_pretrained(tmp_path)
    other.set_attn_implementation("eager")
    model, params, _, _ = compare.load(tmp_path)
    images = compare.plain_inputs(case)
    with compare.torch.no_grad():
        theirs = other(compare.torch.tensor(images.transpose(0, 3, 1, 2).copy()), output_attentions=True).attentions
    layers = [weights.numpy().mean(1) for weights in theirs]
    found = jax.jit(lambda params: maps(model, params, Inputs(images)))(params)
    both = [(weights + np.eye(weights.shape[-1])) / 2 for weights in layers]  # their rows sum to one as they are
    rolled = (both[1] @ both[0])[:, 0]
    for ours, expected in zip(found, (layers[-1][:, 0], rolled)):
        np.testing.assert_allclose(
            ours, expected[:, model.spec.before_patches :].reshape(ours.shape), rtol=1e-4, atol=1e-6
        )
