"""LoRA on tables in PEFT's format, without PEFT: tied heads, and files that hold the base's tables."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from ptft_jax.errors import UserError
from ptft_jax.interop import families, peft
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.peft_folders import LORA, ROOT, ROTARY, SIZES, make

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


def _of_the_head_alone(config, tensors):
    for key in [key for key in tensors if TABLE in key or "base_layer" in key]:
        del tensors[key]
    config.update(target_modules=["lm_head"], ensure_weight_tying=False)


def test_an_adapter_of_a_tied_head_alone_is_told_as_such(tmp_path):
    folder, params, names, ties = of_tied(tmp_path / "a", _of_the_head_alone)
    with pytest.raises(
        UserError, match=f"lm_head.lora_A.weight is of the head, which is tied to {TABLE}.*untied"
    ) as told:
        peft.read(folder, names, unflatten(params), ties=ties)
    assert "LoRA alone" not in str(told.value)


def test_what_pefts_own_merge_gets_wrong_is_said(tmp_path):
    folder, params, names, ties = of_tied(tmp_path / "a")
    whole = unflatten(params | flatten(peft.read(folder, names, unflatten(params), ties=ties).params))
    assert "ptft export --to=hf" in peft.warning(whole, names, ties)
    assert peft.warning(whole, names, {}) == "", "of an untied one it is right"
    assert peft.warning(unflatten(params), names, ties) == ""
