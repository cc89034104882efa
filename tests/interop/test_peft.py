"""PEFT's format without PEFT: files written and read back, files made by hand, and everything that is refused."""

import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.adapters.adalora import AdaLora
from ptft_jax.adapters.base import is_added
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.gated_prefix import GATE, VECTORS, GatedPrefix
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.prefix import KEYS, VALUES, Prefix
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.adapters.vera import Vera
from ptft_jax.errors import UserError
from ptft_jax.interop import families, peft
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten

SIZES = dict(layers=2, width=16, heads=4, vocab_size=32, max_length=16)
ROTARY = dict(norm="rms", biases=(), positions="rotary", gated=True, activation="silu", kv_heads=2)
MODELS = {
    "gpt2": {},
    "gpt_neox": dict(positions="rotary", parallel=True, tied=False),
    "llama": dict(ROTARY, tied=False),
    "phi3": dict(ROTARY, tied=False),
    "mixtral": dict(ROTARY, tied=False, experts=2),
}
ROOT = "base_model.model."


def base_of(name, dtype=np.float32, method=None):
    """(parameters with random numbers, name map) of a small model of a family, with the method's leaves."""
    fields = families.canonical({**SIZES, **MODELS[name]})
    shapes = flatten(Transformer(ModelSpec(**fields), method).shapes())
    rng = np.random.default_rng(0)
    params = {
        p: rng.normal(size=a.shape).astype(a.dtype if a.dtype != np.float32 else dtype) for p, a in shapes.items()
    }
    return params, families.FAMILIES[name].tensors(fields)


def without(params):
    return unflatten({p: a for p, a in params.items() if not is_added(p)})


LAYERS = ("blocks/attention/(query|value|out)", "blocks/mlp/.*")
METHODS = {
    "lora": Lora(3, 5.0, False, 0.25, LAYERS),
    "rslora": Lora(3, 5.0, True, 0.0, LAYERS),
    "dora": Dora(3, 5.0, False, 0.0, LAYERS),
    "ia3": Ia3(("blocks/attention/(key|value)", "blocks/mlp/down")),
    "ia3 of outputs": Ia3(("blocks/attention/(query|value)", "blocks/mlp/down"), ()),
    "oft": Oft(4, ("blocks/attention/(query|key|value)", "blocks/mlp/.*")),
    "prompt": Prompt(5, "vocabulary"),
    "prefix": Prefix(5, 0),
    "lora of tables": Lora(3, 5.0, False, 0.0, ("embed/tokens", "blocks/mlp/down")),
}


FAMILIES = ("gpt2", "gpt_neox", "llama", "phi3")


# GPT-2 with these: below, what cannot be written.
@pytest.mark.parametrize(
    "kind, name", [(k, n) for k in METHODS for n in FAMILIES if n != "gpt2" or k not in ("oft", "lora of tables")]
)
def test_what_is_written_is_read_back(kind, name, tmp_path):
    """Of fused modules, the layers that are adapted come back with the rank they had; others with leaves of no effect."""
    method = METHODS[kind]
    params, names = base_of(name, method=method)
    if kind == "oft":  # a fused module has one input, and one rotation
        first = {path.rsplit("/", 3)[0]: a for path, a in params.items() if path.endswith(("query/adapter/skew", "up/adapter/skew"))}  # fmt: skip
        params |= {p: first[p.rsplit("/", 3)[0]] for p in params if p.endswith("/skew") and "down" not in p}
    peft.write(tmp_path, method, unflatten(params), names, base="x")
    read = peft.read(tmp_path, names, without(params))
    assert read.base == "x" and read.tune["method"] == kind.split()[0].replace("rs", "").replace("do", "lo")
    if kind in ("lora", "rslora", "dora"):
        section = read.tune["lora"]
        assert (section["rank"], section["dropout"]) == (3, method.dropout)
        assert section["alpha"] == pytest.approx(5.0, rel=1e-12)
        assert (section["rank_stabilized"], section["dora"]) == (kind == "rslora", kind == "dora")
    own, back = {p: a for p, a in params.items() if is_added(p)}, flatten(read.params)
    for path, array in own.items():
        np.testing.assert_array_equal(back.pop(path), array, err_msg=path)
    for path, array in back.items():  # layers that share a fused module with adapted ones
        kernel = params[path.split("/adapter/")[0] + "/kernel"]
        neutral = {"lora_b": 0.0, "scale": 1.0, "magnitude": np.linalg.norm(kernel, axis=-2)}
        if not path.endswith("lora_a"):
            expected = neutral[path.rsplit("/", 1)[-1]]
            np.testing.assert_allclose(array, np.broadcast_to(expected, array.shape), rtol=1e-6)
    shared = kind not in ("prompt", "prefix", "oft", "lora of tables") and name in ("gpt2", "gpt_neox", "phi3")
    assert bool(back) == shared


