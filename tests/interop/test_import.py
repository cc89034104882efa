"""Weights in: what fits is streamed where it belongs, what does not is refused with every reason."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from ptft_jax.errors import UserError
from ptft_jax.interop import pretrained
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import sharding
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from tests.interop import small


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small.folder(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture
def copy(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "copy")


def change(folder, **tensors):
    """Replaces tensors of the folder (None removes one)."""
    found = load_file(folder / "model.safetensors")
    found |= {k: v for k, v in tensors.items() if v is not None}
    save_file({k: v for k, v in found.items() if tensors.get(k, v) is not None}, folder / "model.safetensors")


def on_one(path, shape):
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def load(folder, **options):
    return pretrained.find(f"hf:{folder}", "--run", **options).parameters(on_one)


@pytest.mark.parametrize(
    "fields",
    [small.LLAMA, small.GPT2, pytest.param(small.MIXTRAL, marks=pytest.mark.heavy)],
    ids=["llama", "gpt2-fused", "experts"],
)
def test_every_leaf_lands_in_its_sharding_on_eight_devices(fields, tmp_path):
    folder = small.folder(tmp_path / "model", fields)
    found = pretrained.find(f"hf:{folder}", "--run")
    mesh = meshes.make(2, 4)
    by_path = sharding.of_params(small.params_of(fields), sharding.DEFAULT_RULES, mesh)
    params = flatten(found.parameters(lambda path, shape: by_path[path]))
    split = 0
    for path, array in flatten(small.params_of(fields)).items():
        np.testing.assert_array_equal(params[path], array, err_msg=path)
        assert params[path].sharding.is_equivalent_to(by_path[path], array.ndim), path
        split += params[path].sharding.spec != PartitionSpec()
    assert split > 5


def test_reads_only_the_rows_that_the_devices_hold(llama, monkeypatch):
    found = pretrained.find(f"hf:{llama}", "--run")
    sizes = {}
    read = found.archive.read

    def counted(name, index=()):
        array = read(name, index)
        sizes.setdefault(name, set()).add(array.shape)
        return array

    monkeypatch.setattr(found.archive, "read", counted)
    mesh = meshes.make(1, 8)
    by_path = sharding.of_params(small.params_of(small.LLAMA), sharding.DEFAULT_RULES, mesh)
    found.parameters(lambda path, shape: by_path.get(path, NamedSharding(mesh, PartitionSpec())))
    assert sizes["model.embed_tokens.weight"] == {(272 // 8, 32)}
    assert sizes["model.layers.0.mlp.up_proj.weight"] == {(48 // 8, 32)}


def test_bfloat16_files_and_bfloat16_parameters(tmp_path):
    from ptft_jax.interop import export

    exported = export.Exported(small.params_of(small.LLAMA), small.LLAMA, None, [])
    export.to_folder(exported, tmp_path / "half", dtype="bfloat16")
    found = pretrained.find(f"hf:{tmp_path / 'half'}", "--run")
    for dtype in ("float32", "bfloat16"):
        for path, array in flatten(found.parameters(on_one, dtype)).items():
            expected = flatten(small.params_of(small.LLAMA))[path].astype("bfloat16").astype(dtype)
            np.testing.assert_array_equal(array, expected, err_msg=path)


def test_names_of_bare_models_and_of_the_first_berts(tmp_path):
    """The first GPT-2's files have no "transformer." before their names; BERT's norms are called gamma and beta."""
    gpt2 = small.folder(tmp_path / "gpt2", small.GPT2)
    found = load_file(gpt2 / "model.safetensors")
    bare = {k.removeprefix("transformer."): v for k, v in found.items()}
    mask = np.tril(np.ones((1, 1, 64, 64), np.float32))
    save_file({**bare, "h.0.attn.bias": mask, "h.1.attn.bias": mask}, gpt2 / "model.safetensors")
    for path, array in flatten(load(gpt2)).items():
        np.testing.assert_array_equal(array, flatten(small.params_of(small.GPT2))[path])
    bert = small.folder(tmp_path / "bert", small.BERT)
    found = load_file(bert / "model.safetensors")
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in found.items()
    }
    assert old.keys() != found.keys()
    save_file(old, bert / "model.safetensors")
    for path, array in flatten(load(bert)).items():
        np.testing.assert_array_equal(array, flatten(small.params_of(small.BERT))[path])


def test_a_tied_head_in_the_file_must_be_the_embedding(copy):
    table = load_file(copy / "model.safetensors")["model.embed_tokens.weight"]
    change(copy, **{"lm_head.weight": table})
    load(copy)
    change(copy, **{"lm_head.weight": table + 1})
    with pytest.raises(UserError, match=r"untied +lm_head.weight differs from model.embed_tokens.weight"):
        load(copy)
    change(copy, **{"lm_head.weight": table, "model.embed_tokens.weight": None})
    np.testing.assert_array_equal(load(copy)["embed"]["tokens"]["embedding"], table)


def test_everything_that_does_not_fit_is_listed_at_once(copy):
    up = load_file(copy / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    change(
        copy,
        **{
            "model.norm.weight": None,
            "model.layers.1.mlp.up_proj.weight": up[:-1],
            "model.vision.weight": np.zeros(3, np.float32),
        },
    )
    with pytest.raises(UserError) as e:
        load(copy)
    message = str(e.value)
    assert "missing  model.norm.weight" in message and "unmapped model.vision.weight (3,)" in message
    assert "shape    model.layers.1.mlp.up_proj.weight (47, 32), expected (48, 32) for blocks/mlp/up/kernel" in message


def test_the_same_problem_in_many_layers_is_one_line(copy):
    small.edit(copy / "config.json", num_hidden_layers=12)
    with pytest.raises(UserError) as e:
        load(copy)
    lines = str(e.value).splitlines()
    assert "  missing  model.layers.*.mlp.up_proj.weight  * = 3, 4, 5, 6, 7, 8, 9, 10, 11" in lines and len(lines) == 11


def test_rules_leave_out_and_make_anew(copy):
    change(copy, **{"model.norm.weight": None, "model.vision.weight": np.zeros(3, np.float32)})
    params = load(copy, ignore=("model.vision.*",), fresh=("final_norm/.*",))
    assert set(flatten(small.params_of(small.LLAMA))) - set(flatten(params)) == {"final_norm/scale"}
    with pytest.raises(UserError, match=r"init.ignore: 'nothing' matches no tensor"):
        load(copy, ignore=("nothing",))
    with pytest.raises(UserError, match=r"init.fresh: 'nothing' matches no parameter"):
        load(copy, fresh=("nothing",))
    with pytest.raises(UserError, match="not a regular expression"):
        load(copy, ignore=("(",))


@pytest.mark.heavy
def test_several_files_with_an_index(llama, tmp_path):
    folder = small.folder(tmp_path / "sharded", shard_bytes=40_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    total = sum(a.nbytes for f in files for a in load_file(folder / f).values())
    assert index["metadata"]["total_size"] == total
    for path, array in flatten(load(folder)).items():
        np.testing.assert_array_equal(array, flatten(load(llama))[path])
    small.edit(folder / "model.safetensors.index.json", weight_map={**index["weight_map"], "model.ghost": files[0]})
    with pytest.raises(UserError, match="in no shard:\n  model.ghost"):
        load(folder)
    small.edit(folder / "model.safetensors.index.json", weight_map=index["weight_map"])
    (folder / files[1]).unlink()
    with pytest.raises(UserError, match=f"shards named by .* are missing:\n  {files[1]}"):
        load(folder)


def test_damaged_and_foreign_files(copy):
    data = (copy / "model.safetensors").read_bytes()
    for broken in (data[:-7], data[:5], b"", b"PK\x03\x04" + data[4:]):
        (copy / "model.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match="model.safetensors: not a whole safetensors file"):
            load(copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="the weights are pickles .*pytorch_model.bin.*convert them to safetensors"):
        load(copy)
    (copy / "pytorch_model.bin").unlink()
    (copy / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"neither model.safetensors nor .*; there are weights.safetensors"):
        load(copy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "lama"}, r"model_type 'lama' is not supported, only .* \(did you mean 'llama'\?\)"),
        ({"model_type": "gpt2"}, "config.json has no 'n_embd'"),
        ({"hidden_size": None}, "config.json has no 'hidden_size'"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish' is not supported"),
        ({"rope_parameters": {"rope_type": "magic", "rope_theta": 1.0}}, "rope_type = 'magic' is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_type 'llama3' lacks factor, low_freq_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
        ({"num_hidden_layers": 4}, "missing  model.layers.3.input_layernorm.weight"),
        ({"num_hidden_layers": 2}, "unmapped model.layers.2"),
        ({"vocab_size": 300}, r"embed_tokens.weight \(272, 32\), expected \(300, 32\)"),
        ({"layer_types": ["full_attention"]}, "layer_types: 1 entries for 3 layers"),
        ({"layer_types": ["chunked"] * 3}, "layer_types: 'chunked' is not supported"),
    ],
    ids=str,
)  # fmt: skip
def test_configs_that_do_not_fit(copy, fields, message):
    small.edit(copy / "config.json", **fields)
    with pytest.raises(UserError, match=message):
        load(copy)


def test_references_that_name_nothing(copy, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--run = 'hf:.*cop': no such folder \(did you mean 'copy'\?\)"):
        load(tmp_path / "cop")
    with pytest.raises(UserError, match="is a file, not a folder"):
        load(copy / "config.json")
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not JSON"):
        load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config.json in"):
        load(copy)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'hf:someone/model': no such folder, and the hub could not give it"):
        load("someone/model")


def test_a_tokenizer_with_more_tokens_than_embeddings(copy):
    words = json.loads((copy / "tokenizer.json").read_text())
    words["added_tokens"] += [{**words["added_tokens"][0], "id": 257 + i, "content": f"<new {i}>"} for i in range(20)]
    (copy / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="embeddings for 272 tokens, but the tokenizer .* has ids up to 276"):
        loading.load(f"hf:{copy}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads = 0: expected a whole number above 0"),
        ({"hidden_size": "32"}, "hidden_size = '32': expected a whole number above 0"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps = 'x': expected a number above 0"),
        ({"model_type": ["llama"]}, r"model_type = \['llama'\]: expected a text"),
        ({"layer_types": 3}, "layer_types = 3: expected a list"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "rope_parameters.factor = 0: expected a number above 0"),
        ({"quantization_config": [1]}, r"quantization_config = \[1\]: expected a table"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported for llama"),
        ({"layer_types": ["sliding_attention"] * 3, "sliding_window": 8}, "other than full_attention are not supported"),
    ],
    ids=str,
)  # fmt: skip
def test_config_fields_of_the_wrong_kind(copy, fields, message):
    small.edit(copy / "config.json", **fields)
    with pytest.raises(UserError, match=f"config.json: .*{message}"):
        load(copy)


def test_values_that_the_dtype_cannot_hold_and_files_outside(copy, tmp_path):
    change(copy, **{"model.norm.weight": np.full(32, 1e300)})
    with pytest.raises(UserError, match="model.norm.weight has values that float32 cannot hold"):
        load(copy)
    folder = small.folder(tmp_path / "sharded", shard_bytes=40_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for strange in ("../copy/model.safetensors", 3):
        small.edit(folder / "model.safetensors.index.json", weight_map={**index, "model.norm.weight": strange})
        with pytest.raises(UserError, match="is not the name of a file in this folder"):
            load(folder)


LLAMA_31 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "vocab_size": 128256,
}  # fmt: skip
PHI_3_128K = {
    "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"}, "rope_theta": 10000.0,
    "sliding_window": 262144, "tie_word_embeddings": False, "vocab_size": 32064,
}  # fmt: skip
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None, "head_dim": 256,
    "final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
    "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA_31, dict(rope_scaling=(("kind", "llama3"), ("factor", 8.0), ("low_freq_factor", 1.0),
            ("high_freq_factor", 4.0), ("original", 8192)), rope_theta=5e5, head_dim=128, window=0)),
        (PHI_3_128K, dict(window=262144, head_dim=96, max_length=131072)),
        (GEMMA_3_1B, dict(window=512, layer_kinds=("sliding",) * 5 + ("full",), rope_theta=1e6, rope_local_theta=1e4,
            tied=True, attention_scale=1 / 16, logit_cap=0.0, attention_cap=0.0, activation="gelu_tanh")),
    ],
    ids=["llama 3.1", "phi-3 128k", "gemma 3 1b"],
)  # fmt: skip
def test_configs_as_the_hub_has_them(config, expected):
    """In the form of their day, before `rope_parameters`."""
    from ptft_jax.interop import families

    _, model = families.read(config, "test")
    assert {name: model[name] for name in expected} == expected
    if config is PHI_3_128K:  # sqrt(1 + log(131072 / 4096) / log(4096)), Ding et al. 2024
        assert dict(model["rope_scaling"])["attention_factor"] == pytest.approx(1.190238, abs=1e-6)


def test_a_new_head_may_lack_parts_of_the_old_one(tmp_path):
    fields = {**small.BERT, "head": "classes", "classes": 3, "class_hidden": True}
    reference = f"hf:{small.folder(tmp_path / 'bert', fields)}"
    parent = pretrained.find(reference, "init.from", fresh=("head/.*",))
    found = flatten(parent.parameters(on_one, "float32", class_hidden=False, classes=2))
    before = {p: a for p, a in flatten(small.params_of(fields)).items() if not p.startswith("head/")}
    assert found.keys() == before.keys()
    for path, array in before.items():
        np.testing.assert_array_equal(found[path], array, path)
