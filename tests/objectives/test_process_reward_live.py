"""The loss of process rewards beside the token classification of transformers, which TRL's `PRMTrainer` trains: two classes, of tokens
whose label is not -100. In value and in every gradient."""

import jax
import numpy as np
import pytest

from ptft_jax.objectives.process_reward import ProcessReward
from ptft_jax.params.rules import flatten
from tests.interop.test_last_token_live import built
from tests.parity import compare

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live
STEPS = ({3: 1, 8: 0}, {5: 1}, {2: 0, 4: 0, 11: 1})


def test_loss_and_gradients_are_those_of_token_classification(tmp_path):
    theirs = built("llama3", num_labels=1)
    theirs.save_pretrained(tmp_path / "model")
    model, params, _, _ = compare.load(tmp_path / "model")
    tokens = transformers.LlamaForTokenClassification(transformers.LlamaConfig(**{**theirs.config.to_dict(), "num_labels": 2})).eval()  # fmt: skip
    tokens.model.load_state_dict(theirs.model.state_dict())
    with torch.no_grad():  # two classes, whose logits differ by our number
        half = theirs.score.weight[0] / 2
        tokens.score.weight.copy_(torch.stack([-half, half]))
        tokens.score.bias.zero_()
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(3, 97, (3, 12)), np.full((3, 12), -100)
    for row, steps in enumerate(STEPS):
        labels[row, list(steps)] = list(steps.values())
    found = tokens(input_ids=torch.from_numpy(ids), labels=torch.from_numpy(labels))
    found.loss.backward()
    batch = {
        "inputs": ids.astype(np.int32), "positions": np.broadcast_to(np.arange(12, dtype=np.int32), (3, 12)),
        "segments": np.ones((3, 12), np.int32), "weights": (labels >= 0).astype(np.float32), "right": labels == 1,
    }  # fmt: skip

    def loss_of(params):
        loss = ProcessReward().loss(model, params, batch)
        return loss.total / loss.weight

    ours, slopes = jax.jit(jax.value_and_grad(loss_of))(params)
    assert float(ours) == pytest.approx(float(found.loss), rel=2e-5)
    with torch.no_grad():
        for mine, other in zip(theirs.model.parameters(), tokens.model.parameters(), strict=True):
            mine.data = other.grad.clone()
        # d loss / d (difference of the classes' weights), of which each has one half
        theirs.score.weight.data = ((tokens.score.weight.grad[1] - tokens.score.weight.grad[0]) / 2)[None].clone()
    theirs.save_pretrained(tmp_path / "slopes")
    expected = flatten(compare.load(tmp_path / "slopes")[1])
    largest = max(np.abs(g).max() for g in expected.values())
    for path, slope in flatten(slopes).items():
        np.testing.assert_allclose(slope, expected[path], atol=3e-5 * largest, err_msg=path)