@pytest.mark.parametrize("layers", [1, 0])
def test_gated_prefixes_are_those_of_the_last_layers(layers, tmp_path):
    method = GatedPrefix(5, layers)
    params, names = base_of("llama", method=method)
    peft.write(tmp_path, method, unflatten(params), names, family="llama")
    config, tensors = json.loads((tmp_path / peft.CONFIG).read_text()), load_file(tmp_path / peft.WEIGHTS)
    chosen = range(2 - (layers or 2), 2)
    assert (config["adapter_len"], config["adapter_layers"]) == (5, len(chosen))
    assert {k.removeprefix(ROOT): a.shape for k, a in tensors.items()} == {
        f"model.layers.{i}.self_attn.adaption_{name}": shape
        for i in chosen
        for name, shape in (("prompt", (1, 5, 16)), ("gate", (1,)))
    }
    read = peft.read(tmp_path, names, without(params))
    assert read.tune == {"method": "gated_prefix", "gated_prefix": {"length": 5, "layers": layers}}
    for path in (VECTORS, GATE):
        expected = np.where(np.arange(2) >= chosen[0], params[path].T, 0).T
        np.testing.assert_array_equal(flatten(read.params)[path], expected)


def test_a_prefix_is_keys_then_values_of_each_layer(tmp_path):
    """[n, layer, key or value, head, size], as PEFT takes it apart."""
    params, names = base_of("llama")
    vectors = np.arange(5 * 2 * 2 * 8, dtype=np.float32).reshape(5, -1)
    config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": True}
    read = peft.read(make(tmp_path / "a", config, {"prompt_embeddings": vectors}), names, without(params))
    assert read.tune == {"method": "prefix", "prefix": {"length": 5, "reparametrise": 0}}
    for layer in range(2):
        for which, path in enumerate((KEYS, VALUES)):
            first = (2 * layer + which) * 8
            np.testing.assert_array_equal(flatten(read.params)[path][layer], vectors[:, first : first + 8])


def test_what_p_tuning_made_is_read_as_a_prompt(tmp_path):
    params, names = base_of("llama")
    config = {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "encoder_hidden_size": 7, "encoder_num_layers": 2}
    vectors = np.random.default_rng(0).normal(size=(5, 16))
    read = peft.read(make(tmp_path / "a", config, {"prompt_embeddings": vectors}), names, without(params))
    assert read.tune == {"method": "prompt", "prompt": {"length": 5, "init": "random"}}
    np.testing.assert_array_equal(flatten(read.params)["embed/adapter/prompt"], vectors.astype(np.float32))


TABLE = "model.embed_tokens"


def of_tied(folder, change=lambda config, tensors: None):
    """A folder with an adapter of the tokens of a tied llama, changed; with the base's parameters, names and ties."""
    fields = families.canonical({**SIZES, **ROTARY, "tied": True})
    shapes = flatten(Transformer(ModelSpec(**fields)).shapes())
    rng = np.random.default_rng(0)
    params = {p: rng.normal(size=a.shape).astype(np.float32) for p, a in shapes.items()}
    a, b = rng.normal(size=(2, 32)), rng.normal(size=(16, 2))
    config = {**LORA, "target_modules": ["embed_tokens", TABLE], "ensure_weight_tying": True}
    tensors = {f"{TABLE}.lora_embedding_A": a, f"{TABLE}.lora_embedding_B": b}
    tensors |= {"lm_head.lora_A.weight": b.T, "lm_head.lora_B.weight": a.T}
    tensors |= {
        f"{name}.base_layer.weight": params["embed/tokens/embedding"].astype(np.float16) for name in (TABLE, "lm_head")
    }
    tensors = {ROOT + key: array for key, array in tensors.items()}
    change(config, tensors)
    family = families.FAMILIES["llama"]
    return make(folder, config, tensors), params, family.tensors(fields), family.ties(fields)


