"""Causal classifiers as transformers keeps them: in and out, heads in the place of scores of tokens, and what is padding."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.interop import export, families, padding, pretrained
from ptft_jax.interop.config_reader import Fields
from ptft_jax.parallel.sharding import on_one_device
from ptft_jax.params.rules import flatten
from tests.interop import small

HEAD = dict(head="classes", classes=3)
LLAMA, GPT2 = {**small.LLAMA, **HEAD}, {**small.GPT2, **HEAD}
NAMES = {  # as transformers (5) calls them
    "llama": "LlamaForSequenceClassification", "mistral": "MistralForSequenceClassification",
    "mixtral": "MixtralForSequenceClassification", "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification", "qwen3_moe": "Qwen3MoeForSequenceClassification",
    "smollm3": "SmolLM3ForSequenceClassification", "olmo2": "Olmo2ForSequenceClassification",
    "phi3": "Phi3ForSequenceClassification", "gemma": "GemmaForSequenceClassification",
    "gemma2": "Gemma2ForSequenceClassification", "gemma3_text": "Gemma3TextForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification", "gpt_neox": "GPTNeoXForSequenceClassification",
}  # fmt: skip


def test_every_causal_family_names_its_class():
    found = {n: family.architectures["classes"] for n, family in families.FAMILIES.items() if n in NAMES}
    assert found == NAMES
    assert set(families.FAMILIES) - set(NAMES) == {
        "bert", "roberta", "vit", "deit", "vit_mae", "dinov2", "dinov2_with_registers", "clip_vision_model", "siglip_vision_model", "clip", "siglip",
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(LLAMA, marks=pytest.mark.slow),
        pytest.param(GPT2, marks=pytest.mark.slow),
        {**LLAMA, "tied": False, "classes": 1},
    ],
    ids=["llama", "gpt2", "one"],
)
def test_a_folder_says_what_transformers_needs_and_is_read_back(fields, tmp_path):
    folder = small.folder(tmp_path / "x", fields)
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    assert config["architectures"] == [NAMES[config["model_type"]]]
    assert len(config["id2label"]) == fields["classes"] == len(config["label2id"]) and "num_labels" not in config
    assert config.get("problem_type") == ("regression" if fields["classes"] == 1 else None)
    assert tensors["score.weight"].shape == (fields["classes"], 32)
    assert not [name for name in tensors if "lm_head" in name or name.endswith("score.bias")]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # Bytes have one control token. No text ends with it, as the tokenizer gives texts to a model.
    assert config["pad_token_id"] == 256 and settings["pad_token"] == "<|endoftext|>"
    found = pretrained.find(f"hf:{folder}", "--run")
    assert {k: found.fields[k] for k in ("head", "classes", "causal")} == {
        **HEAD,
        "classes": fields["classes"],
        "causal": True,
    }
    assert found.config.objective.name == ("regression" if fields["classes"] == 1 else "classification")
    for path, array in flatten(found.parameters(on_one_device)).items():
        np.testing.assert_array_equal(array, flatten(small.params_of(fields))[path], err_msg=path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_head_takes_the_place_of_scores_of_tokens(tied, tmp_path):
    """Untied ones need not be named in init.ignore; anything else that is left over does."""
    folder = small.folder(tmp_path / "lm", {**small.LLAMA, "tied": tied})
    found = pretrained.find(f"hf:{folder}", "--run", fresh=("head/.*",))
    params = flatten(found.parameters(on_one_device, **HEAD))
    theirs = flatten(small.params_of({**small.LLAMA, "tied": tied}))
    assert params.keys() == {path for path in theirs if not path.startswith("head/")}
    with pytest.raises(UserError, match="missing  score.weight"):
        pretrained.find(f"hf:{folder}", "--run").parameters(on_one_device, **HEAD)


def test_another_class_of_a_family_is_read_as_before():
    values = json.loads(json.dumps(families.write(families.get("llama", "x"), families.canonical(small.LLAMA))))
    for given in (["LlamaModel"], ["LlamaForTokenClassification"], None):
        values["architectures"] = given
        assert families.get("llama", "x").read(Fields(values, "x"))["head"] == "lm"


def test_gguf_has_no_place_for_it(tmp_path):
    made = export.Exported(small.params_of(LLAMA), LLAMA, tok.ByteTokenizer(), [])
    with pytest.raises(UserError, match=r"--to=gguf: the model's head scores classes .model.head='classes'"):
        export.to_gguf(made, tmp_path / "x.gguf", dtype="float32")
    assert not list(tmp_path.iterdir())


class Tokens:
    """A tokenizer's control tokens."""

    def __init__(self, **special):
        self.special, self.origin = {f"<{name}>": i for name, i in special.items()}, "it"
        self.special_ids = frozenset(special.values())
        self.end_id, self.pad_id, self.unk_id = (special.get(name) for name in ("end", "pad", "unk"))


@pytest.mark.parametrize(
    "special, given, endings, expected",
    [
        (dict(end=1), None, (), 1),  # what trl and transformers do, too
        (dict(end=1, pad=5), None, (), 5),
        (dict(end=1, pad=5, other=7), 7, (), 7),  # as the imported model has it
        (dict(end=1, pad=5), 7, (), 5),  # a word
        (dict(end=1, pad=5), -1, (), 5),
        (dict(end=1, pad=5), None, (1,), 5),
        (dict(end=1, pad=1, unk=3, other=9), None, (1,), 3),
        (dict(end=1, pad=1, other=9, more=8), 1, (1,), 8),
        (dict(end=1, pad=2, other=9), None, (1, 2), 9),
    ],
    ids=str,
)
def test_what_rows_are_padded_with_is_no_end_of_a_text(special, given, endings, expected):
    tokenizer = Tokens(**{k: v for k, v in special.items()})
    assert padding.token(tokenizer, given, endings) == expected


@pytest.mark.heavy
def test_a_tokenizer_without_one_gets_one(tmp_path):
    """Where texts end with its only control token; the scores of texts stay what they were."""
    assert padding.token(Tokens(end=1, pad=1), None, (1,)) is None
    bytes_, fields = tok.ByteTokenizer(), {**LLAMA, "vocab_size": 257, "classes": 1}
    params = small.params_of(fields)
    made = export.Exported(params, fields, bytes_, [], last=(bytes_.end_id,))
    written = export.to_folder(made, tmp_path / "x", dtype="float32")
    assert written["note"].startswith("'<|pad|>' was added to the tokenizer")
    config = json.loads((tmp_path / "x/config.json").read_text())
    settings = json.loads((tmp_path / "x/tokenizer_config.json").read_text())
    assert config["pad_token_id"] == 257 and config["vocab_size"] == 258 and settings["pad_token"] == "<|pad|>"
    found = pretrained.find(f"hf:{tmp_path / 'x'}", "--run")
    tables = (flatten(p)["embed/tokens/embedding"] for p in (found.parameters(on_one_device), params))
    theirs, ours = map(np.asarray, tables)
    np.testing.assert_array_equal(theirs[:257], ours)
    assert found.tokenizer.pad_id == 257 and not theirs[257].any()
