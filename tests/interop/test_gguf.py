"""GGUF files: values, names and configs against the gguf library, the converter's formulas and transformers' loader."""

import gguf as library
import ml_dtypes
import numpy as np
import pytest

from ptft_jax.interop import families, gguf, gguf_config, gguf_layout, gguf_writer
from tests.interop import gguf_models

Q = library.GGMLQuantizationType


def write(path, family="llama", dtype="F32", tokenizer=None, **changes):
    """Writes a small model and returns its (config, tensors)."""
    config = gguf_models.config(family) | changes
    tensors = gguf_models.tensors(config)
    gguf_writer.write(path, config, tensors.items(), tokenizer or {}, dtype=dtype)
    return config, tensors


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family", gguf_models.FAMILIES)
def test_reading_back_gives_the_model(tmp_path, family, dtype):
    config, tensors = write(tmp_path / "m.gguf", family, dtype)
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    assert archive.reference == f"gguf:{tmp_path / 'm.gguf'}"
    assert archive.shapes() == {name: array.shape for name, array in tensors.items()}
    for name, array in tensors.items():
        found = archive.read(name)
        assert found.dtype == archive.dtype(name)
        if dtype == "F16":  # the values are bfloat16's: float16 rounds the smallest
            array = array if found.dtype == np.float32 else array.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found.astype(np.float32), array, err_msg=name)
    matrix = next(
        name for name in tensors if "down_proj" in name or "c_fc" in name or "4h_to_h" in name or ".w2." in name
    )
    assert archive.dtype(matrix) == {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]
    # What our own model makes of both configs is the same, so nothing it reads was lost.
    assert families.read(archive.config, "there")[1] == families.read(config, "here")[1]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert archive.config[key] is None  # they are the tokenizer's, and this file has none


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gemma2", "gpt2", "gpt_neox"])
def test_a_slice_is_the_slice_of_the_whole(tmp_path, family):
    write(tmp_path / "m.gguf", family, "Q8_0")
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    for name, shape in archive.shapes().items():
        whole = archive.read(name)
        rows = [(slice(3, 17),), (slice(None, None, 5),), (slice(-4, None),), (slice(0, 0),)]
        for index in rows + ([(slice(2, 9), slice(1, 30, 3)), (slice(None), slice(40, 8))] if len(shape) == 2 else []):
            np.testing.assert_array_equal(archive.read(name, index), whole[index], err_msg=f"{name} {index}")


