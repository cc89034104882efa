"""Which objective goes with which model and which data: every pairing, by a table made by hand."""

import itertools
import json

import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation.conversation import Conversation
from ptft_jax.evaluation.samples import continue_texts
from ptft_jax.model.decode import Sampling
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives import OBJECTIVES
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.loading import Loaded
from ptft_jax.training import assembly
from tests.helpers import repeats, tiny_config

MODELS = {
    "causal": {},
    "bidirectional": dict(causal=False),
    "masked": dict(causal=False, head="masked_lm"),
    "classifier": dict(causal=False, head="classes", classes=3),
    "one number": dict(causal=False, head="classes", classes=1),
    "causal classifier": dict(head="classes", classes=3),
    "causal number": dict(head="classes", classes=1),
    "images": dict(causal=False, head="classes", classes=3, image_size=4, patch_size=2, max_length=5),
    "pixels": dict(causal=False, head="pixels", image_size=4, patch_size=2, max_length=5),
    "captions": dict(causal=False, head="vector", text_layers=1, image_size=4, patch_size=2, max_length=5),
}
# objective -> (the models of images, the kinds of these) that it goes with.
PICTURED = {
    "classification": (("images",), ("labelled-images",)),
    "masked_images": (("pixels",), ("labelled-images", "images")),
    "clip": (("captions",), ("captioned-images",)),
    "siglip": ((), ("captioned-images",)),  # of models with model.pair_bias
    "vision_lm": ((), ("captioned-images", "asked-images")),  # of models with model.tower
}
KINDS = ("text", "answers", "tokens", "classification", "preference")
REWARDED = ("grpo", "rloo", "reinforce", "ppo", "expert_iteration", "online_dpo", "gkd", "sdft")
# objective -> (the models, the kinds of data) that it goes with; nothing else does.
GOES = {
    "causal_lm": (("causal",), ("text", "answers", "tokens")),
    "prefix_lm": (("causal",), ("text", "answers", "tokens")),
    "masked_lm": (("bidirectional", "masked"), ("text", "answers", "tokens")),
    "span_corruption": (("causal",), ("text", "tokens")),
    "classification": (("classifier", "causal classifier"), ("classification",)),
    "masked_images": ((), ()),
    "clip": ((), ()),
    "siglip": ((), ()),
    "vision_lm": ((), ()),
    "regression": (("one number", "causal number"), ("regression",)),
    "distill": (("causal",), ("text", "answers", "tokens")),
    "contrastive": (("causal", "bidirectional", "masked"), ("answers",)),
    "kto": (("causal",), ("rated",)),
    "unlikelihood": (("causal",), ("rated", "rated-text")),
    "reward": (("causal number",), ("preference",)),
    "process_reward": (("causal number",), ("steps",)),
    **{name: (("causal",), ("preference",)) for name in ("dpo", "ipo", "simpo", "cpo", "orpo", "slic", "rrhf")},
    **{name: (("causal",), ("answers",)) for name in REWARDED},
}
# With a parent or a teacher: tests/e2e/test_preference.py, tests/e2e/test_distill.py, tests/e2e/test_own_answers.py.
COMPARED = ("dpo", "ipo", "kto", "distill", "online_dpo", "gkd", "sdft")
ROWS = {
    "text": lambda i: {"text": f"the cat {i} sat on the mat"},
    "answers": lambda i: {"prompt": f"what {i}?", "completion": f"that {i}."},
    "tokens": lambda i: {"input_ids": [97 + i % 20] * 12},
    "classification": lambda i: {"text": f"the cat {i}", "label": "abc"[i % 3]},
    "regression": lambda i: {"text": f"the cat {i}", "label": i / 4},
    "preference": lambda i: {"prompt": f"{i}?", "chosen": "yes, it is", "rejected": "no"},
    "rated": lambda i: {"prompt": f"{i}?", "completion": "yes", "label": i % 3 > 0},
    "steps": lambda i: {"prompt": f"{i}?", "completions": ["a", "b"], "labels": [True, i % 3 > 0]},
    "rated-text": lambda i: {"text": f"the cat {i}", "label": i % 3 > 0},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    for kind, row in ROWS.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(120)))
    return folder


def config_of(sources, objective, model, kind):
    config = tiny_config(sources, model__layers=1, training__steps=2, objective__name=objective)
    config.data.source = f"jsonl:{sources}/{kind}.jsonl"
    if "image_size" not in MODELS[model]:
        config.tokenizer.add = ("[MASK]", *(f"<extra_id_{i}>" for i in range(4)))
    config.model.update(MODELS[model])
    config.data.length = min(32, config.model.max_length)
    if objective in REWARDED:
        config.objective.policy.update(verifiers=("exact",), max_new_tokens=4)
    return config


def assemble(config, tmp_path):
    return assembly.Run(config, tmp_path / "run", Reporter(quiet=True))


