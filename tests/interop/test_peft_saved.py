"""What an adapter's file has in the place of the base's own, without PEFT: where it goes, and what is refused."""

import json

import numpy as np
import pytest

from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.interop import families, peft
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.peft_folders import LORA, ROOT, ROTARY, SIZES, base_of, make, without
from tests.interop.test_peft_tables import of_tied

RNG = np.random.default_rng(1)


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def gpt2(folder, config, tensors):
    """A folder with an adapter of c_attn [16 -> 3 * 16] in both layers, and more; base and names."""
    params, names = base_of("gpt2")
    factors = {}
    for layer in range(2):
        name = f"{ROOT}transformer.h.{layer}.attn.c_attn"
        factors |= {f"{name}.lora_A.weight": array(2, 16), f"{name}.lora_B.weight": array(48, 2)}
    config = {**LORA, "target_modules": ["c_attn"], **config}
    return make(folder, config, {**factors, **{ROOT + key: a for key, a in tensors.items()}}), params, names


def test_biases_of_a_fused_layer_are_cut_like_its_kernel(tmp_path):
    """As PEFT names them: below what it wrapped. One layer alone leaves the other's as they were."""
    bias = array(48)
    key = "transformer.h.1.attn.c_attn.base_layer.bias"
    folder, params, names = gpt2(tmp_path / "a", {"bias": "lora_only"}, {key: bias})
    found = flatten(peft.read(folder, names, without(params)).replaced)
    parts = {
        f"blocks/attention/{name}/bias": bias[16 * i : 16 * i + 16] for i, name in enumerate(("query", "key", "value"))
    }
    assert found.keys() == parts.keys()
    for path, part in parts.items():
        np.testing.assert_array_equal(found[path][1], part)
        np.testing.assert_array_equal(found[path][0], params[path][0])


def test_modules_are_named_by_an_end_and_hold_all_below(tmp_path):
    saved = {"transformer.ln_f.weight": array(16), "transformer.ln_f.bias": array(16)}
    folder, params, names = gpt2(tmp_path / "a", {"modules_to_save": ["ln_f", "score"]}, saved)
    read = peft.read(folder, names, without(params))
    found = flatten(read.replaced)
    assert found.keys() == {"final_norm/scale", "final_norm/bias"}
    np.testing.assert_array_equal(found["final_norm/scale"], saved["transformer.ln_f.weight"])
    whole = read.onto(params)
    assert whole["final_norm/bias"] is not params["final_norm/bias"] and whole.keys() > params.keys()


def test_rows_of_a_table(tmp_path):
    rows = array(3, 16)
    key = "transformer.wte.token_adapter.trainable_tokens_delta"
    folder, params, names = gpt2(tmp_path / "a", {"trainable_token_indices": {"wte": [7, 0, 31]}}, {key: rows})
    table = flatten(peft.read(folder, names, without(params)).replaced)["embed/tokens/embedding"]
    np.testing.assert_array_equal(table[[7, 0, 31]], rows)
    others = np.delete(np.arange(32), [0, 7, 31])
    np.testing.assert_array_equal(table[others], params["embed/tokens/embedding"][others])