def test_a_table_that_the_head_is_tied_to(tmp_path):
    """The head's factors are the table's, transposed; the tables themselves, which PEFT saves by default, are the base's."""
    folder, params, names, ties = of_tied(tmp_path / "a")
    read = peft.read(folder, names, unflatten(params), ties=ties)
    assert read.tune["lora"]["targets"] == ("embed/tokens",)
    saved = load_file(folder / peft.WEIGHTS)
    for leaf, x in (("lora_a", "A"), ("lora_b", "B")):
        theirs = saved[f"{ROOT}{TABLE}.lora_embedding_{x}"].T
        np.testing.assert_array_equal(flatten(read.params)[f"embed/tokens/adapter/{leaf}"], theirs)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), unflatten(params))
    again = peft.read(folder, names, shapes, ties=ties, arrays=lambda: unflatten(params))
    np.testing.assert_array_equal(
        flatten(again.params)["embed/tokens/adapter/lora_a"], flatten(read.params)["embed/tokens/adapter/lora_a"]
    )
    peft.write(tmp_path / "b", read.method, unflatten(params | flatten(read.params)), names, ties=ties)
    written = load_file(tmp_path / "b" / peft.WEIGHTS)
    assert written.keys() == {key for key in saved if "base_layer" not in key}
    for key, array in written.items():
        np.testing.assert_array_equal(array, saved[key])
    assert json.loads((tmp_path / "b" / peft.CONFIG).read_text())["ensure_weight_tying"] is True


def _moved(key):
    def change(config, tensors):
        tensors[ROOT + key] = tensors[ROOT + key] + tensors[ROOT + key].dtype.type(1)

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c, t: c.pop("ensure_weight_tying"), f"changes {TABLE} where tokens are looked up, and not the head"),
        (lambda c, t: t.pop(f"{ROOT}lm_head.lora_A.weight"), "lm_head.lora_A.weight is missing, or not the transposed"),
        (_moved("lm_head.lora_B.weight"), "lm_head.lora_B.weight is missing, or not the transposed factor of model.embed"),
        (_moved(f"{TABLE}.base_layer.weight"), f"{TABLE}.base_layer.weight is not the base's: .*merge_and_unload"),
        (lambda c, t: t.pop(f"{ROOT}{TABLE}.lora_embedding_B"), "(?s)of no layer of this model.*lm_head.lora_A"),
        (lambda c, t: c.update(r=3), rf"shape    {TABLE}.lora_embedding_A \(2, 32\), expected \(3, 32\)"),
        (lambda c, t: c.update(use_dora=True), "of embeddings and heads, LoRA alone is supported"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_bad_adapters_of_tables(change, words, tmp_path):
    folder, params, names, ties = of_tied(tmp_path / "a", change)
    with pytest.raises(UserError, match=words):
        peft.read(folder, names, unflatten(params), ties=ties)


def test_bfloat16_is_kept(tmp_path):
    method = METHODS["dora"]
    params, names = base_of("llama", ml_dtypes.bfloat16, method)
    peft.write(tmp_path, method, unflatten(params), names)
    saved = load_with_types(tmp_path)
    assert {a.dtype for p, a in saved.items() if "lora_A" in p} == {np.dtype(ml_dtypes.bfloat16)}
    back = flatten(peft.read(tmp_path, names, without(params)).params)
    for path, array in back.items():
        kernel = np.float32 if path.endswith("magnitude") else ml_dtypes.bfloat16
        assert array.dtype == kernel, path
        np.testing.assert_array_equal(array, params[path].astype(kernel))


def load_with_types(folder):
    from safetensors import safe_open

    with safe_open(folder / peft.WEIGHTS, framework="np") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}


def make(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / peft.CONFIG).write_text(json.dumps(config))
    kept = {k: v if np.asarray(v).dtype == np.float16 else np.asarray(v, np.float32) for k, v in tensors.items()}
    save_file({k: np.ascontiguousarray(v) for k, v in kept.items()}, folder / peft.WEIGHTS)
    return folder


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}


