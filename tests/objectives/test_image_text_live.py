"""Images beside captions as transformers' CLIP and SigLIP have them: the same weights and pairs give the same scores, loss and gradients."""

import jax
import numpy as np
import pytest

from ptft_jax.interop import families, layouts
from ptft_jax.objectives.image_text import Clip, Siglip
from ptft_jax.params.rules import flatten

pytestmark = pytest.mark.live
torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
END = 49
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
TEXTS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, vocab_size=50, max_position_embeddings=12)  # fmt: skip
OBJECTIVES = {"CLIP": Clip(), "Siglip": Siglip()}


def theirs(name):
    torch.manual_seed(0)
    ends = dict(bos_token_id=0, eos_token_id=END, pad_token_id=END)
    text = {**TEXTS, **ends} if name == "Siglip" else {**TEXTS, **ends, "hidden_size": 16}
    config = getattr(transformers, f"{name}Config")(
        text_config={**text, **({"projection_size": 32} if name == "Siglip" else {"projection_dim": 24})},
        vision_config=dict(**SIZES, image_size=24, patch_size=8), projection_dim=24,
    )  # fmt: skip
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return model


def pairs():
    rng = np.random.default_rng(0)
    lengths = np.asarray([3, 12, 5, 7])
    captions = np.full((4, 12), END)
    for row, length in zip(captions, lengths):
        row[: length - 1] = rng.integers(1, END, length - 1)
    images = rng.normal(size=(4, 24, 24, 3)).astype(np.float32)
    return {
        "inputs": images,
        "captions": captions.astype(np.int32),
        "ends": (lengths - 1).astype(np.int32),
        "weights": np.ones(4, np.float32),
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_loss_and_gradients(name, tmp_path):
    from ptft_jax.interop import export
    from tests.parity import compare

    model, batch, objective = theirs(name), pairs(), OBJECTIVES[name]
    model.save_pretrained(tmp_path / "theirs")
    ours, params, fields, chain = compare.load(tmp_path / "theirs")
    pixels = torch.from_numpy(batch["inputs"].transpose(0, 3, 1, 2).copy())
    out = model(input_ids=torch.from_numpy(batch["captions"].astype(np.int64)), pixel_values=pixels, return_loss=True)
    out.loss.backward()
    np.testing.assert_allclose(ours.texts(params, batch["captions"], batch["ends"]), _vectors(model, batch), atol=2e-5)

    def loss(params):
        hidden = objective.hidden(ours, params, batch)
        found = objective.loss_of(ours, params, hidden, batch)
        return found.total / found.weight

    found, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(found, out.loss.item(), rtol=1e-5)
    grads = {path: parameter.grad.numpy() for path, parameter in model.named_parameters() if parameter.grad is not None}
    family = families.get(chain[0]["model_type"], "test")
    flat = flatten(gradients)
    largest = max(np.abs(g).max() for g in grads.values())
    for tensor in family.tensors(fields):
        for at in np.ndindex(*flat[tensor.ours].shape[: tensor.lead]):
            shape = flat[tensor.ours].shape[tensor.lead :]
            whole = tuple(slice(0, n) for n in shape)
            expected = layouts.read(tensor, tensor.name(*at), whole, lambda name, index: grads[name][index])
            np.testing.assert_allclose(flat[tensor.ours][at], expected, atol=2e-5 * largest, err_msg=tensor.name(*at))
    assert len(flat) == len({tensor.ours for tensor in family.tensors(fields)})
    export.to_folder(export.Exported(params, fields, None, chain), tmp_path / "ours", dtype="float32")
    again = getattr(transformers, f"{name}Model").from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        back = again(input_ids=torch.from_numpy(batch["captions"].astype(np.int64)), pixel_values=pixels)
    np.testing.assert_allclose(back.logits_per_image, out.logits_per_image.detach(), atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_vectors_of_texts_by_the_tokenizer_beside_it(name, tmp_path):
    """Of a tokenizer of bytes whose padding is another token than the end: transformers' own reading of texts gives ours."""
    from ptft_jax.data.builders.pictures import padded, padding_of
    from ptft_jax.interop import export
    from ptft_jax.model.spec import ModelSpec
    from ptft_jax.model.transformer import Transformer
    from tests.interop import small

    fields = {"CLIP": small.CLIP, "Siglip": small.SIGLIP}[name]
    tokenizer = small.bytes_with(bos_token="<s>", add_bos_token=True, pad_token="<pad>")
    export.to_folder(export.Exported(small.params_of(fields), fields, tokenizer, []), tmp_path / "x", dtype="float32")
    texts = ["a cat", "ab", "of ten let"]
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "x")
    found = read(texts, padding="max_length", truncation=True, return_tensors="pt")
    model = getattr(transformers, f"{name}Model").from_pretrained(tmp_path / "x").eval()
    with torch.no_grad():
        vectors = model.get_text_features(**found)
    pad = padding_of(tokenizer, name == "CLIP")
    rows = [padded(np.asarray([257, *text.encode(), 256], np.int32), 12, pad) for text in texts]
    captions, ends = (np.stack(part) for part in zip(*rows))
    np.testing.assert_array_equal(found["input_ids"].numpy(), captions)
    assert pad == {"CLIP": 256, "Siglip": 258}[name]
    ours = Transformer(ModelSpec(**families.canonical(fields))).texts(small.params_of(fields), captions, ends)
    np.testing.assert_allclose(ours, getattr(vectors, "pooler_output", vectors).numpy(), atol=2e-5)


def _vectors(model, batch):
    with torch.no_grad():
        found = model.get_text_features(input_ids=torch.from_numpy(batch["captions"].astype(np.int64)))
    return getattr(found, "pooler_output", found).numpy()


def stored(name, count=5, size=6):
    """Vectors, and transformers' loss of their pairs with its gradients: what tests without torch compare with."""
    from transformers.models.clip import modeling_clip

    rng = np.random.default_rng(3)
    given = {"images": rng.normal(size=(count, size)), "texts": rng.normal(size=(count, size)), "scale": 1.2, "bias": -1.5 if name == "siglip" else 0.0}  # fmt: skip
    leaves = {what: torch.tensor(value, dtype=torch.float64, requires_grad=True) for what, value in given.items()}
    images, texts = (leaves[what] / leaves[what].norm(dim=-1, keepdim=True) for what in ("images", "texts"))
    scores = texts @ images.t() * leaves["scale"].exp() + leaves["bias"]
    if name == "clip":
        loss = modeling_clip.image_text_contrastive_loss(scores)
    else:  # SiglipModel.forward
        signs = 2 * torch.eye(count, dtype=torch.float64) - 1
        loss = -torch.nn.functional.logsigmoid(signs * scores).sum(-1).mean()
    loss.backward()
    gradient = {what: leaf.grad.tolist() for what, leaf in leaves.items() if what != "bias" or name == "siglip"}
    return {
        **{what: np.asarray(value).tolist() for what, value in given.items()},
        "loss": loss.item(),
        "gradient": gradient,
    }


def test_what_is_stored_is_theirs():
    from tests.objectives import test_image_text as plain

    for name, kept in plain.STORED.items():
        made = stored(name)
        assert made["loss"] == pytest.approx(kept["loss"]) and made["gradient"].keys() == kept["gradient"].keys()
        for what, gradient in kept["gradient"].items():
            np.testing.assert_allclose(made["gradient"][what], gradient, atol=1e-9)
