"""ShiRA, MiSS, GraLoRA, HiRA, BD-LoRA and OSF in PEFT's format, without PEFT: what is written and read back, files by hand."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ptft_jax.adapters.base import is_added
from ptft_jax.adapters.bd_lora import BdLora
from ptft_jax.adapters.gralora import Gralora
from ptft_jax.adapters.hira import Hira
from ptft_jax.adapters.miss import Miss
from ptft_jax.adapters.osf import Osf, start
from ptft_jax.adapters.shira import Shira
from ptft_jax.errors import UserError
from ptft_jax.interop import peft
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.peft_folders import ROOT, base_of, make, without

LAYERS = ("blocks/attention/(query|value|out)", "blocks/mlp/down")
METHODS = {
    "shira": Shira(1, LAYERS),
    "miss": Miss(3, 0.25, LAYERS),
    "gralora": Gralora(4, 6.0, 2, 2, 0.25, LAYERS),
    "hira": Hira(3, 0.25, LAYERS),
    "bd_lora": BdLora(4, 6.0, 2, 0.25, LAYERS),
    "osf": Osf(0.25, LAYERS),
}


def adapted(kind, dtype=np.float32):
    """(parameters of a small Llama with random leaves, name map): whole numbers and starts as they would be made."""
    params, names = base_of("llama", dtype, METHODS[kind])
    rng = np.random.default_rng(1)
    for path, array in params.items():
        layer, _, leaf = path.rpartition("/adapter/")
        kernel = params.get(f"{layer}/kernel")
        if leaf == "places":
            count = kernel[0].size
            params[path] = np.stack([np.sort(rng.permutation(count)[: array.shape[1]]) for _ in array]).astype(np.int32)
        elif leaf.startswith(("start_", "high")):
            made = [start(one, METHODS[kind].count(one.shape))[leaf] for one in kernel]
            params[path] = np.stack([np.asarray(one) for one in made]).astype(array.dtype)
    return params, names


@pytest.mark.parametrize("kind", METHODS)
def test_what_is_written_is_read_back(kind, tmp_path):
    params, names = adapted(kind)
    peft.write(tmp_path, METHODS[kind], unflatten(params), names, base="x")
    read = peft.read(tmp_path, names, without(params))
    section = read.tune[kind]
    assert read.tune["method"] == kind and set(section["targets"]) == {
        "blocks/attention/query", "blocks/attention/value", "blocks/attention/out", "blocks/mlp/down"
    }  # fmt: skip
    for name, value in vars(METHODS[kind]).items():
        if name not in ("targets", "rows"):
            assert section[name] == value, name
    own, back = {p: a for p, a in params.items() if is_added(p)}, flatten(read.params)
    assert own.keys() == back.keys()
    for path, array in own.items():
        assert array.dtype == back[path].dtype
        np.testing.assert_array_equal(array, back[path], err_msg=path)


@pytest.mark.parametrize("kind", ["shira", "bd_lora"])
def test_bfloat16_is_kept(kind, tmp_path):
    """And places stay whole numbers."""
    params, names = adapted(kind, ml_dtypes.bfloat16)
    peft.write(tmp_path, METHODS[kind], unflatten(params), names)
    for path, array in flatten(peft.read(tmp_path, names, without(params)).params).items():
        assert array.dtype == (np.int32 if path.endswith("places") else ml_dtypes.bfloat16)
        np.testing.assert_array_equal(array, params[path].astype(array.dtype), err_msg=path)


def q_proj(**tensors):
    return {f"{ROOT}model.layers.{i}.self_attn.q_proj.{k}": a for i in range(2) for k, a in tensors.items()}


MISS = ({"peft_type": "MISS", "r": 3, "target_modules": ["q_proj"]}, q_proj(miss_block=np.ones((3, 16))))
SHIRA = (
    {"peft_type": "SHIRA", "r": 1, "target_modules": ["q_proj"], "mask_type": "random"},
    q_proj(shira_weight=np.arange(32.0), shira_indices=np.stack([np.arange(32) % 16, np.arange(32) // 2])),
)
GRALORA = (
    {"peft_type": "GRALORA", "r": 4, "alpha": 2, "gralora_k": 2, "hybrid_r": 0, "target_modules": ["q_proj"]},
    q_proj(gralora_A=np.ones((2, 8, 4)), gralora_B=np.ones((2, 4, 8))),
)
HIRA = (
    {"peft_type": "HIRA", "r": 2, "target_modules": ["q_proj"]},
    q_proj(hira_A=np.ones((2, 16)), hira_B=np.ones((16, 2))),
)
BD_LORA = (
    {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "use_bdlora": {"nblocks": 2, "target_modules_bd_b": ["q_proj"]}},
    q_proj(**{"lora_A.weight": np.ones((4, 16)), "lora_B.weight": np.ones((16, 2))}),
)  # fmt: skip
OSF = (
    {"peft_type": "OSF", "effective_rank": 12, "target_modules": ["q_proj"]},
    q_proj(**{f"osf_svd_params.{k}": np.ones(s) for k, s in (("U_low", (16, 4)), ("S_low", 4), ("V_low", (4, 16)))}),
)


def test_a_file_by_hand_with_places_as_numbers_of_windows(tmp_path):
    """PEFT writes indices as float32 there; theirs are (output, input)."""
    params, names = base_of("llama")
    read = peft.read(make(tmp_path / "a", *SHIRA), names, without(params))
    merged = flatten(read.method.merge(unflatten({**params, **flatten(read.params)})))
    gained = merged["blocks/attention/query/kernel"] - params["blocks/attention/query/kernel"]
    expected = np.zeros((16, 16))
    for n in range(32):
        expected[n // 2, n % 16] += n
    np.testing.assert_allclose(gained, np.stack([expected] * 2), atol=1e-4)


def test_hira_of_patterns_that_peft_does_not_follow(tmp_path):
    """PEFT 0.21 has a rank_pattern, and makes all of rank r."""
    params, names = base_of("llama")
    config = {**HIRA[0], "rank_pattern": {"q_proj": 1}}
    assert peft.read(make(tmp_path / "a", config, HIRA[1]), names, without(params)).tune["hira"]["rank"] == 2


@pytest.mark.parametrize(
    "made, changes, words",
    [
        (MISS, dict(init_weights="bat"), "init_weights = 'bat': of MiSS the plain form alone is read"),
        (MISS, dict(r=4), r"q_proj.miss_block \(3, 16\), expected \(4, 16\)"),
        (MISS, dict(r=0), "r = 0: expected a whole number from 1 on"),
        (SHIRA, dict(r=2), r"shira_indices \(2, 32\), expected \(2, 64\)"),
        (GRALORA, dict(gralora_k=3), "gralora_k = 3 does not divide"),
        (GRALORA, dict(hybrid_r=1), "missing .*gralora_A_general.weight"),
        (GRALORA, dict(alpha=0), "alpha = 0: expected a number above 0"),
        (BD_LORA, dict(use_bdlora={"nblocks": 2, "match_strict": False}), "q_proj is in 0 of target_modules_bd_a and _b"),
        (BD_LORA, dict(use_bdlora={"nblocks": 2, "target_modules_bd_a": ["q"], "target_modules_bd_b": ["q_proj"]}), "q_proj is in 2 of"),
        (BD_LORA, dict(rank_pattern={"q_proj": 2}), "rank_pattern = .* beside use_bdlora"),
        (BD_LORA, dict(use_bdlora={"nblocks": 4, "target_modules_bd_b": ["q_proj"]}), r"lora_B.weight \(16, 2\), expected \(16, 1\)"),
        (OSF, dict(effective_rank=16), "effective_rank = 16 leaves nothing of model.layers"),
        (OSF, dict(rank_pattern={"q": 2}), "rank_pattern = {'q': 2} has no counterpart here"),
        (OSF, dict(effective_rank=True), "effective_rank = True: expected"),
        (HIRA, dict(peft_type="LILY"), "its routing is a mean over all tokens of a batch"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_files(made, changes, words, tmp_path):
    params, names = base_of("llama")
    with pytest.raises(UserError, match=words):
        peft.read(make(tmp_path / "a", {**made[0], **changes}, made[1]), names, without(params))


@pytest.mark.parametrize("made", [MISS, SHIRA, GRALORA, OSF], ids=lambda made: made[0]["peft_type"])
def test_fused_modules_are_refused(made, tmp_path):
    params, names = base_of("phi3")
    shapes = {"miss_block": (3, 32), "shira_weight": (48,), "shira_indices": (2, 48), "gralora_A": (2, 8, 4), "gralora_B": (2, 4, 16)}  # fmt: skip
    shapes |= {"osf_svd_params.U_low": (32, 4), "osf_svd_params.S_low": (4,), "osf_svd_params.V_low": (4, 16)}
    tensors = {key.replace("q_proj", "qkv_proj"): np.zeros(shapes[key.split("q_proj.")[1]]) for key in made[1]}
    folder = make(tmp_path / "a", {**made[0], "target_modules": ["qkv_proj"]}, tensors)
    with pytest.raises(UserError, match="qkv_proj is blocks/attention/query, .* in one"):
        peft.read(folder, names, without(params))


def test_what_is_written_of_places(tmp_path):
    """Whole numbers, by output and then by input, as PEFT's own."""
    params, names = adapted("shira")
    peft.write(tmp_path, METHODS["shira"], unflatten(params), names)
    tensors = load_file(tmp_path / peft.WEIGHTS)
    rows, columns = tensors[f"{ROOT}model.layers.1.self_attn.v_proj.shira_indices"]
    assert rows.dtype == np.int32 and (np.diff(rows * 16 + columns) > 0).all() and rows.max() < 8
    places = params["blocks/attention/value/adapter/places"][1]
    weights = dict(zip(places.tolist(), params["blocks/attention/value/adapter/weight"][1]))
    found = tensors[f"{ROOT}model.layers.1.self_attn.v_proj.shira_weight"]
    assert [weights[int(c) * 8 + int(r)] for r, c in zip(rows, columns)] == found.tolist()
    assert json.loads((tmp_path / peft.CONFIG).read_text())["r"] == 1