ROWS = "transformer.wte.token_adapter.trainable_tokens_delta"
BAD = {
    "a bias that is missing": (dict(bias="all"), {}, "lacks modules that the config says were saved:\n  transformer.ln_f.bias\n  transformer.h.0.ln_1.bias"),
    "half a module": (dict(modules_to_save=["ln_f"]), {"transformer.ln_f.weight": (16,)}, "saved:\n  transformer.ln_f.bias"),
    "another shape": (
        dict(modules_to_save=["ln_f"]), {"transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (15,)},
        r"shape    transformer.ln_f.bias \(15,\), expected \(16,\)",
    ),
    "more tokens": (
        dict(modules_to_save=["wpe"]), {"transformer.wpe.weight": (17, 16)},
        r"with more tokens or classes.*shape    transformer.wpe.weight \(17, 16\), expected \(16, 16\)",
    ),
    "a bias unasked": ({}, {"transformer.ln_f.bias": (16,)}, "of no layer of this model"),
    "too many rows": (dict(trainable_token_indices=[1]), {ROWS: (2, 16)}, r"\(2, 16\) does not fit trainable_token_indices, 1 rows"),
    "a row that is not there": (dict(trainable_token_indices=[32]), {ROWS: (1, 16)}, r"1 rows up to 32, of a table \(32, 16\)"),
    "rows that are missing": (dict(trainable_token_indices=[1]), {}, "lacks modules .*token_adapter.trainable_tokens_delta"),
    "one's rows that are missing": (
        dict(trainable_token_indices={"wte": [1], "wpe": [2]}), {ROWS: (1, 16)}, "saved:\n  wpe.token_adapter",
    ),
    "no table": (dict(trainable_token_indices=[1]), {ROWS.replace("wte", "xyz"): (1, 16)}, "is of no table of this model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    config, shapes, words = BAD[name]
    folder, params, names = gpt2(tmp_path / "a", config, {key: array(*shape) for key, shape in shapes.items()})
    with pytest.raises(UserError, match=f"(?s){words}"):
        peft.read(folder, names, without(params))


def tied(folder, config, tensors):
    """An adapter of a tied llama's q_proj; base, names and ties."""
    fields = families.canonical({**SIZES, **ROTARY, "tied": True})
    shapes = flatten(Transformer(ModelSpec(**fields)).shapes())
    params = {p: array(*a.shape) for p, a in shapes.items()}
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        tensors |= {f"{name}.lora_A.weight": array(2, 16), f"{name}.lora_B.weight": array(16, 2)}
    family = families.FAMILIES["llama"]
    made = make(folder, {**LORA, **config}, {ROOT + key: a for key, a in tensors.items()})
    return made, params, family.tensors(fields), family.ties(fields)


TABLE, OTHER = array(32, 16), array(32, 16)
TIED = {  # what the file holds of the head and the table, whether that is one table, and so ours
    "both, alike": ({"lm_head": TABLE, "model.embed_tokens": TABLE}, {}, True),
    "both, apart": ({"lm_head": TABLE, "model.embed_tokens": OTHER}, {}, False),
    "the head alone": ({"lm_head": TABLE}, {}, False),
    "the table alone": ({"model.embed_tokens": TABLE}, {}, False),
    "the table alone, tied by PEFT": ({"model.embed_tokens": TABLE}, {"ensure_weight_tying": True}, True),
}


@pytest.mark.parametrize("name", TIED)
def test_a_tied_head_and_its_table(name, tmp_path):
    """PEFT makes copies of both: two matrices, unless they are equal or kept tied."""
    saved, more, one = TIED[name]
    config = {"modules_to_save": [key.rpartition(".")[2] for key in saved], **more}
    tensors = {f"{key}.weight": a for key, a in saved.items()}
    folder, params, names, ties = tied(tmp_path / "a", config, tensors)
    if one:
        found = flatten(peft.read(folder, names, unflatten(params), ties=ties).replaced)
        assert [*found] == ["embed/tokens/embedding"]
        np.testing.assert_array_equal(found["embed/tokens/embedding"], TABLE)
        return
    with pytest.raises(
        UserError, match="lm_head is tied to model.embed_tokens, .* two matrices of them. Write the base untied"
    ):
        peft.read(folder, names, unflatten(params), ties=ties)


def test_what_is_written_is_read_back(tmp_path):
    """Norms whole; of a bias below an adapter all biases of adapted layers, of another all of the model."""
    params, names = base_of("gpt2")
    method = Lora(2, 6.0, False, 0.0, ("blocks/attention/query",))
    factors = {
        "blocks/attention/query/adapter/lora_a": array(2, 16, 2),
        "blocks/attention/query/adapter/lora_b": array(2, 2, 16),
    }
    for changed, bias, modules in (
        (["blocks/attention/key/bias"], "lora_only", None),
        (["blocks/mlp/up/bias"], "all", None),
        (["final_norm/scale", "blocks/attention/query/bias"], "lora_only", ["transformer.ln_f"]),
    ):
        now = {**params, **factors, **{path: array(*params[path].shape) for path in changed}}
        folder = tmp_path / bias / str(len(changed))
        peft.write(folder, method, unflatten(now), names, changed=changed)
        config = json.loads((folder / peft.CONFIG).read_text())
        assert (config["bias"], config.get("modules_to_save")) == (bias, modules)
        read = peft.read(folder, names, without(params))
        whole = read.onto(params)
        for path in changed:
            np.testing.assert_array_equal(whole[path], now[path], err_msg=path)
        for path in params.keys() - set(changed):
            np.testing.assert_array_equal(whole[path], params[path], err_msg=path)


def test_what_has_no_place(tmp_path):
    folder, params, names, ties = of_tied(tmp_path / "a")
    read = peft.read(folder, names, unflatten(params), ties=ties)
    whole = unflatten(params | flatten(read.params))
    with pytest.raises(UserError, match="(?s)no place for:.*model.embed_tokens.weight.*--to=hf"):
        peft.write(tmp_path / "b", read.method, whole, names, ties=ties, changed=["embed/tokens/embedding"])
    assert not (tmp_path / "b").exists()