@pytest.mark.parametrize("objective", repeats(GOES, *list(GOES)[:6], "dpo"))
def test_models_and_data_that_do_not_go_with_an_objective(objective, sources, tmp_path, monkeypatch):
    """One message that names the fields; no tokenizer is made, nothing is tokenized, nothing written."""
    monkeypatch.setattr("ptft_jax.data.tokenize.tokenized", lambda *_, **__: pytest.fail("tokenized"))
    models, kinds = GOES[objective]
    for model, kind in itertools.product(MODELS, KINDS):
        if model in models and kind in kinds:
            continue
        with pytest.raises(UserError) as caught:
            assemble(config_of(sources, objective, model, kind), tmp_path)
        message = str(caught.value)
        if model in PICTURED.get(objective, ((),))[0]:
            assert f"{kind}.jsonl" in message and "the model reads images" in message and "images:FOLDER" in message
        elif model not in models:
            assert message.startswith(f"config.objective.name = {objective!r}: "), message
            field = (
                "model.image_size"
                if model in ("images", "pixels", "captions") and objective not in PICTURED
                else "model."
            )
            assert field in message or "objective.name='masked_lm'" in message
        elif (objective, kind) == ("unlikelihood", "classification"):  # a text and a label, as its own have
            assert "classification.jsonl, line 1: column 'label' is 'a': expected true or false" in message
        else:
            assert f"{kind}.jsonl" in message and f"not from {kind}" in message and "config.objective.name" in message
        assert "\n" not in message and not (tmp_path / "run").exists()


TOGETHER = [(o, m, k) for o, (models, kinds) in GOES.items() for m in models for k in kinds if o not in COMPARED]
HEAVY = [("prefix_lm", "causal", "answers"), ("masked_lm", "masked", "answers"), ("span_corruption", "causal", "text")]
PLAIN = [
    ("causal_lm", "causal", "answers"),
    ("masked_lm", "masked", "text"),
    ("classification", "classifier", "classification"),
]


@pytest.mark.parametrize(
    "objective,model,kind",
    [
        pytest.param(*t, marks=() if t in PLAIN else pytest.mark.heavy if t in HEAVY else pytest.mark.slow)
        for t in TOGETHER
    ],
)
def test_what_goes_together_is_assembled(objective, model, kind, sources, tmp_path):
    config = config_of(sources, objective, model, kind)
    config.objective.preference.from_random = objective in ("simpo", "cpo", "orpo", "slic", "rrhf")
    config.objective.policy.from_random = objective in REWARDED
    config.objective.from_random = objective in ("reward", "process_reward")
    assert assemble(config, tmp_path).trainer.objective is not None


def test_the_table_is_whole():
    of_images = {k: PICTURED.get(k, ((), ()))[1] for k in GOES}
    assert {k: v.kinds for k, v in OBJECTIVES.items()} == {k: (*kinds, *of_images[k]) for k, (_, kinds) in GOES.items()}


def test_a_mixture_of_kinds_names_the_source_that_does_not_fit(sources, tmp_path):
    config = config_of(sources, "causal_lm", "causal", "text")
    config.data.mixture = ((f"jsonl:{sources}/text.jsonl", 1.0), (f"jsonl:{sources}/preference.jsonl", 1.0))
    with pytest.raises(
        UserError, match="preference.jsonl: .*not from preference .config.objective.name = 'dpo' or 'ipo' or .* does."
    ):
        assemble(config, tmp_path)


def test_prompts_of_a_model_that_does_not_write(sources, tmp_path):
    config = config_of(sources, "classification", "classifier", "classification")
    config.samples.prompts = ("a",)
    with pytest.raises(
        UserError, match="config.samples.prompts: a model of objective.name='classification' names classes"
    ):
        assemble(config, tmp_path)


def test_images_as_data_are_refused(sources, tmp_path):
    """Lists of numbers are no images: columns that hold them are no format."""
    rows = [{"image": np.full((4, 4, 3), i).tolist(), "label": i % 3} for i in range(30)]
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for objective, model in (("causal_lm", "causal"), ("classification", "classifier")):
        config = config_of(sources, objective, model, "text")
        config.data.source = f"jsonl:{tmp_path}/images.jsonl"
        with pytest.raises(
            UserError, match="images.jsonl, line 1: no format has the columns of this record:\n  image: list of list"
        ):
            assemble(config, tmp_path)


def test_models_that_cannot_write_say_so():
    spec = ModelSpec(
        vocab_size=8, max_length=5, layers=1, width=8, heads=1, causal=False, head="classes", image_size=4, patch_size=2
    )
    model = Transformer(spec)
    with pytest.raises(UserError, match="predicts no next token"):
        continue_texts(model, {}, None, ["a"], max_new_tokens=1, sampling=Sampling())
    with pytest.raises(UserError, match="predicts no next token"):
        Conversation(Loaded(None, model, {}, None), max_new_tokens=1)
