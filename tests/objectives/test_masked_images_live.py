"""Masked autoencoding beside transformers' ViTMAE: the same weights, pixels and mask give the same loss and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.model.vision import normalized
from ptft_jax.objectives.masked_images import MaskedImages
from ptft_jax.params.rules import flatten, unflatten

pytestmark = pytest.mark.live
torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
SPEC = ModelSpec(
    vocab_size=0, max_length=17, layers=2, width=32, heads=4, norm_eps=1e-12, activation="gelu", causal=False, head="pixels",
    image_size=16, patch_size=4, channels=3, positions="sine", decoder_layers=2, decoder_width=16, decoder_heads=2,
    pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.25, 0.3),
)  # fmt: skip
VISIBLE = np.asarray([[0, 3, 9, 15], [1, 2, 7, 8]])


def names():
    """Our path -> (their name, whether it is transposed)."""
    found = {
        "embed/patches/bias": "vit.embeddings.patch_embeddings.projection.bias",
        "head/embed/bias": "decoder.decoder_embed.bias",
    }
    found |= {
        "head/pixels/bias": "decoder.decoder_pred.bias",
        "final_norm/scale": "vit.layernorm.weight",
        "final_norm/bias": "vit.layernorm.bias",
    }
    found |= {"head/norm/scale": "decoder.decoder_norm.weight", "head/norm/bias": "decoder.decoder_norm.bias"}
    return found


def theirs(norm_pix_loss):
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=16, patch_size=4, num_channels=3,
        decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=64,
        mask_ratio=0.75, norm_pix_loss=norm_pix_loss, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).double().eval()
    with torch.no_grad():
        model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False  # or its positions stay at zero
        model.vit.embeddings.initialize_weights()
        model.decoder.initialize_weights(16)
        for name, parameter in model.named_parameters():
            if "pos_embed" not in name and "position_embeddings" not in name:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def ours(tensors, shapes):
    """Their tensors (of weights, or of gradients) at our paths."""

    def linear(path, name):
        return {f"{path}/kernel": tensors[f"{name}.weight"].T, f"{path}/bias": tensors[f"{name}.bias"]}

    def block(name):
        found = {}
        for mine, other in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "o_proj")):
            found |= linear(
                f"attention/{mine}",
                next(f"{name}.{n}" for n in candidates(mine, other) if f"{name}.{n}.weight" in tensors),
            )
        for mine, options in (("up", ("mlp.fc1", "intermediate.dense")), ("down", ("mlp.fc2", "output.dense"))):
            found |= linear(f"mlp/{mine}", next(f"{name}.{n}" for n in options if f"{name}.{n}.weight" in tensors))
        for mine, other in (("attention_norm", "layernorm_before"), ("mlp_norm", "layernorm_after")):
            found |= {
                f"{mine}/scale": tensors[f"{name}.{other}.weight"],
                f"{mine}/bias": tensors[f"{name}.{other}.bias"],
            }
        return found

    def candidates(mine, other):
        out = (
            ("attention.output.dense", "attention.o_proj")
            if mine == "out"
            else (f"attention.attention.{mine}", f"attention.{other}")
        )
        return out

    layers = "vit.layers" if any(name.startswith("vit.layers.") for name in tensors) else "vit.encoder.layer"
    stacked = [block(f"{layers}.{n}") for n in range(2)]
    found = {f"blocks/{path}": np.stack([layer[path] for layer in stacked]) for path in stacked[0]}
    for n in range(2):
        found |= {f"head/layer_{n}/{path}": a for path, a in block(f"decoder.decoder_layers.{n}").items()}
    patches = tensors["vit.embeddings.patch_embeddings.projection.weight"]
    found |= {
        "embed/patches/kernel": patches.transpose(2, 3, 1, 0).reshape(-1, 32),
        "embed/class_token": tensors["vit.embeddings.cls_token"].reshape(-1),
    }
    found |= (
        {"head/mask_token": tensors["decoder.mask_token"].reshape(-1)}
        | linear("head/embed", "decoder.decoder_embed")
        | linear("head/pixels", "decoder.decoder_pred")
    )
    found |= {path: tensors[name] for path, name in names().items()}
    assert set(found) == set(shapes), set(found) ^ set(shapes)
    return found


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_and_gradients_are_those_of_transformers(normalize):
    model = Transformer(SPEC)
    shapes = {path: a.shape for path, a in flatten(model.shapes()).items()}
    other = theirs(normalize)
    tensors = {name: a.detach().numpy() for name, a in other.state_dict().items()}
    params = unflatten({path: jnp.asarray(a, jnp.float32) for path, a in ours(tensors, shapes).items()})
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    batch = {"inputs": images, "visible": VISIBLE.astype(np.int32), "weights": np.ones(2, np.float32)}

    def loss(params):
        made = MaskedImages(normalize).loss(model, params, batch)
        return made.total / made.weight

    mine, grads = jax.value_and_grad(loss)(params)
    # Those with the least noise are kept.
    noise = np.ones((2, 16))
    np.put_along_axis(noise, VISIBLE, 0.0, axis=1)
    pixels = np.asarray(normalized(jnp.asarray(images), SPEC)).transpose(0, 3, 1, 2)
    result = other(torch.tensor(pixels).double(), noise=torch.tensor(noise))
    result.loss.backward()
    assert float(mine) == pytest.approx(float(result.loss), rel=1e-5)
    want = ours({name: a.grad.numpy() for name, a in other.named_parameters() if a.grad is not None}, shapes)
    for path, grad in flatten(grads).items():
        np.testing.assert_allclose(grad, want[path], rtol=2e-3, atol=1e-5, err_msg=path)


def test_weights_go_both_ways(tmp_path):
    """Theirs are read as they are placed by hand above; what is written has the same tensors, bit for bit; other positions are refused."""
    from safetensors.numpy import load_file, save_file

    from ptft_jax.errors import UserError
    from ptft_jax.interop import export
    from tests.parity import compare

    other = theirs(False).float()
    other.save_pretrained(tmp_path / "theirs")
    model, params, fields, chain = compare.load(tmp_path / "theirs")
    shapes = {path: a.shape for path, a in flatten(model.shapes()).items()}
    tensors = {name: a.detach().numpy() for name, a in other.state_dict().items()}
    for path, a in ours(tensors, shapes).items():
        np.testing.assert_array_equal(flatten(params)[path], a, err_msg=path)
    export.to_folder(export.Exported(params, fields, None, chain), tmp_path / "ours", dtype="float32")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert set(before) == set(after)
    for name, a in before.items():
        np.testing.assert_allclose(after[name], a, atol=1e-5 if "pos" in name else 0, err_msg=name)
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "ours")
    for name, a in again.state_dict().items():
        np.testing.assert_allclose(a.numpy(), tensors[name], atol=1e-5, err_msg=name)
    before["decoder.decoder_pos_embed"] = before["decoder.decoder_pos_embed"] + 0.1
    save_file(before, tmp_path / "theirs/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="decoder.decoder_pos_embed holds other numbers than the fixed ones"):
        compare.load(tmp_path / "theirs")
