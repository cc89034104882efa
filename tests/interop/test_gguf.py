"""GGUF files: values, names and configs against the gguf library, the converter's formulas and transformers' loader."""

import struct

import gguf as library
import ml_dtypes
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.interop import families, gguf, gguf_config, gguf_layout, gguf_writer
from tests.interop import gguf_models

Q = library.GGMLQuantizationType


def write(path, family="llama", dtype="F32", tokenizer=None, **changes):
    """Writes a small model and returns its (config, tensors)."""
    config = gguf_models.config(family) | changes
    tensors = gguf_models.tensors(config)
    gguf_writer.write(path, config, tensors.items(), tokenizer or {}, dtype=dtype)
    return config, tensors


def raw_llama(path, kinds=(), drop=(), meta=(), extra=(), layers=1, **writer):
    """A Llama file by the library alone. `kinds`: GGUF name -> (quantised bytes, type); the rest is random float32."""
    rng = np.random.default_rng(3)
    out = library.GGUFWriter(path, "llama", **writer)
    keys = {"context_length": 64, "embedding_length": 256, "feed_forward_length": 512, "block_count": layers}
    keys |= {"attention.head_count": 4, "attention.head_count_kv": 2}
    for key, value in (keys | dict(meta)).items():
        if value is not None:
            out.add_uint32(key if "." in key and key.startswith("split") else f"llama.{key}", value)
    out.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    shapes = {"token_embd": (32, 256), "output_norm": (256,)}
    for i in range(layers):
        block = {"attn_norm": (256,), "ffn_norm": (256,), "attn_q": (256, 256), "attn_k": (128, 256)}
        block |= {"attn_v": (128, 256), "attn_output": (256, 256), "ffn_gate": (512, 256), "ffn_up": (512, 256)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in (block | {"ffn_down": (256, 512)}).items()}
    arrays = {}
    for name, shape in (shapes | dict(extra)).items():
        if f"{name}.weight" in drop:
            continue
        arrays[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        if name in dict(kinds):
            data, kind = dict(kinds)[name]
            out.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        else:
            out.add_tensor(f"{name}.weight", arrays[f"{name}.weight"])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return arrays


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


def test_only_the_rows_asked_for_are_dequantised(tmp_path, monkeypatch):
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
def test_quantised_tensors(tmp_path, kind):
    kind = Q[kind]
    block, size = library.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (256, 256 // block, size), dtype=np.uint8)
    data[..., :2] = data[..., -2:] = np.float16([0.01]).view(np.uint8)  # scales, first or last in a block
    data[..., 2:4] = data[..., -4:-2] = np.float16([-0.02]).view(np.uint8)
    data = data.reshape(256, -1)
    raw_llama(tmp_path / "m.gguf", {"blk.0.attn_q": (data, kind), "blk.0.attn_output": (data, kind)})
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


class TestBadFiles:
    def refused(self, path, match):
        with pytest.raises(UserError, match=match) as e:
            gguf.open_archive(str(path))
        return str(e.value)

    def test_names(self, tmp_path):
        self.refused(tmp_path / "none.gguf", "no such file")
        self.refused("smollm", "did you mean 'smollm2'")
        raw_llama(tmp_path / "m.gguf")
        archive = gguf.open_archive(str(tmp_path / "m.gguf"))
        with pytest.raises(UserError, match=r"q_proj.weights \(did you mean 'model.layers.0.self_attn.q_proj.weight'"):
            archive.read("model.layers.0.self_attn.q_proj.weights")

    def test_foreign(self, tmp_path):
        for content in (b"", b"GG", b"PK\3\4" + bytes(100), b"GGUF", b"GGUF" + struct.pack("<I", 1) + bytes(64)):
            (tmp_path / "m.gguf").write_bytes(content)
            self.refused(tmp_path / "m.gguf", "not a GGUF file|truncated or damaged")

    def test_big_endian(self, tmp_path):
        raw_llama(tmp_path / "m.gguf", endianess=library.GGUFEndian.BIG)
        self.refused(tmp_path / "m.gguf", "big-endian")

    def test_truncated_anywhere(self, tmp_path):
        write(tmp_path / "whole.gguf")
        content = (tmp_path / "whole.gguf").read_bytes()
        for size in [*range(8, 2000, 97), len(content) // 2, len(content) - 64]:
            (tmp_path / "m.gguf").write_bytes(content[:size])
            self.refused(tmp_path / "m.gguf", "truncated or damaged")

    def test_tensors(self, tmp_path):
        path = tmp_path / "m.gguf"
        raw_llama(path, drop=["blk.0.ffn_up.weight", "token_embd.weight"])
        self.refused(path, "no tensor token_embd.weight")
        raw_llama(path, drop=["blk.0.ffn_up.weight"])
        self.refused(path, r"missing tensors:\n  blk.0.ffn_up.weight$")
        raw_llama(path, extra={"blk.0.attn_gate": (4,), "blk.1.attn_norm": (256,)}.items())
        self.refused(path, r"a llama does not have:\n  blk.0.attn_gate.weight\n  blk.1.attn_norm.weight$")
        raw_llama(path)
        content = path.read_bytes()
        assert content.count(b"blk.0.attn_v.weight") == 1
        path.write_bytes(content.replace(b"blk.0.attn_v.weight", b"blk.0.attn_k.weight"))
        self.refused(path, "duplicated tensor with name blk.0.attn_k.weight")

    def test_quantisation(self, tmp_path):
        size = library.GGML_QUANT_SIZES[Q.Q8_K][1]
        data = np.zeros((128, size), np.uint8)
        raw_llama(tmp_path / "m.gguf", {"blk.0.attn_k": (data, Q.Q8_K)})
        self.refused(tmp_path / "m.gguf", r"cannot turn to numbers:\n  blk.0.attn_k.weight: Q8_K$")

    def test_metadata(self, tmp_path):
        path = tmp_path / "m.gguf"
        raw_llama(path, meta={"block_count": None}.items())
        self.refused(path, "no metadata key llama.block_count")
        raw_llama(path, meta={"split.count": 3}.items())
        self.refused(path, "one of 3 parts")
        raw_llama(path)
        path.write_bytes(path.read_bytes().replace(b"llama", b"lamma"))
        self.refused(
            path, r"architecture 'lamma' is not supported \(did you mean 'llama'\?\); supported: llama, smollm3"
        )
        raw_llama(path, extra={"rope_freqs": (32,)}.items())
        self.refused(path, "rope_freqs.weight: these factors follow no Llama 3 rule")


class TestBadModels:
    def refused(self, tmp_path, match, family="llama", dtype="F32", edit=None, **changes):
        config = gguf_models.config(family) | changes
        tensors = list(gguf_models.tensors(config).items())
        if edit:
            tensors = edit(tensors)
        with pytest.raises(UserError, match=match):
            gguf_writer.write(tmp_path / "m.gguf", config, tensors, {}, dtype=dtype)
        assert list(tmp_path.iterdir()) == []

    def test_tensors(self, tmp_path):
        self.refused(
            tmp_path,
            r"missing tensors:\n  lm_head.weight$",
            edit=lambda ts: [t for t in ts if t[0] != "lm_head.weight"],
        )
        self.refused(
            tmp_path,
            r"missing tensors:\n  model.layers.2.block_sparse_moe.experts.3.w2.weight$",
            "mixtral",
            edit=lambda ts: [t for t in ts if "2.block_sparse_moe.experts.3.w2" not in t[0]],
        )
        self.refused(
            tmp_path,
            "tensor model.layers.9.x: a llama has no such",
            edit=lambda ts: [*ts, ("model.layers.9.x", np.zeros(3))],
        )
        self.refused(tmp_path, "given twice", edit=lambda ts: [*ts, ts[0]])
        self.refused(
            tmp_path,
            "head is tied",
            tie_word_embeddings=True,
            edit=lambda ts: [*ts, ("lm_head.weight", np.zeros((96, 64)))],
        )
        self.refused(
            tmp_path, "rows are not 4 heads", edit=lambda ts: [(n, a[:63] if "q_proj" in n else a) for n, a in ts]
        )

    def test_dtype(self, tmp_path):
        self.refused(tmp_path, "did you mean 'Q8_0'", dtype="Q4_0")
        self.refused(tmp_path, "multiple of 32 numbers, not 48", dtype="Q8_0", hidden_size=48)
        self.refused(tmp_path, "beyond F16; choose BF16", dtype="F16", edit=lambda ts: [(n, a * 1e5) for n, a in ts])

    def test_config(self, tmp_path):
        with pytest.raises(
            UserError,
            match="model_type = 'gemma4' has no GGUF form here .did you mean 'gemma'.*; known: llama, mistral",
        ):
            gguf_writer.write(tmp_path / "m.gguf", {"model_type": "gemma4"}, [], {})
        self.refused(tmp_path, "no 'rms_norm_eps'", rms_norm_eps=None)
        self.refused(tmp_path, "only mean the activation silu, not gelu", hidden_act="gelu")
        self.refused(tmp_path, "rope scaling 'dynamic'", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
        self.refused(tmp_path, "use_sliding_window", "qwen2", use_sliding_window=True)
        self.refused(tmp_path, "norm_topk_prob", "qwen3_moe", norm_topk_prob=False)
        self.refused(tmp_path, "always has a cap", "gemma2", attn_logit_softcapping=None)
        self.refused(tmp_path, "every second layer", "gemma2", layer_types=["full_attention"] * 3)
        kinds = ["full_attention", "sliding_attention", *["full_attention"] * 5]
        self.refused(tmp_path, "layer_types", "gemma3_text", layer_types=kinds)
        self.refused(tmp_path, "no_rope_layers", "smollm3", no_rope_layers=[1, 1, 1, 1])


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