def q_proj(layers=(0, 1), rank=2, width=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{ROOT}model.layers.{i}.self_attn.q_proj.lora_{x}.weight": rng.normal(size=shape)
        for i in layers
        for x, shape in (("A", (rank, width)), ("B", (width, rank)))
    }


def test_a_file_made_by_hand(tmp_path):
    """W + alpha / r * B A in their layout, [out, in]."""
    params, names = base_of("llama")
    tensors = q_proj()
    read = peft.read(make(tmp_path / "a", LORA, tensors), names, without(params))
    assert read.tune["lora"] == {
        "rank": 2, "alpha": 6.0, "rank_stabilized": False, "dora": False, "dropout": 0.0,
        "targets": ("blocks/attention/query",),
    }  # fmt: skip
    merged = Lora(2, 6.0, False, 0.0, (".*",)).merge(unflatten({**params, **flatten(read.params)}))
    for i in range(2):
        a, b = (tensors[f"{ROOT}model.layers.{i}.self_attn.q_proj.lora_{x}.weight"] for x in "AB")
        expected = params["blocks/attention/query/kernel"][i].T + 3 * b @ a
        np.testing.assert_allclose(merged["blocks"]["attention"]["query"]["kernel"][i].T, expected, atol=1e-5)


def test_rows_of_a_fused_file_go_to_their_heads(tmp_path):
    """GPT-NeoX keeps query, key and value of each head together."""
    params, names = base_of("gpt_neox")
    rng = np.random.default_rng(1)
    key = ROOT + "gpt_neox.layers.{}.attention.query_key_value.lora_{}.weight"
    tensors = {key.format(i, x): rng.normal(size=s) for i in range(2) for x, s in (("A", (2, 16)), ("B", (48, 2)))}
    config = {**LORA, "target_modules": ["query_key_value"]}
    read = flatten(peft.read(make(tmp_path / "a", config, tensors), names, without(params)).params)
    for i in range(2):
        update = (tensors[key.format(i, "B")] @ tensors[key.format(i, "A")]).reshape(4, 3, 4, 16)  # head, qkv, size, in
        for j, ours in enumerate(("query", "key", "value")):
            path = f"blocks/attention/{ours}/adapter/"
            np.testing.assert_allclose(
                read[path + "lora_a"][i] @ read[path + "lora_b"][i], update[:, j].reshape(16, 16).T, atol=1e-5
            )


def test_ranks_scales_and_layers_of_their_own(tmp_path):
    """One rank and one scale of ours stand for all of theirs; a layer that is left out is left alone."""
    params, names = base_of("llama")
    tensors = {**q_proj((1,)), **{k.replace("q_proj", "k_proj")[: len(k)]: v for k, v in q_proj((1,), 3).items()}}
    tensors = {k: v[:8] if "k_proj.lora_B" in k else v for k, v in tensors.items()}  # two heads of keys
    config = {**LORA, "target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1], "lora_alpha": 4}
    config |= {"rank_pattern": {"k_proj": 3}, "alpha_pattern": {"self_attn.k_proj": 3.0}}
    read = peft.read(make(tmp_path / "a", config, tensors), names, without(params))
    flat, section = flatten(read.params), read.tune["lora"]
    assert section["rank"] == 3 and section["targets"] == ("blocks/attention/query", "blocks/attention/key")
    for ours, theirs, scale in (("query", "q_proj", 2.0), ("key", "k_proj", 1.0)):
        a, b = (tensors[f"{ROOT}model.layers.1.self_attn.{theirs}.lora_{x}.weight"] for x in "AB")
        mine_a, mine_b = (flat[f"blocks/attention/{ours}/adapter/lora_{x}"] for x in "ab")
        np.testing.assert_allclose(section["alpha"] / 3 * mine_a[1] @ mine_b[1], (scale * b @ a).T, atol=1e-5)
        assert not mine_a[0].any() and not mine_b[0].any()


def test_files_of_a_model_without_head_lack_its_prefix(tmp_path):
    params, names = base_of("llama")
    tensors = {k.replace("model.model.", "model."): v for k, v in q_proj().items()}
    config = {**LORA, "target_modules": ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]}
    bare = peft.read(make(tmp_path / "a", config, tensors), names, without(params), prefix="model.")
    whole = peft.read(make(tmp_path / "b", LORA, q_proj()), names, without(params), prefix="model.")
    for path, array in flatten(whole.params).items():
        np.testing.assert_array_equal(flatten(bare.params)[path], array)


