"""Runs whose additions PEFT has a format for: written there, put on their base again, and trained on from there."""

import json

import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from ptft_jax.training import checkpoint
from ptft_jax.verbs import export
from tests.helpers import quiet_train, repeats, tiny_config
from tests.interop import small

KINDS = {  # what is trained, what PEFT has, and what a run that starts from it has
    "shared prefix": (
        dict(tune__method="prefix", tune__prefix__length=3, tune__prefix__reparameterize=8),
        "PREFIX_TUNING",
        "prefix",
    ),
    "p_tuning": (
        dict(tune__method="p_tuning", tune__p_tuning__hidden=8, tune__p_tuning__length=3),
        "PROMPT_TUNING",
        "prompt",
    ),
    "gated_prefix": (
        dict(tune__method="gated_prefix", tune__gated_prefix__layers=1, tune__gated_prefix__length=3),
        "ADAPTION_PROMPT",
        "gated_prefix",
    ),
    "a head and norms": (
        dict(
            tune__method="lora",
            init__fresh=("head/.*",),
            model__tied=False,
            tune__rates=(("head/.*", 1.0), ("final_norm/.*", 1.0), ("blocks/.*/adapter/.*", 1.0), (".*", 0.0)),
        ),
        "LORA",
        "lora",
    ),
    "tables": (dict(tune__method="lora", tune__lora__targets=("embed/tokens",)), "LORA", "lora"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", repeats(KINDS, "prefix"))
def test_a_run_is_written_and_trained_on(kind, text_file, tmp_path, cache):
    changes, theirs, method = KINDS[kind]
    base = small.folder(tmp_path / "base", {**small.LLAMA, "tied": changes.get("model__tied", True)})

    def run(name, **more):
        options = {"training__steps": 6, "optimizer__learning_rate": 0.1, **more}
        made = tiny_config(text_file, init__from_=f"hf:{base}", **options)
        made.model.update(
            layers=4, width=128, heads=4, max_length=128
        )  # the defaults: the parent's sizes take their place
        return quiet_train(made, tmp_path / name)

    first = run("first", **changes)
    assert first["last"]["validation/nll"] < first["before"]["validation/nll"]
    written = export.adapter(f"{tmp_path}/first@latest", tmp_path / "peft", family="", base="")
    assert written["logit_difference"] <= 1e-5
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["peft_type"] == theirs
    second = run("second", init__adapter=str(tmp_path / "peft"))
    assert second["before"]["validation/nll"] == pytest.approx(first["last"]["validation/nll"], abs=1e-5)
    assert second["last"]["validation/nll"] != second["before"]["validation/nll"]
    assert json.loads((tmp_path / "second/config.json").read_text())["tune"]["method"] == method
    if "init__fresh" not in changes:
        return
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    with pytest.raises(UserError, match="(?s)no phase of the run trains them.*head/kernel"):
        run("never", init__adapter=str(tmp_path / "peft"), tune__phases=((0, "norms"),))
    assert not (tmp_path / "never/checkpoints").exists()
    # Rows for new tokens begin near those of the adapter's head, not of the base's that it replaced.
    more = dict(init__adapter=str(tmp_path / "peft"), tokenizer__add=("<|new|>",), optimizer__warmup_steps=0)
    run("added", **more, tune__rates=(("embed/.*", 1.0), *changes["tune__rates"]), training__steps=0)
    heads = (flatten(loading.load(f"{tmp_path}/{name}@latest").params)["head/kernel"] for name in ("first", "added"))
    before, now = map(np.asarray, heads)
    np.testing.assert_allclose(now[:, 257], before[:, :257].mean(1), atol=0.1 * float(before.std()))
    # What was replaced trains on, is in the run's checkpoints, and in what is measured with the adapter put onto the base.
    kept = {path.split("/")[0] for path in flatten(checkpoint.shapes(tmp_path / "second", 6))}
    assert kept == {"blocks", "head", "final_norm"}
    put = loading.load(f"hf:{base}", adapter=str(tmp_path / "peft"))
    one, other = (flatten(loaded.params) for loaded in (put, loading.load(f"{tmp_path}/first@latest")))
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], atol=1e-5, err_msg=path)
    with pytest.raises(
        UserError, match=r"(?s)adapter of init.adapter comes with these .*final_norm/scale.*let them train"
    ):
        run(
            "third",
            init__adapter=str(tmp_path / "peft"),
            tune__rates=changes["tune__rates"][:1] + changes["tune__rates"][2:],
        )
