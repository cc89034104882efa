"""GGUF files that cannot be read and models that cannot be written: a message that names what is wrong, and no file."""

import struct

import gguf as library
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.interop import gguf, gguf_writer
from tests.interop import gguf_models
from tests.interop.gguf_models import raw_llama

Q = library.GGMLQuantizationType


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
        raw_llama(tmp_path / "whole.gguf")
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

    def test_quantization(self, tmp_path):
        size = library.GGML_QUANT_SIZES[Q.Q8_K][1]
        data = np.zeros((128, size), np.uint8)
        raw_llama(tmp_path / "m.gguf", {"blk.0.attn_k": (data, Q.Q8_K)})
        self.refused(tmp_path / "m.gguf", r"cannot turn to numbers:\n  blk.0.attn_k.weight: Q8_K$")

    def test_a_type_of_the_future(self, tmp_path):
        path = tmp_path / "m.gguf"
        raw_llama(path)
        content = bytearray(path.read_bytes())
        at = content.index(b"blk.0.attn_v.weight") + len(b"blk.0.attn_v.weight") + 4 + 2 * 8  # after count and sizes
        assert content[at : at + 4] == bytes(4)  # F32
        content[at] = 199
        path.write_bytes(content)
        self.refused(path, "of type 199, which the installed gguf library does not know")

    def test_metadata(self, tmp_path):
        path = tmp_path / "m.gguf"
        raw_llama(path, meta={"rope.dimension_count": 32}.items())
        self.refused(path, "rope.dimension_count: rotary positions in a part of a head")
        raw_llama(path, meta={"block_count": None}.items())
        self.refused(path, "no metadata key llama.block_count")
        raw_llama(path, meta={"block_count": 4_000_000_000}.items())
        self.refused(path, "block_count = 4000000000, of 11 tensors")
        raw_llama(path, meta={"attention.head_count": 0}.items())
        self.refused(path, "attention.head_count = 0")
        raw_llama(path, meta={"expert_count": 8, "expert_used_count": 2}.items())
        self.refused(path, "8 experts, but no tensor")
        raw_llama(
            path,
            meta={"expert_count": 8, "expert_used_count": 2}.items(),
            extra={"blk.0.ffn_up_exps": (7, 4, 4)}.items(),
        )
        self.refused(path, "blk.0.ffn_up_exps.weight: not a stack of 8 experts")
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