@pytest.mark.parametrize(
    "target, layers",
    [
        (["q_proj"], [0, 1]), (["self_attn.q_proj"], [0, 1]), (["model.layers.1.self_attn.q_proj"], [1]),
        (r".*layers\.[0]\..*q_proj", [0]), (["proj"], None), (None, [1]),
    ],
)  # fmt: skip
def test_target_modules(target, layers, tmp_path):
    """What is selected must be in the file, and nothing else."""
    params, names = base_of("llama")
    config = {**LORA, "target_modules": target}
    for in_file in ([0], [1], [0, 1]):
        folder = make(tmp_path / "a", config, q_proj(in_file))
        if in_file == layers:
            assert flatten(peft.read(folder, names, without(params)).params)
        elif target is not None:
            with pytest.raises(UserError, match="does not hold the modules that adapter_config.json names"):
                peft.read(folder, names, without(params))


def _edit(**changes):
    return lambda folder: (folder / peft.CONFIG).write_text(json.dumps({**LORA, **changes}))


def _tensors(change):
    return lambda folder: save_file(change(load_file(folder / peft.WEIGHTS)), folder / peft.WEIGHTS)


def _renamed(old, new):
    return _tensors(lambda t: {k.replace(old, new): v for k, v in t.items()})


def _cut(folder):
    file = folder / peft.WEIGHTS
    file.write_bytes(file.read_bytes()[:-10])


def _pickle(folder):
    (folder / peft.WEIGHTS).rename(folder / "adapter_model.bin")


def _model(folder):
    (folder / peft.CONFIG).rename(folder / "config.json")


