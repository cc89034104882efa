"""Every family beside transformers: logits of imports and of exports, names and values of what is written."""

import jax
import numpy as np
import pytest

from tests.parity.families import CASES, build

pytestmark = pytest.mark.live
TOLERANCE = 1e-4  # largest difference of logits over the largest logit, in float32


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_family(case, tmp_path):
    """Theirs -> ours: equal logits, however the model is fed. Ours -> theirs: the same tensors under the same names,
    bit for bit, and, from random parameters of ours, a model of theirs with equal logits."""
    pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    from ptft_jax.interop import export
    from tests.parity import compare, results

    torch_model = build(case)
    torch_model.save_pretrained(tmp_path / "theirs")
    ways = [(what, results.difference(*pair)) for what, *pair in compare.logits(case, torch_model, tmp_path / "theirs")]
    for what, difference in ways:
        assert difference <= TOLERANCE, (what, difference)
    results.record(case, "import", max(d for _, d in ways), torch_model.config.model_type)

    model, params, fields, chain = compare.load(tmp_path / "theirs")
    written = export.to_folder(export.Exported(params, fields, None, chain), tmp_path / "ours", dtype="float32")
    assert written["family"] == torch_model.config.model_type
    before, after = load_file(tmp_path / "theirs/model.safetensors"), load_file(tmp_path / "ours/model.safetensors")
    unused = {"cls.predictions.bias"} if case.name == "bert-untied" else set()
    assert set(before) - unused == set(after)
    for name in after:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)

    random = jax.jit(model.init)(jax.random.key(1))
    random = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), random)
    export.to_folder(export.Exported(random, fields, None, chain), tmp_path / "random", dtype="float32")
    again, info = type(torch_model).from_pretrained(
        tmp_path / "random", output_loading_info=True, attn_implementation="eager", dtype="float32"
    )
    assert not set(info["missing_keys"]) - unused and not info["unexpected_keys"] and not info["mismatched_keys"]
    inputs = compare.plain_inputs(case)
    difference = results.difference(*compare.plain(case, model, random, again.eval(), inputs))
    assert difference <= TOLERANCE, difference
    results.record(case, "export", difference)
