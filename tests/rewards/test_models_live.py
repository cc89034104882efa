"""The rewards of a sequence classifier of transformers, beside its own pipeline."""

import pytest

from ptft_jax.rewards.base import Task, scored_all
from ptft_jax.rewards.reward_model import RewardModel
from tests.interop.test_last_token_live import saved

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live
ASKED = (("ax by", "cz"), ("ax", "bx cy dz ex fy gz hx ay"), ("hz", "az"), ("ax by cz", "dx ey"))


def test_rewards_are_those_of_the_pipeline(tmp_path):
    """Answers of different lengths, in one batch here, one at a time there; each ends with the tokenizer's end."""
    saved(tmp_path, "LlamaForSequenceClassification", "own", num_labels=1)
    pipe = transformers.pipeline("text-classification", str(tmp_path), function_to_apply="none")
    expected = [pipe(f"{prompt} {answer} </s>")[0]["score"] for prompt, answer in ASKED]
    tasks = [Task(prompt, (), {}, "x") for prompt, _ in ASKED]
    found = scored_all("reward_model", RewardModel(f"hf:{tmp_path}"), [answer for _, answer in ASKED], tasks)
    assert [score.value for score in found] == pytest.approx(expected, rel=1e-4, abs=1e-5)
