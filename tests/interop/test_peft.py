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
from ptft_jax.adapters.gated_prefix import GatedPrefix
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.prefix import Prefix
from ptft_jax.adapters.prompt import Prompt
from ptft_jax.adapters.vera import Vera
from ptft_jax.errors import UserError
from ptft_jax.interop import families, peft, peft_converted
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.peft_folders import LORA, ROOT, SIZES, base_of, make, without

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
    "modules_to_save": (_edit(modules_to_save=["lm_head"]), r"(?s)lacks modules that the config says were saved:\n  lm_head.weight"),
    "saved numbers": (_edit(modules_to_save=[1]), r"modules_to_save = \[1\]: expected a list of names"),
    "bias": (_edit(bias="some"), "bias = 'some': expected 'none', 'all' or 'lora_only'"),
    "rows twice": (_edit(trainable_token_indices=[1, 1]), r"trainable_token_indices = \[1, 1\]: expected a list of numbers of tokens"),
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


@pytest.mark.parametrize("alpha, scale", [(12.0, 12 / 6), (-1.0, 2 / 6)])
def test_adalora_divides_by_the_rank_before_pruning(alpha, scale):
    rng = np.random.default_rng(0)
    a, e, b = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5), (2, 1), (4, 2)))
    gone = {"lora_A": a[:0], "lora_E": e[:0], "lora_B": b[:, :0]}
    tensors = {f"m.q.{name}": array for name, array in (("lora_A", a), ("lora_E", e), ("lora_B", b))}
    tensors |= {f"m.k.{name}": array for name, array in gone.items()}
    config = {
        "peft_type": "ADALORA",
        "lora_alpha": alpha,
        "init_r": 6,
        "target_r": 1,
        "rank_pattern": {"q.lora_E": [True] * 2},
    }
    lora, read = peft_converted.as_lora(config, tensors, {}, "here")
    strength = {name: lora["alpha_pattern"][rf"m\.{name}"] / lora["rank_pattern"][rf"m\.{name}"] for name in "qk"}
    found = {name: strength[name] * read[f"m.{name}.lora_B.weight"] @ read[f"m.{name}.lora_A.weight"] for name in "qk"}
    np.testing.assert_allclose(found["q"], scale * b @ (a * e), rtol=1e-5)
    assert not found["k"].any() and min(strength.values()) > 0
    with pytest.raises(UserError, match="here: init_r = '6': expected a whole number above 0"):
        peft_converted.as_lora({**config, "init_r": "6"}, tensors, {}, "here")
