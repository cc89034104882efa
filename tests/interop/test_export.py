"""Models out: round trips, what is written beside the weights, and that nothing half-written is left."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.interop import export, families, pretrained
from ptft_jax.model import presets
from ptft_jax.model.spec import wordless
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from tests.interop import small


def exported(fields=small.LLAMA, chain=(), tokenizer=None, **options):
    return export.Exported(small.params_of(fields), fields, tokenizer, list(chain), **options)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_configs_are_the_same_after_a_round_trip(name):
    """Of every family: the model read from its config, written, and read again."""
    family = families.get(name, "test")
    config = {
        "model_type": name, "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 66, "sliding_window": 8,
        "n_embd": 64, "n_layer": 6, "n_head": 4, "n_positions": 66, "image_size": 32, "patch_size": 8,
        "architectures": [family.architecture],
    }  # fmt: skip
    if tower := getattr(family, "tower", None):  # a whole model, of two towers
        parts = {
            part: {**config, "model_type": tower.model_type.replace("vision", part)} for part in ("vision", "text")
        }
        config = {"model_type": name, "architectures": [family.architecture]}
        config |= {f"{part}_config": values for part, values in parts.items()}
    _, model = families.read(config, "test")
    written = families.write(family, model)
    found, again = families.read(json.loads(json.dumps(written)), "test")
    assert found is family and all(families.same(model[k], again[k]) for k in model)
    assert families.choose(model, name) is family


def test_import_of_an_export_is_the_identity(tmp_path):
    export.to_folder(exported(tokenizer=tok.ByteTokenizer()), tmp_path / "a", dtype="float32")
    loaded = loading.load(f"hf:{tmp_path / 'a'}")
    fields, chain = loaded.source.fields, loaded.source.lineage("")
    again = export.Exported(loaded.params, fields, loaded.tokenizer, chain)
    export.to_folder(again, tmp_path / "b", dtype="float32")
    for file in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "a" / file).read_text() == (tmp_path / "b" / file).read_text()
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert before.keys() == after.keys() and all(np.array_equal(before[k], after[k]) for k in before)


def test_byte_tokenizers_are_written_as_what_other_tools_read(tmp_path):
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), ["<|user|>", "<|assistant|>"])
    fields = {**small.LLAMA, "vocab_size": 259}
    export.to_folder(exported(fields, tokenizer=tokenizer), tmp_path / "out", dtype="float32")
    read = tok.from_file(tmp_path / "out")
    for text in ("", "plain", "café ☕ \n\t<|user|>", "<|endoftext|>"):
        for special in (False, True):
            np.testing.assert_array_equal(read.encode(text, special=special), tokenizer.encode(text, special=special))
    assert read.end_id == 256 and tok.decode(read, read.encode("café")) == "café"


@pytest.mark.heavy
def test_gguf_round_trip_and_its_bound_on_rounding(tmp_path):
    bpe = tok.train_bpe(["the cat sat on the mat, " * 50], 265)
    fields = {**small.LLAMA, "mlp_width": 64}
    for dtype, most in (("float32", 0.0), ("bfloat16", 0.05), ("q8_0", 0.05)):
        written = export.to_gguf(exported(fields, tokenizer=bpe), tmp_path / f"{dtype}.gguf", dtype=dtype)
        assert 0 <= written["logit_difference"] <= most and (most == 0 or written["logit_difference"] > 0)
    loaded = loading.load(f"gguf:{tmp_path / 'float32.gguf'}")
    gemma = {
        **small.LLAMA,
        "norm": "rms_plus_one",
        "activation": "gelu_tanh",
        "embedding_scale": True,
        "norm_eps": 1e-6,
    }
    assert export.to_gguf(exported(gemma), tmp_path / "gemma.gguf", dtype="float32")["logit_difference"] == 0.0
    with pytest.raises(UserError, match="ffn_down.weight: Q8_0 needs rows of a multiple of 32 numbers, not 48"):
        export.to_gguf(exported(tokenizer=bpe), tmp_path / "no.gguf", dtype="q8_0")
    for path, array in flatten(small.params_of(fields)).items():
        np.testing.assert_array_equal(flatten(loaded.params)[path], array)
    np.testing.assert_array_equal(loaded.tokenizer.encode("the mat"), bpe.encode("the mat"))


def test_a_wrong_read_back_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    tensors = export.Exported.tensors

    def slipped(self, dtype):
        for name, array in tensors(self, dtype):
            yield name, array + (1e-3 if name.endswith("1.mlp.up_proj.weight") else 0)

    monkeypatch.setattr(export.Exported, "tensors", slipped)
    with pytest.raises(UserError, match="read back, has other values:\n  blocks/mlp/up/kernel"):
        export.to_folder(exported(), tmp_path / "out", dtype="float32")
    with pytest.raises(UserError, match="read back, has other values:\n  blocks/mlp/up/kernel"):
        export.to_gguf(exported(tokenizer=tok.train_bpe(["a b c " * 50], 260)), tmp_path / "out.gguf", dtype="float32")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(UserError, match="is there already, and not an empty folder"):
        export.to_folder(exported(), tmp_path / "full", dtype="float32")
    with pytest.raises(UserError, match="holds one of float32, bfloat16, float16"):
        export.to_folder(exported(), tmp_path / "out", dtype="q8_0")
    with pytest.raises(UserError, match=r"no family of .* nearest is \w+, but for:\n  "):
        exported({**small.LLAMA, "norm_placement": "both", "parallel": False, "query_key_norm": "all"})
    with pytest.raises(UserError, match="the family 'gpt2' cannot express this model:"):
        exported(family="gpt2")
    with pytest.raises(UserError, match=r"model_type 'lama' is not supported.*did you mean 'llama'"):
        exported(family="lama")
    large = jax.tree.map(lambda a: a * 1e6, small.params_of(small.LLAMA))
    with pytest.raises(UserError, match="--dtype=float16: .* has values that it cannot hold"):
        export.to_folder(export.Exported(large, small.LLAMA, None, []), tmp_path / "out", dtype="float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_the_family_of_the_import_is_kept_with_what_it_said_beside_the_model(tmp_path):
    """A Mistral without a window is a Llama by its numbers; it stays what it came as."""
    config = {**families.write(families.get("mistral", ""), families.canonical(small.LLAMA)), "sliding_window": None}
    config |= {"initializer_range": 0.123, "transformers_version": "4.0"}
    chain = [{"reference": "hf:x", "step": 0, "fingerprint": "", "model_type": "mistral", "config": config}]
    written = exported(chain=chain)
    assert written.family.model_type == "mistral" and written.config("float32")["initializer_range"] == 0.123
    assert "transformers_version" not in written.config("float32")
    assert exported(chain=chain, family="llama").family.model_type == "llama"
    assert exported({**small.LLAMA, "biases": ("qkv",)}, chain=chain).family.model_type == "qwen2"


def test_models_of_our_own_find_their_family():
    sizes = dict(layers=2, width=32, heads=4, max_length=64, vocab_size=100)
    assert set(presets.FAMILIES) == set(families.FAMILIES)
    for preset in presets.FAMILIES:
        fields = {**sizes, **presets.family(preset)}
        if wordless({"text_layers": 0, "head": "", "image_size": 0, **fields}):
            fields["vocab_size"] = 0
        assert families.differences(families.get(preset, ""), fields) == [], preset
    for preset in ("gpt2", "llama", "gemma2", "roberta"):
        assert families.choose({**sizes, **presets.family(preset)}).model_type == preset


def test_lineage_is_in_the_card_without_paths_of_a_disk(tmp_path):
    chain = [{"workdir": "/home/somebody/runs/mine", "step": 7, "fingerprint": "abc", "run_id": "x"}]
    summary = {
        "best_step": 7,
        "tokens_to_best": 10,
        "train_tokens": 20,
        "seed": 0,
        "before": {},
        "after": {"test/nll": 1.5},
    }
    export.to_folder(exported(chain=chain), tmp_path / "out", dtype="float32", summary=summary)
    text = (tmp_path / "out/README.md").read_text()
    assert "| `mine` | 7 | `abc` |" in text and "somebody" not in text and "| test/nll | - | 1.5 |" in text
    assert pretrained.find(f"hf:{tmp_path / 'out'}", "--run").family.model_type == "llama"


def test_the_normalization_of_pixels_goes_along(tmp_path):
    """In preprocessor_config.json, where transformers has it, and where theirs is read."""
    fields = {
        **presets.family("vit"),
        "vocab_size": 0,
        "layers": 1,
        "width": 16,
        "heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    fields |= {"max_length": 5, "classes": 3, "pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.2,)}
    export.to_folder(exported(fields), tmp_path / "vit", dtype="float32")
    written = json.loads((tmp_path / "vit/preprocessor_config.json").read_text())
    assert written["image_mean"] == [0.485, 0.456, 0.406] and written["image_std"] == [0.2] * 3
    assert written["size"] == {"height": 16, "width": 16} and written["do_normalize"]
    found = pretrained.find(f"hf:{tmp_path / 'vit'}", "--run")
    assert found.fields["pixel_mean"] == (0.485, 0.456, 0.406) and found.fields["pixel_std"] == (0.2,)
    written["image_mean"] = [0.1, 0.2, 0.3]
    for changes, mean, std in (({}, (0.1, 0.2, 0.3), (0.2,)), ({"do_normalize": False}, (0.0,), (1.0,))):
        (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(written | changes))
        found = pretrained.find(f"hf:{tmp_path / 'vit'}", "--run")
        assert found.fields["pixel_mean"] == mean and found.fields["pixel_std"] == std
    assert found.config.data.images.size == 16 and found.config.data.length == 5


@pytest.mark.parametrize("fields", [small.CLIP, small.SIGLIP], ids=["clip", "siglip"])
def test_texts_beside_images_are_written_as_captions_are(fields):
    """With the end behind them, padded as in training, and as many tokens as the tower reads; read by the library of the file alone."""
    import tokenizers

    causal = fields is small.CLIP
    for config, before, pad in (
        ({}, [], 256),
        ({"pad_token": "<pad>"}, [], 256 if causal else 258),
        ({"bos_token": "<s>", "add_bos_token": True, "model_max_length": 99}, [257], 256),
    ):
        written = exported(fields, tokenizer=small.bytes_with(**config))
        files = written.tokenizer_files()
        read = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
        assert read.encode("ab").ids == [*before, 97, 98, 256]
        settings, of_model = json.loads(files["tokenizer_config.json"]), written.config("float32")
        assert settings["model_max_length"] == 12 and read.token_to_id(settings["pad_token"]) == pad
        assert of_model["pad_token_id"] == of_model["text_config"]["pad_token_id"] == pad
        assert of_model["text_config"]["eos_token_id"] == 256
        assert settings["model_input_names"] == (["input_ids", "attention_mask"] if causal else ["input_ids"])


def test_texts_that_begin_with_their_end_are_no_clip(tmp_path):
    tokenizer = small.bytes_with(bos_token="<|endoftext|>", add_bos_token=True)
    with pytest.raises(UserError, match="texts begin with the token that ends them, number 256"):
        export.to_folder(exported(small.CLIP, tokenizer=tokenizer), tmp_path / "out", dtype="float32")
    assert not list(tmp_path.iterdir())
    assert exported(small.SIGLIP, tokenizer=tokenizer).config("float32")  # which reads the last position


@pytest.mark.heavy
def test_a_model_of_images_needs_no_tokenizer(tmp_path):
    from ptft_jax.verbs import export as verb

    fields = {
        **presets.family("vit"),
        "vocab_size": 0,
        "layers": 2,
        "width": 32,
        "heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    fields |= {"max_length": 5, "classes": 3}
    export.to_folder(exported(fields), tmp_path / "vit", dtype="float32")
    written = verb.model(f"hf:{tmp_path / 'vit'}", "hf", tmp_path / "again", dtype="float32")
    assert written["family"] == "vit" and written["logit_difference"] == 0.0
    assert not (tmp_path / "again/tokenizer.json").exists()
    with pytest.raises(UserError, match="model_type|vit"):
        verb.model(f"hf:{tmp_path / 'vit'}", "gguf", tmp_path / "vit.gguf", dtype="float32")