BAD = {
    "no config": (lambda f: (f / peft.CONFIG).unlink(), "no adapter_config.json in it"),
    "a model": (_model, "it holds a model, not an adapter"),
    "not JSON": (lambda f: (f / peft.CONFIG).write_text("{"), "adapter_config.json: not JSON"),
    "a list": (lambda f: (f / peft.CONFIG).write_text("[]"), "expected a table of fields"),
    "unknown type": (_edit(peft_type="LOAR"), "peft_type 'LOAR' is not supported, only LORA.*did you mean 'LORA'"),
    "no type": (_edit(peft_type=None), "peft_type None is not supported"),
    "modules_to_save": (_edit(modules_to_save=["lm_head"]), r"modules_to_save = \['lm_head'\]"),
    "bias": (_edit(bias="all"), "bias = 'all'"),
    "pissa": (_edit(init_lora_weights="pissa_niter_4"), "init_lora_weights = 'pissa_niter_4': .* base that its start"),
    "olora": (_edit(init_lora_weights="olora"), "init_lora_weights = 'olora'"),
    "other settings": (_edit(lora_bias=True, layer_replication=[[0, 2]]), r"(?s)no counterpart.*lora_bias.*layer_repl"),
    "no weights": (lambda f: (f / peft.WEIGHTS).unlink(), "no adapter_model.safetensors in it"),
    "a pickle": (_pickle, "adapter_model.bin: a pickle can run any code .*save_pretrained"),
    "cut off": (_cut, "not a whole safetensors file"),
    "empty": (_tensors(lambda t: {}), "missing  model.layers.0.self_attn.q_proj"),
    "unmapped": (_renamed("q_proj", "x_proj"), r"(?s)of no layer of this model:.*x_proj.lora_A.weight \(2, 16\)"),
    "embeddings": (_renamed("layers.0.self_attn.q_proj", "embed_tokens"), "of embeddings and heads, LoRA alone is supported"),
    "other leaves": (_renamed("lora_B", "lora_E"), "(?s)of no layer of this model.*lora_E"),
    "no lora_B": (_tensors(lambda t: {k: v for k, v in t.items() if "1.self_attn.q_proj.lora_B" not in k}), "missing  model.layers.1.self_attn.q_proj.lora_B.weight"),
    "another shape": (_tensors(lambda t: {k: v[:, :-1] if "lora_A" in k else v for k, v in t.items()}), r"shape    model.layers.0.self_attn.q_proj.lora_A.weight \(2, 15\), expected \(2, 16\)"),
    "another rank": (_edit(r=3), r"lora_A.weight \(2, 16\), expected \(3, 16\)"),
    "magnitudes missing": (_edit(use_dora=True), "missing  model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
    "magnitudes extra": (_tensors(lambda t: {**t, ROOT + "model.layers.0.self_attn.q_proj.lora_magnitude_vector": np.ones(16, np.float32)}), "extra    model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
    "alpha 0": (_edit(lora_alpha=0), "lora_alpha = 0 for model.layers.0.self_attn.q_proj: expected a number above 0"),
    "rank of text": (_edit(r="2"), "r = '2' for"),
    "a bad pattern": (_edit(target_modules="(q_proj"), r"'\(q_proj' is not a regular expression"),
    "a bad pattern of ranks": (_edit(rank_pattern={"(q": 2}), r"rank_pattern: '\(q' is not a regular expression"),
    "ranks in a list": (_edit(rank_pattern=[2]), r"rank_pattern = \[2\]: expected dict, got list"),
    "numbers for names": (_edit(target_modules=[1]), r"target_modules = \[1\]: expected a list of names"),
    "a module too few": (_edit(target_modules=["q_proj", "v_proj"]), "missing  model.layers.0.self_attn.v_proj"),
    "a module too many": (_edit(target_modules=["v_proj"]), "extra    model.layers.0.self_attn.q_proj, which target"),
    "excluded": (_edit(exclude_modules=["q_proj"]), "extra    model.layers.0.self_attn.q_proj"),
    "no IA3": (_edit(peft_type="IA3", r=0, lora_alpha=0), "of no layer of this model"),
    "no prompt": (_edit(peft_type="PROMPT_TUNING", r=0, lora_alpha=0, target_modules=None), r"(?s)missing  prompt_embeddings \(None, 16\).*extra    base_model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_adapters(name, tmp_path):
    params, names = base_of("llama")
    folder = make(tmp_path / "adapter", LORA, q_proj())
    peft.read(folder, names, without(params))
    spoil, words = BAD[name]
    spoil(folder)
    with pytest.raises(UserError, match=words):
        peft.read(folder, names, without(params), field="init.adapter")


def test_a_folder_that_is_not_there(tmp_path):
    make(tmp_path / "adapter", LORA, q_proj())
    with pytest.raises(UserError, match="init.adapter = '.*adaptr': no such folder .did you mean 'adapter'"):
        peft.read(tmp_path / "adaptr", [], {}, field="init.adapter")
    with pytest.raises(UserError, match="(?s)no adapter_config.json in it.*adapter"):
        peft.read(tmp_path, [], {}, field="init.adapter")


@pytest.mark.parametrize(
    "changes, shape, words",
    [
        (dict(num_virtual_tokens=4), (5, 16), r"\(5, 16\), expected \(4, 16\)"),
        ({}, (5, 8), r"\(5, 8\), expected \(5, 16\)"),
        (dict(num_transformer_submodules=2), (5, 16), "num_transformer_submodules = 2, not 1"),
    ],
    ids=str,
)
def test_bad_prompts(changes, shape, words, tmp_path):
    params, names = base_of("llama")
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, **changes}
    with pytest.raises(UserError, match=words):
        peft.read(make(tmp_path / "a", config, {"prompt_embeddings": np.ones(shape)}), names, without(params))


GATED = {"peft_type": "ADAPTION_PROMPT", "target_modules": "self_attn", "adapter_len": 5, "adapter_layers": 1}


@pytest.mark.parametrize(
    "changes, name, words",
    [
        (dict(adapter_len=0), "llama", "adapter_len = 0: expected a whole number above 0"),
        (dict(adapter_layers=None), "llama", "adapter_layers = None: expected"),
        (dict(adapter_layers=3), "llama", "adapter_layers = 3: expected 'self_attn' of up to 2 layers"),
        (
            dict(adapter_layers=2),
            "llama",
            r"(?s)missing  base_model.model.model.layers.0.self_attn.adaption_prompt \(1, 5",
        ),
        (dict(adapter_len=4), "llama", r"adaption_prompt \(1, 5, 16\), expected \(1, 4, 16\)"),
        (dict(target_modules="attn"), "llama", "target_modules = 'attn', .* expected 'self_attn'"),
        (dict(target_modules="attn"), "gpt2", "ADAPTION_PROMPT: read for models as llama and mistral alone"),
    ],
    ids=str,
)
def test_bad_gated_prefixes(changes, name, words, tmp_path):
    params, names = base_of(name)
    at = ROOT + "model.layers.1.self_attn.adaption_"
    folder = make(tmp_path / "a", {**GATED, **changes}, {at + "prompt": np.ones((1, 5, 16)), at + "gate": np.ones(1)})
    with pytest.raises(UserError, match=words):
        peft.read(folder, names, without(params))


def test_ia3_vectors_of_the_wrong_end(tmp_path):
    params, names = base_of("llama")
    config = {"peft_type": "IA3", "target_modules": ["down_proj"], "feedforward_modules": ["down_proj"]}
    key = ROOT + "model.layers.{}.mlp.down_proj.ia3_l"
    width = params["blocks/mlp/down/kernel"].shape[1]
    good = {key.format(i): np.full((1, width), 2.0) for i in range(2)}
    read = peft.read(make(tmp_path / "a", config, good), names, without(params))
    assert read.tune["ia3"] == {"targets": ("blocks/mlp/down",), "feedforward": ("blocks/mlp/down",)}
    with pytest.raises(UserError, match=rf"down_proj.ia3_l \(1, {width}\), expected \(16, 1\)"):
        peft.read(make(tmp_path / "a", {**config, "feedforward_modules": []}, good), names, without(params))


def test_magnitudes_of_layers_left_out_need_the_base(tmp_path):
    params, names = base_of("llama")
    base = without(params)
    one = ROOT + "model.layers.1.self_attn.q_proj.lora_magnitude_vector"
    config = {**LORA, "use_dora": True, "layers_to_transform": [1]}
    folder = make(tmp_path / "a", config, {**q_proj((1,)), one: np.ones(16)})
    magnitude = flatten(peft.read(folder, names, base).params)["blocks/attention/query/adapter/magnitude"]
    lengths = np.linalg.norm(params["blocks/attention/query/kernel"][0], axis=0)
    np.testing.assert_allclose(magnitude[0], lengths, rtol=1e-6)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), base)
    with pytest.raises(UserError, match="model.layers.0.self_attn.q_proj has no magnitudes of its own"):
        peft.read(folder, names, shapes)


@pytest.mark.parametrize(
    "name, method, words",
    [
        ("mixtral", Lora(2, 4.0, False, 0.0, ("blocks/mlp/router",)), None),
        ("gpt2", Ia3(("blocks/attention/.*",), ("blocks/attention/query",)), "its input or its output, not both"),
        ("gpt2", Ia3(("blocks/attention/query",), ("blocks/attention/query",)), "takes one input for .*query.*value"),
        (
            "gpt_neox",
            Oft(4, ("blocks/attention/query",)),
            "takes one input for .*query.*PEFT cannot rotate it for each",
        ),
        ("gpt_neox", Oft(4, ("blocks/attention/(query|key|value)",)), "takes one input for .*value.*cannot rotate it"),
        ("gpt2", Oft(4, ("blocks/mlp/down",)), "mlp.c_proj: PEFT has no rotations of modules with weights .in, out."),
        (
            "gpt2",
            Lora(2, 4.0, False, 0.0, ("embed/tokens",)),
            "transformer.wte: PEFT knows a head .* embed_tokens alone",
        ),
        ("gpt2", GatedPrefix(3, 1), "tune.gated_prefix: PEFT has gated prefixes for llama, mistral, not for gpt2"),
    ],
    ids=str,
)
def test_what_cannot_be_written(name, method, words, tmp_path):
    params, names = base_of(name, method=method)
    if words is None:
        names = [t for t in names if "router" not in t.ours]
        words = "no name for:\n  blocks/mlp/router"
    with pytest.raises(UserError, match=words):
        ties = {"lm_head.weight": "transformer.wte.weight"} if name == "gpt2" else {}
        peft.write(tmp_path / "a", method, unflatten(params), names, ties=ties, family=name)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "tune, words",
    [
        ({"method": "lora+prefix"}, "it holds one method, and not several joined by '.'"),
        ({"method": "bottleneck"}, "it knows nothing like tune.bottleneck"),
    ],
    ids=str,
)
def test_methods_that_the_format_has_no_place_for(tune, words, tmp_path):
    method = adapters.build(configs.check({"tune": tune}).tune)
    with pytest.raises(UserError, match=words):
        peft.write(tmp_path / "a", method, {}, [])
    assert not (tmp_path / "a").exists() and not peft.no_place(METHODS["lora"])