def test_only_the_rows_asked_for_are_dequantized(tmp_path, monkeypatch):
    write(tmp_path / "m.gguf", "llama", "Q8_0")
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    sizes = []
    whole = library.quants.dequantize
    monkeypatch.setattr(library.quants, "dequantize", lambda data, kind: sizes.append(data.shape) or whole(data, kind))
    archive.read("model.layers.0.self_attn.q_proj.weight", (slice(5, 8),))
    assert sizes == [(3, 64 // 32 * 34)]


def test_stored_values_follow_the_converter(tmp_path):
    """llama.cpp's convert_hf_to_gguf.py, family by family, written down again."""

    def stored(family):
        config, tensors = write(tmp_path / f"{family}.gguf", family)
        reader = library.GGUFReader(tmp_path / f"{family}.gguf")
        assert (
            reader.get_field("general.architecture").contents() == gguf_layout.layout(config["model_type"]).architecture
        )
        return tensors, {t.name: t.data for t in reader.tensors}

    def permuted(w, heads):  # LlamaModel.permute
        return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

    tensors, found = stored("llama-bias")
    for suffix in ("weight", "bias"):
        for part, heads in {"q": 4, "k": 2}.items():
            wanted = permuted(tensors[f"model.layers.1.self_attn.{part}_proj.{suffix}"], heads)
            np.testing.assert_array_equal(found[f"blk.1.attn_{part}.{suffix}"], wanted)
    np.testing.assert_array_equal(found["blk.1.attn_v.weight"], tensors["model.layers.1.self_attn.v_proj.weight"])

    tensors, found = stored("mixtral")
    for w, part in {"w1": "gate", "w2": "down", "w3": "up"}.items():
        names = [f"model.layers.2.block_sparse_moe.experts.{e}.{w}.weight" for e in range(4)]
        np.testing.assert_array_equal(found[f"blk.2.ffn_{part}_exps.weight"], np.stack([tensors[n] for n in names]))

    tensors, found = stored("gemma3_text")
    wanted = tensors["model.layers.0.self_attn.q_norm.weight"] + 1
    np.testing.assert_array_equal(found["blk.0.attn_q_norm.weight"], wanted)
    np.testing.assert_array_equal(found["output_norm.weight"], tensors["model.norm.weight"] + 1)

    tensors, found = stored("gpt2")
    np.testing.assert_array_equal(found["blk.0.attn_qkv.weight"], tensors["transformer.h.0.attn.c_attn.weight"].T)
    np.testing.assert_array_equal(found["blk.0.ffn_down.weight"], tensors["transformer.h.0.mlp.c_proj.weight"].T)

    tensors, found = stored("gpt_neox")
    fused = tensors["gpt_neox.layers.0.attention.query_key_value.weight"].reshape(4, 3, 16, 64)
    wanted = np.concatenate([fused[:, part].reshape(-1, 64) for part in range(3)])
    np.testing.assert_array_equal(found["blk.0.attn_qkv.weight"], wanted)

    tensors, found = stored("qwen2")  # not permuted
    np.testing.assert_array_equal(found["blk.0.attn_q.bias"], tensors["model.layers.0.self_attn.q_proj.bias"])


@pytest.mark.parametrize("model_type", gguf_layout.layouts())
def test_names_are_those_of_the_library(model_type):
    layout = gguf_layout.layout(model_type)
    arch = next(key for key, name in library.MODEL_ARCH_NAMES.items() if name == layout.architecture)
    names = library.get_tensor_name_map(arch, 3)
    for theirs, module in layout.modules.items():
        merged = theirs.replace(".{expert}", "").format(layer=2)
        assert names.get_name(merged) == module.format(layer=2)


@pytest.mark.parametrize(
    "kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]
)
def test_quantized_tensors(tmp_path, kind):
    kind = Q[kind]
    block, size = library.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (256, 256 // block, size), dtype=np.uint8)
    data[..., :2] = data[..., -2:] = np.float16([0.01]).view(np.uint8)  # scales, first or last in a block
    data[..., 2:4] = data[..., -4:-2] = np.float16([-0.02]).view(np.uint8)
    data = data.reshape(256, -1)
    gguf_models.raw_llama(tmp_path / "m.gguf", {"blk.0.attn_q": (data, kind), "blk.0.attn_output": (data, kind)})
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    whole = library.quants.dequantize(data, kind)
    assert np.isfinite(whole).all() and whole.std() > 0
    name = "model.layers.0.self_attn.o_proj.weight"
    assert archive.dtype(name) == np.float32
    np.testing.assert_array_equal(archive.read(name), whole)
    np.testing.assert_array_equal(archive.read(name, (slice(10, 200, 7), slice(30, 90))), whole[10:200:7, 30:90])
    halves = whole.reshape(4, 32, 2, 256).swapaxes(1, 2).reshape(256, 256)
    np.testing.assert_array_equal(archive.read("model.layers.0.self_attn.q_proj.weight"), halves)


def q8_0(data):
    """The specification's decoder: blocks of a float16 scale and 32 int8."""
    blocks = data.reshape(-1, 34)
    return (blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 2:].view(np.int8)).reshape(
        len(data), -1
    )


def test_q8_0_of_the_writer(tmp_path):
    _, tensors = write(tmp_path / "m.gguf", "qwen3", "Q8_0")
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    name = "model.layers.0.mlp.up_proj.weight"
    found, wanted = archive.read(name), tensors[name]
    stored = {t.name: t.data for t in library.GGUFReader(tmp_path / "m.gguf").tensors}
    np.testing.assert_array_equal(found, q8_0(stored["blk.0.ffn_up.weight"]))
    # Rounding to 1/127 of the largest of 32 numbers, with a scale rounded to float16.
    largest = np.abs(wanted.reshape(-1, 32)).max(1).repeat(32).reshape(wanted.shape)
    assert (np.abs(found - wanted) <= largest * (0.5 / 127 + 2**-11)).all()
    assert (found != wanted).any()


@pytest.mark.parametrize(
    ("head_dim", "theta", "rule"), [(64, 5e5, (32.0, 1.0, 4.0, 8192)), (128, 5e5, (8.0, 1.0, 4.0, 8192))]
)
def test_llama_3_scaling_is_read_from_its_factors(head_dim, theta, rule):
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    scaling = dict(zip(keys, rule))
    factors = gguf_config.llama3_factors(scaling, theta, head_dim)
    found = gguf_config.llama3_scaling(factors, theta, head_dim, None)
    assert {key: found[key] for key in keys} == scaling
    # Of another rule only the frequencies are certain: they are the same.
    scaling = dict(zip(keys, (16.0, 2.0, 6.0, 4000)))
    factors = gguf_config.llama3_factors(scaling, theta, head_dim)
    found = gguf_config.llama3_scaling(factors, theta, head_dim, None)
    assert found["low_freq_factor"] == 1.0
    np.testing.assert_allclose(gguf_config.llama3_factors(found, theta, head_dim), factors, rtol=1e-3)
    with pytest.raises(ValueError, match="no Llama 3 rule"):
        gguf_config.llama3_scaling(np.linspace(1, 8, head_dim // 2), theta, head_dim, None)


@pytest.mark.parametrize("name", gguf_models.FAMILIES)
def test_configs_of_our_own_export(tmp_path, name):
    """What our models are exported with says all that a file needs."""
    config = gguf_models.config(name)
    family, model = families.read(config, "here")
    written = families.write(family, model)
    gguf_writer.write(tmp_path / "m.gguf", written, gguf_models.tensors(config).items(), {})
    assert families.read(gguf.open_archive(str(tmp_path / "m.gguf")).config, "there")[1] == model


def test_yarn_and_a_large_gemma(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0}
    write(tmp_path / "y.gguf", "qwen2", rope_scaling=yarn)
    assert gguf.open_archive(str(tmp_path / "y.gguf")).config["rope_scaling"] == yarn | {"type": "yarn"}
    # 46 layers are Gemma 2 27B, which readers know to scale queries by width / heads; here it is said outright.
    write(tmp_path / "g.gguf", "gemma2", num_hidden_layers=46, query_pre_attn_scalar=32)
    assert gguf.open_archive(str(tmp_path / "g.gguf")).config["query_pre_attn_scalar"] == 32


def test_a_head_that_is_the_embedding_is_tied_in_gpt2(tmp_path):
    config = gguf_models.config("gpt2") | {"tie_word_embeddings": False}
    tensors = gguf_models.tensors(config)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    gguf_writer.write(tmp_path / "m.gguf", config, tensors.items(), {})
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    assert archive.config["tie_word_embeddings"] and "lm_head.weight" not in archive.shapes()
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    gguf_writer.write(tmp_path / "m.gguf", config, tensors.items(), {})
    assert not gguf.open_archive(str(tmp_path / "m.gguf")).config["tie_word_embeddings"]


LOADABLE = [
    "llama",
    "llama-3",
    "llama-bias",
    "llama-linear",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt2",
]


@pytest.mark.live
@pytest.mark.parametrize("family", gguf_models.FAMILIES)
def test_against_transformers(tmp_path, family):
    """Files written here hold the model that transformers wrote: by its own GGUF loader, and by the config read back."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = gguf_models.torch_model(family, tmp_path / "hf")
    config, tensors = gguf_models.saved(tmp_path / "hf")
    gguf_writer.write(tmp_path / "m.gguf", config, tensors.items(), {})
    archive = gguf.open_archive(str(tmp_path / "m.gguf"))
    assert set(archive.shapes()) == set(tensors)
    for name, array in tensors.items():
        # Gemma's norms are stored with one added: as near as float32 has it.
        wanted = (
            (array + np.float32(1)) - np.float32(1) if "gemma" in family and name.endswith("norm.weight") else array
        )
        np.testing.assert_array_equal(archive.read(name), wanted, err_msg=name)
    ids = torch.tensor(np.random.default_rng(0).integers(3, 96, (2, 40)))
    with torch.no_grad():
        wanted = model(ids).logits
        settings = transformers.AutoConfig.for_model(**archive.config)
        again = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(ids).logits, wanted)
        if family in LOADABLE:
            # The loader reads less of the metadata than there is (no scaled rotary positions, say): it gets the config.
            options = {"gguf_file": "m.gguf", "config": model.config, "attn_implementation": "eager"}
            loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **options, dtype=torch.float32).eval()
            # Gemma's norms again: a part in 2^24 of them.
            assert torch.allclose(loaded(ids).logits, wanted, rtol=0, atol=1e-5 if "gemma" in family else 0)
