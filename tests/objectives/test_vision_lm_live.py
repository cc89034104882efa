"""A tower, a projector and a language model as transformers' LLaVA has them: the same weights give the same logits, loss and gradients."""

import jax
import numpy as np
import pytest

from ptft_jax.combining import towers
from ptft_jax.combining.models import Reader
from ptft_jax.model import spec as specs
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives.vision_lm import VisionLM
from ptft_jax.params.rules import unflatten

pytestmark = pytest.mark.live
torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
IMAGE, PATCHES, LENGTH = 60, 9, 20
LAYERS = {"linear_1": "up", "linear_2": "down"}


def theirs():
    """CLIP's tower without its last layer, and a small Llama."""
    torch.manual_seed(0)
    seen = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, projection_dim=24)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**seen, image_size=24, patch_size=8),
        text_config=transformers.LlamaConfig(
            hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=64,
            max_position_embeddings=32, tie_word_embeddings=False,
        ),
        image_token_id=IMAGE, image_token_index=IMAGE, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return model


def test_logits_loss_and_gradients(tmp_path):
    model = theirs()
    text = transformers.LlamaForCausalLM(model.config.text_config)
    text.model.load_state_dict(model.model.language_model.state_dict())
    text.lm_head.load_state_dict(model.lm_head.state_dict())
    text.save_pretrained(tmp_path / "text")
    model.model.vision_tower.save_pretrained(tmp_path / "images")
    reader = Reader()
    both = [reader.open(reader.run(f"hf:{tmp_path}/{name}")) for name in ("text", "images")]
    params, fields = towers.joined(tuple(both), {"skip": 1, "projector": "mlp", "merge": 1, "seed": 0})
    own = specs.ModelSpec(**{**both[0].source.fields, **fields})
    for layer, name in LAYERS.items():
        found = getattr(model.model.multi_modal_projector, layer)
        params[f"projector/{name}/kernel"] = found.weight.detach().numpy().T
        params[f"projector/{name}/bias"] = found.bias.detach().numpy()
    ours, params = Transformer(own), unflatten(params)

    rng = np.random.default_rng(0)
    ids = rng.integers(1, IMAGE, (3, LENGTH)).astype(np.int64)
    ids[:, 2 : 2 + PATCHES] = IMAGE
    images = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    labels = np.where(np.arange(LENGTH) > 13, ids, -100)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    out = model(input_ids=torch.from_numpy(ids), pixel_values=pixels, labels=torch.from_numpy(labels))
    out.loss.backward()
    tokens = np.where(ids == IMAGE, specs.IMAGE, ids).astype(np.int32)
    logits = jax.jit(ours)(params, Inputs(tokens, images=images))
    np.testing.assert_allclose(logits, out.logits.detach().numpy(), atol=1e-4)

    batch = {"inputs": tokens[:, :-1], "targets": np.maximum(tokens[:, 1:], 0), "images": images}
    batch["weights"] = (labels[:, 1:] >= 0).astype(np.float32)

    def loss(params):
        found = VisionLM().loss(ours, params, batch)
        return found.total / found.weight

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
    for layer, name in LAYERS.items():
        found = getattr(model.model.multi_modal_projector, layer)
        np.testing.assert_allclose(gradients["projector"][name]["kernel"], found.weight.grad.numpy().T, atol=1e-6)
        np.testing.assert_allclose(gradients["projector"][name]["bias"], found.bias.grad.numpy(), atol=1e-6)
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    kernel = tower.embeddings.patch_embedding.weight.grad.numpy()  # [out, channel, row, column]
    kernel = kernel.transpose(2, 3, 1, 0).reshape(-1, 32)
    np.testing.assert_allclose(gradients["tower"]["embed"]["patches"]["kernel"], kernel, atol=1e-6)
