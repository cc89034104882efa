"""config.json and GGUF metadata with absurd sizes: refused by the tensors' names and shapes, before anything is built."""

import json
import math

import gguf as library
import numpy as np
import pytest
from safetensors.numpy import save_file

from ptft_jax.errors import UserError
from ptft_jax.interop import config_reader, pretrained
from ptft_jax.model.transformer import Transformer
from tests.interop import gguf_models, small


class Read(Exception):
    """Weights would be read: everything was found to fit."""


def read(reference):
    def layout(path, shape):
        raise Read

    found = pretrained.find(reference, "--run")
    found.config.as_dict()
    found.parameters(layout)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each family of decoders, and BERT's."""
    root = tmp_path_factory.mktemp("sizes")
    for family in gguf_models.FAMILIES:
        config = gguf_models.config(family)
        (root / family).mkdir()
        save_file(gguf_models.tensors(config), root / family / "model.safetensors")
        (root / family / "config.json").write_text(json.dumps(config))
    small.folder(root / "bert", small.BERT)
    return root


FAMILIES = [*gguf_models.FAMILIES, "bert"]
SIZES = {
    "layers": ("num_hidden_layers", "n_layer"), "width": ("hidden_size", "n_embd"), "heads": ("num_attention_heads", "n_head"),
    "mlp": ("intermediate_size", "n_inner"), "vocabulary": ("vocab_size",), "head": ("head_dim",), "keys": ("num_key_value_heads",),
    "experts": ("num_experts", "num_local_experts"), "types": ("type_vocab_size",),
}  # fmt: skip
ABSURD = (10**6, 10_000_000, 2**31 - 1, 10**12, 10**30, 1e300, math.inf, math.nan, -1, 0, 1.5, "3", True, [], {}, [3])


@pytest.fixture
def nothing_is_built(monkeypatch):
    monkeypatch.setattr(Transformer, "shapes", lambda self: pytest.fail("built"))


@pytest.mark.parametrize("family", FAMILIES)
def test_absurd_sizes_are_refused_by_name(family, folders, tmp_path, nothing_is_built):
    good = json.loads((folders / family / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(folders / family / "model.safetensors")
    seen = 0
    for name in (name for names in SIZES.values() for name in names if good.get(name) is not None):
        for value in ABSURD:
            (tmp_path / "config.json").write_text(json.dumps({**good, name: value}))
            with pytest.raises(
                UserError, match=rf"config.json: {name} = .*(expected a whole number|does not describe these weights)"
            ):
                read(f"hf:{tmp_path}")
            seen += 1
    assert seen >= 4 * len(ABSURD)
    (tmp_path / "config.json").write_text(json.dumps(good))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox", "bert", "mixtral"])
def test_sizes_that_are_a_little_wrong_are_listed_tensor_by_tensor(family, folders, tmp_path):
    """One more or one less of each: an error that names the tensors or the field, as before."""
    good = json.loads((folders / family / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(folders / family / "model.safetensors")
    for name in (name for what in ("layers", "width", "mlp", "vocabulary") for name in SIZES[what] if good.get(name)):
        for value in (good[name] - 1, good[name] + 1):
            (tmp_path / "config.json").write_text(json.dumps({**good, name: value}))
            with pytest.raises(UserError):
                read(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps(good))
    with pytest.raises(Read):
        read(f"hf:{tmp_path}")


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_numbers_may_be_written_with_a_point(family, folders, tmp_path):
    good = json.loads((folders / family / "config.json").read_text())
    whole = {
        k: float(v) if k in {n for names in SIZES.values() for n in names} and v is not None else v
        for k, v in good.items()
    }
    (tmp_path / "model.safetensors").symlink_to(folders / family / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(whole))
    with pytest.raises(Read):
        read(f"hf:{tmp_path}")


OTHER = {
    "rms_norm_eps": (math.nan, 0, -1e-5, "1e-5", 1e-46), "rope_theta": (math.inf, 0, [1]), "tie_word_embeddings": ("yes", 2, math.nan),
    "attention_bias": ([], "no"), "layer_types": ([1], "full", [["full"]]), "max_position_embeddings": (0, 1e300, 2**31),
    "rope_scaling": ({"rope_type": "linear", "factor": math.nan}, {"rope_type": "longrope", "short_factor": ["x"], "long_factor": [1.0]}, 3),
    "hidden_act": (3, "geglu"), "model_type": (3, "lama", None), "architectures": ([3], "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_other_fields(name, folders, tmp_path, nothing_is_built):
    good = json.loads((folders / "llama" / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(folders / "llama" / "model.safetensors")
    for value in OTHER[name]:
        (tmp_path / "config.json").write_text(json.dumps({**good, name: value}))
        with pytest.raises(UserError, match="config.json|model_type .lama. is not supported"):
            read(f"hf:{tmp_path}")


def test_heads_that_leave_no_size_for_one(folders, tmp_path, nothing_is_built):
    good = json.loads((folders / "gpt2" / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(folders / "gpt2" / "model.safetensors")
    for changes in ({"n_head": 96}, {"n_embd": 3}, {"n_embd": 1, "n_head": 2}):
        (tmp_path / "config.json").write_text(json.dumps({**good, **changes}))
        with pytest.raises(UserError, match="config.json: model.width would be .*: expected a multiple of model.heads"):
            read(f"hf:{tmp_path}")


def test_sizes_by_hand():
    shapes = {"a": (4, 6), "b": (30,), "c": ()}
    config_reader.check_sizes(
        {"hidden_size": 30, "num_hidden_layers": 3, "vocab_size": 30, "sliding_window": 10**9, "n_layer": None},
        shapes,
        "x",
    )
    for name, value, words in (
        ("hidden_size", 31, "no tensor has an axis longer than 30"), ("num_experts", 4, "there are only 3 tensors"),
        ("vocab_size", 31, "no tensor has more than 30 numbers"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"x: config.json: {name} = {value}, but {words}"):
            config_reader.check_sizes({name: value}, shapes, "x")
    with pytest.raises(
        UserError, match="gguf:x: metadata .*: hidden_size = 1, but no tensor has an axis longer than 0"
    ):
        config_reader.check_sizes({"hidden_size": 1}, {}, "gguf:x")


KIND = library.GGUFValueType
GGUF = [
    (10_000_000, KIND.UINT32), (2**63, KIND.UINT64), (0, KIND.UINT32), (-1, KIND.INT32), (1.5, KIND.FLOAT32), (math.nan, KIND.FLOAT32),
    (math.inf, KIND.FLOAT32), (1e300, KIND.FLOAT64), ("3", KIND.STRING),
]  # fmt: skip


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "attention.head_count", "feed_forward_length"])
def test_gguf_metadata(key, tmp_path, nothing_is_built, monkeypatch):
    from tests.interop.gguf_models import raw_llama

    for number, (value, kind) in enumerate(GGUF):
        add = library.GGUFWriter.add_uint32

        def changed(self, name, given, value=value, kind=kind, add=add):
            return self.add_key_value(name, value, kind) if name == f"llama.{key}" else add(self, name, given)

        with monkeypatch.context() as patched:
            patched.setattr(library.GGUFWriter, "add_uint32", changed)
            raw_llama(tmp_path / f"{number}.gguf")
        with pytest.raises(UserError, match=f"llama.{key} = |metadata .by the names of config.json.: |: config.json: "):
            read(f"gguf:{tmp_path}/{number}.gguf")
    raw_llama(tmp_path / "good.gguf")
    assert np.isfinite(pretrained.find(f"gguf:{tmp_path}/good.gguf", "--run").fields["norm_eps"])