WRITTEN_AS_LORA = [
    Lora(3, 5.0, True, 0.25, LAYERS, "pissa"),
    Dora(3, 5.0, False, 0.0, LAYERS, "olora"),
    AdaLora(4, 2, 8.0, 0.1, 0.1, 0.3, 1, 0.85, 0.85, 0.1, LAYERS),
    Vera(20, 0.1, 0.0, 0, LAYERS),
]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("method", WRITTEN_AS_LORA, ids=lambda m: type(m).__name__)
def test_other_low_rank_methods_are_written_as_the_lora_that_does_the_same(method, name, tmp_path):
    params, names = base_of(name, method=method)
    peft.write(tmp_path, method, unflatten(params), names)
    read = peft.read(tmp_path, names, without(params))
    assert read.tune["method"] == "lora" and read.method.dropout == method.dropout
    merged = flatten(method.merge(unflatten(params)))
    back = flatten(read.method.merge(unflatten({**flatten(without(params)), **flatten(read.params)})))
    for path, array in merged.items():
        # The scale is a factor of one matrix or of the other.
        np.testing.assert_allclose(back[path], array, atol=1e-5 * np.abs(array).max(), err_msg=path)
        assert (np.abs(array - params[path]).max() > 1e-2) == any(re.fullmatch(p + "/kernel", path) for p in LAYERS)


