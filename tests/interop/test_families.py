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
    # Of pre-training; and the tower's own name, which newer versions of transformers leave out.
    unused |= {name for name in before if name.endswith("embeddings.mask_token")}
    before = {
        name if name in after else f"vision_model.{name}" if "vision" in case.name else name: a
        for name, a in before.items()
    }
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


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_the_images_of_a_whole_model(name, tmp_path):
    """Images become what the whole model makes of them, also where its tower for texts is given up; what is exported is whole."""
    transformers = pytest.importorskip("transformers")
    import torch

    from ptft_jax.interop import export
    from tests.parity import compare

    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    text = dict(**sizes, vocab_size=50, max_position_embeddings=12)
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=dict(**sizes, image_size=24, patch_size=8), projection_dim=24
    )
    theirs = getattr(transformers, f"{name}Model")(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model, params, fields, chain = compare.load(tmp_path / "theirs")
    images = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        found = theirs.get_image_features(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    found = getattr(found, "pooler_output", found).numpy()
    np.testing.assert_allclose(model(params, images), found, atol=1e-4 * np.abs(found).max())
    written = export.to_folder(export.Exported(params, fields, None, chain), tmp_path / "ours", dtype="float32")
    assert written["family"] == name.lower()


def test_positions_of_another_resolution(tmp_path):
    """DINOv2 with registers interpolates its positions, with averaging, where images have another size than it was trained with."""
    transformers = pytest.importorskip("transformers")
    import torch

    from ptft_jax.interop import pretrained
    from ptft_jax.model.spec import ModelSpec
    from ptft_jax.model.transformer import Transformer

    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=24,
        patch_size=4,
        num_labels=5,
    )
    theirs = transformers.Dinov2WithRegistersForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    source = pretrained.find(f"hf:{tmp_path}", "test")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for size in (32, 16):
        sizes = {"image_size": size, "patch_size": 4, "max_length": (size // 4) ** 2 + 5}
        params = source.parameters(lambda path, shape: device, **sizes)
        model = Transformer(ModelSpec(**{**source.fields, **sizes}))
        images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
        with torch.no_grad():
            found = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
        np.testing.assert_allclose(model(params, images), found, atol=1e-3 * np.abs(found).max())