ROTATED = {"peft_type": "OFT", "target_modules": ["q_proj"], "oft_block_size": 4, "use_cayley_neumann": False, "r": 0}


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(use_cayley_neumann=True), "settings that have no counterpart here:\n  use_cayley_neumann = True"),
        (dict(coft=True), "coft = True"),
        (dict(block_share=True), "block_share = True"),
        (dict(oft_block_size=0, r=4), "r = 4"),
        (dict(oft_block_size=0), "oft_block_size = 0: expected a whole number above 1"),
        (dict(oft_block_size=8), r"q_proj.oft_R.weight \(4, 6\), expected \(2, 28\)"),
        (dict(bias="oft_only"), "bias = 'oft_only'"),
    ],
    ids=str,
)
def test_bad_rotations(changes, words, tmp_path):
    params, names = base_of("llama")
    tensors = {ROOT + f"model.layers.{i}.self_attn.q_proj.oft_R.weight": np.ones((4, 6)) for i in range(2)}
    read = peft.read(make(tmp_path / "a", ROTATED, tensors), names, without(params))
    assert read.tune == {"method": "oft", "oft": {"block_size": 4, "targets": ("blocks/attention/query",)}}
    with pytest.raises(UserError, match=words):
        peft.read(make(tmp_path / "a", {**ROTATED, **changes}, tensors), names, without(params))


def test_names_that_are_the_end_of_others_are_written_whole(tmp_path):
    """BERT's "output.dense" ends "attention.output.dense", too."""
    fields = families.canonical(
        {
            **SIZES,
            "causal": False,
            "norm_placement": "post",
            "embedding_norm": True,
            "token_types": 2,
            "head": "masked_lm",
        }
    )
    names = families.FAMILIES["bert"].tensors(fields)
    method = Lora(2, 4.0, False, 0.0, ("blocks/mlp/down", "blocks/attention/query"))
    shapes = flatten(Transformer(ModelSpec(**fields), method).shapes())
    params = {p: np.ones(a.shape, a.dtype) for p, a in shapes.items()}
    peft.write(tmp_path, method, unflatten(params), names, task=None)
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    assert sorted(config["target_modules"]) == [
        "attention.self.query", "bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense",
    ]  # fmt: skip
    assert flatten(peft.read(tmp_path, names, without(params)).params).keys() == {p for p in params if "/adapter/" in p}
