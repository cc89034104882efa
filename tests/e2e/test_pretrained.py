"""Runs that start from other libraries' weights, and what they hand back."""

import json
import shutil

import jax
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.training import assembly, checkpoint, completion
from ptft_jax.verbs import export
from tests.helpers import quiet_train, tiny_config
from tests.interop import small
from tests.processes import ptft


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.folder(tmp_path_factory.mktemp("hf") / "base")


def config(text_file, parent, **changes):
    reference = f"hf:{parent}" if (parent / "model.safetensors").exists() else str(parent)
    made = tiny_config(text_file, init__from_=reference, **changes)
    made.model.update(layers=4, width=128, heads=4, max_length=128)  # the defaults: the parent's sizes take their place
    made.training.steps = changes.get("training__steps", 6)
    return made


def params_of(reference, **options):
    return flatten(jax.device_get(loading.load(str(reference), **options).params))


@pytest.mark.heavy
def test_fine_tuned_exported_and_tuned_again(text_file, tmp_path, base, cache):
    """The model's structure comes from the weights; the run's export is the run; a run from that starts there."""
    summary = quiet_train(config(text_file, base, eval__source="stdlib:prose"), tmp_path / "run")
    assert summary["last"]["validation/nll"] < summary["before"]["validation/nll"]
    assert summary["before"]["source/nll"] != summary["before"]["validation/nll"]
    resolved = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert resolved["positions"] == "rotary" and resolved["width"] == 32 and resolved["vocab_size"] == 272
    chain = json.loads((tmp_path / "run/lineage.json").read_text())
    assert [c["reference"] for c in chain] == [f"hf:{base}"] and chain[0]["fingerprint"] == summary[
        "parent_fingerprint"
    ]
    start = params_of(f"hf:{base}")
    for path, array in params_of(tmp_path / "run").items():
        assert not np.array_equal(array, start[path]), path

    written = export.model(str(tmp_path / "run"), "hf", tmp_path / "out", dtype="float32")
    assert written["logit_difference"] == 0.0
    for path, array in params_of(f"hf:{tmp_path / 'out'}").items():
        np.testing.assert_array_equal(array, params_of(tmp_path / "run")[path])
    again = quiet_train(
        config(text_file, tmp_path / "out", training__steps=0, optimizer__warmup_steps=0), tmp_path / "next"
    )
    best = checkpoint.best_step(tmp_path / "run")
    assert best == summary["step"], "the test compares the last step with the best"
    assert again["before"]["validation/nll"] == pytest.approx(summary["last"]["validation/nll"], abs=1e-5)


@pytest.mark.heavy
def test_adapters_on_imported_weights_refer_to_them(text_file, tmp_path, cache):
    base = small.folder(tmp_path / "place/base")
    made = config(text_file, base, tune__method="lora", eval__parent_data=True)
    quiet_train(made, tmp_path / "place/run")
    saved = flatten(checkpoint.shapes(tmp_path / "place/run", 6))
    assert saved and all("/adapter/" in path for path in saved)
    merged = params_of(tmp_path / "place/run")
    plain = params_of(f"hf:{base}")
    changed = {path for path in plain if not np.array_equal(plain[path], merged[path])}
    assert changed == {f"blocks/{k}/kernel" for k in (
        "attention/query", "attention/key", "attention/value", "attention/out", "mlp/gate", "mlp/up", "mlp/down")}  # fmt: skip

    (tmp_path / "place").rename(tmp_path / "moved")  # both together: found beside each other
    moved = params_of(tmp_path / "moved/run")
    assert all(np.array_equal(merged[p], moved[p]) for p in merged)
    written = export.adapter(str(tmp_path / "moved/run"), tmp_path / "peft", family="", base="")
    assert written["logit_difference"] <= 1e-5 and written["base"] == str(base)
    put_on = params_of(f"hf:{tmp_path / 'moved/base'}", adapter=str(tmp_path / "peft"))
    assert all(np.allclose(put_on[p], moved[p], atol=1e-6) for p in moved)

    other = small.folder(tmp_path / "other", {**small.LLAMA, "rope_theta": 5000.0})
    tensors = (other / "model.safetensors").read_bytes()
    flipped = bytearray((tmp_path / "moved/base/model.safetensors").read_bytes())
    flipped[-3] ^= 1
    (tmp_path / "moved/base/model.safetensors").write_bytes(flipped)
    with pytest.raises(UserError, match="it is another model"):
        params_of(tmp_path / "moved/run")
    assert tensors
    shutil.rmtree(tmp_path / "moved/base")
    with pytest.raises(UserError, match="its base is not at .*base, nor at .*base: move it back"):
        params_of(tmp_path / "moved/run")


@pytest.mark.heavy
def test_a_run_trains_an_adapter_of_peft_on(text_file, tmp_path, base, cache):
    lora = dict(tune__method="lora", tune__lora__rank=4, tune__lora__alpha=4.0)
    first = quiet_train(config(text_file, base, **lora), tmp_path / "first")
    export.adapter(str(tmp_path / "first"), tmp_path / "peft", family="", base="")
    made = config(text_file, base, init__adapter=str(tmp_path / "peft"))
    second = quiet_train(made, tmp_path / "second")
    assert second["before"]["validation/nll"] == pytest.approx(first["last"]["validation/nll"], abs=1e-5)
    assert second["last"]["validation/nll"] < second["before"]["validation/nll"]
    found = json.loads((tmp_path / "second/config.json").read_text())["tune"]
    assert found["method"] == "lora" and found["lora"]["rank"] == 4
    with pytest.raises(UserError, match=r"config.tune.lora.rank = 3, but the adapter of config.init.adapter has 4"):
        assembly.Run(
            config(text_file, base, init__adapter=str(tmp_path / "peft"), tune__lora__rank=3),
            tmp_path / "x",
            Reporter(quiet=True),
        )
    with pytest.raises(UserError, match="config.init.adapter"):
        assembly.Run(tiny_config(text_file, init__adapter=str(tmp_path / "peft")), tmp_path / "y", Reporter(quiet=True))


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.slow), False])
def test_new_tokens_grow_the_embeddings(text_file, tmp_path, cache, tied):
    fields = {**small.LLAMA, "tied": tied, "vocab_size": 260}  # three rows that no token has
    parent = small.folder(tmp_path / "parent", fields)
    words = tuple(f"<|{i}|>" for i in range(5))
    made = config(
        text_file, parent, tokenizer__add=words, training__steps=0, optimizer__warmup_steps=0, parallel__fsdp=4
    )
    quiet_train(made, tmp_path / "run")
    before, loaded = params_of(f"hf:{parent}"), loading.load(str(tmp_path / "run"))
    after = flatten(jax.device_get(loaded.params))
    table = after["embed/tokens/embedding"]
    assert table.shape == (262, 32) and loaded.model.spec.vocab_size == 262
    np.testing.assert_array_equal(table[:257], before["embed/tokens/embedding"][:257])
    np.testing.assert_allclose(
        table[257:], np.tile(before["embed/tokens/embedding"][:257].mean(0), (5, 1)), rtol=1e-5, atol=1e-6
    )
    if not tied:
        head = after["head/kernel"]
        np.testing.assert_array_equal(head[:, :257], before["head/kernel"][:, :257])
        np.testing.assert_allclose(
            head[:, 257:].T, np.tile(before["head/kernel"][:, :257].mean(1), (5, 1)), rtol=1e-5, atol=1e-6
        )
    assert loaded.tokenizer.encode("<|3|>", special=True).tolist() == [260]
    quiet_train(config(text_file, tmp_path / "run", training__steps=1, optimizer__warmup_steps=0), tmp_path / "child")
    assert params_of(tmp_path / "child")["embed/tokens/embedding"].shape == (262, 32)
    random = config(
        text_file,
        parent,
        tokenizer__add=words,
        tokenizer__new_rows="normal",
        training__steps=0,
        optimizer__warmup_steps=0,
    )
    quiet_train(random, tmp_path / "random")
    new = params_of(tmp_path / "random")["embed/tokens/embedding"][257:]
    assert 0.015 < new.std() < 0.025 and len({row.tobytes() for row in new}) == 5
    with pytest.raises(
        UserError, match=r"tokenizer.add: these are re-initialized, but frozen:\n  embed/tokens/embedding"
    ):
        assembly.Run(
            config(text_file, parent, tokenizer__add=words, tune__method="lora"), tmp_path / "no", Reporter(quiet=True)
        )


@pytest.mark.slow
@pytest.mark.heavy
def test_a_head_of_another_kind_is_made_anew_only_by_rule(text_file, tmp_path, cache):
    parent = small.folder(tmp_path / "parent", {**small.LLAMA, "tied": False})
    fresh = config(text_file, parent, init__fresh=("head/.*",), training__steps=0, optimizer__warmup_steps=0)
    fresh.model.tied = False
    quiet_train(fresh, tmp_path / "run")
    before, after = params_of(f"hf:{parent}"), params_of(tmp_path / "run")
    assert {p for p in before if not np.array_equal(before[p], after[p])} == {"head/kernel"}
    assert after["head/kernel"].std() == pytest.approx(0.02, rel=0.05)
    bert = small.folder(tmp_path / "bert", small.BERT)
    with pytest.raises(UserError, match="'causal_lm': the model is bidirectional, and predicts no next token"):
        assembly.Run(config(text_file, bert), tmp_path / "x", Reporter(quiet=True))
    with pytest.raises(
        UserError, match=r"config.model.head = 'classes', but the parent .* has 'lm'; a new head needs init.fresh"
    ):
        made = config(text_file, parent)
        made.model.head = "classes"
        assembly.Run(made, tmp_path / "y", Reporter(quiet=True))


@pytest.mark.slow
@pytest.mark.heavy
def test_verbs_take_imported_weights(tmp_path, base, text_file):
    """eval, generate and export of hf: and gguf:, as a user types them."""
    measured = json.loads(
        ptft("eval", f"--run=hf:{base}", f"--data=text:{text_file}", "--length=32", "--tokens=64", check=True).stdout
    )
    assert measured["run"] == f"hf:{base}" and measured["nll"] > 0
    missing = ptft("eval", f"--run=hf:{base}")
    assert missing.returncode == 2 and "--data is missing: what hf:" in missing.stderr
    long = ptft("eval", f"--run=hf:{base}", f"--data=text:{text_file}", "--length=65")
    assert long.returncode == 2 and "--length = 65: the model sees at most 64 tokens" in long.stderr
    done = ptft("export", f"--run=hf:{base}", "--dtype=bfloat16", f"--out={tmp_path}/half", check=True)
    assert 0 < json.loads(done.stdout)["logit_difference"] < 0.05
    wrote = ptft(
        "generate", f"--run=hf:{tmp_path}/half", "--dtype=bfloat16", "--prompt=the", "--max_new_tokens=4", check=True
    )
    assert wrote.stdout.startswith("the")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for words, message in (
        ([f"--run={base}", "--out=x"], f"a folder of weights, not a run, is named as hf:{base}"),
        ([f"--run={tmp_path}/model.gguf", "--out=x"], f"a GGUF file is named as gguf:{tmp_path}/model.gguf"),
        (["--run=hf:nowhere/at/all", "--out=x"], "no such folder"),
        ([f"--run=hf:{base}"], "--out is missing"),
        ([f"--run=hf:{base}", f"--out={tmp_path}/half"], "is there already"),
        ([f"--run=hf:{base}", "--to=peft", f"--out={tmp_path}/a"], "has no adapter; export the whole model"),
    ):
        refused = ptft("export", *words)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(
    "kind",
    ["hf", *(pytest.param(k, marks=pytest.mark.slow) for k in ("run", "run in bfloat16", "hf in bfloat16"))],
)
def test_an_adapter_run_is_loaded_as_it_was_trained(text_file, tmp_path, cache, kind):
    """Also with a new head that trains beside the adapter, and where parameters are kept in bfloat16: loading the run
    gives the values that the loop measured."""
    parent = small.folder(tmp_path / "parent", {**small.LLAMA, "tied": False})
    if kind.startswith("run"):
        made = config(text_file, parent, training__steps=0, optimizer__warmup_steps=0)
        quiet_train(made, tmp_path / "base")
        parent = tmp_path / "base"
    made = config(
        text_file, parent, tune__method="lora", init__fresh=("head/.*",), eval__test=False, eval__tokens=256,
    )  # fmt: skip
    made.model.tied = False
    if "bfloat16" in kind:
        made.model.param_dtype = "bfloat16"
    summary = quiet_train(made, tmp_path / "run")
    assert {p.split("/")[0] for p in flatten(checkpoint.shapes(tmp_path / "run", 6))} == {"blocks", "head"}
    measured = evaluate(loading.load(f"{tmp_path}/run@6"), "", "validation", tokens=256, batch_size=8)
    # Merging rounds in bfloat16; the base that was trained on, and no other, is what remains.
    tolerance = 2e-2 if "bfloat16" in kind else 1e-5
    assert measured["nll"] == pytest.approx(summary["last"]["validation/nll"], abs=tolerance)
    written = export.adapter(f"{tmp_path}/run@6", tmp_path / "peft", family="", base="somewhere")
    assert written["logit_difference"] <= 1e-5
    told = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (told["modules_to_save"], told["bias"]) == (["lm_head"], "none")
    rates = (("blocks/.*/adapter/.*", 1.0), (".*", 0.0))
    frozen = config(text_file, parent, tune__method="lora", init__fresh=("head/.*",), tune__rates=rates)
    frozen.model.tied = False
    words = r"(?s)init.fresh: these are re-initialized, but frozen:\n  head/kernel.*tune.rates=\(\('head/kernel', 1.0\), \('blocks"
    with pytest.raises(UserError, match=words):
        assembly.Run(frozen, tmp_path / "no", Reporter(quiet=True))
    with pytest.raises(UserError, match=r"config.init.fresh: '\(' is not a regular expression"):
        assembly.Run(config(text_file, parent, init__fresh=("(",)), tmp_path / "broken", Reporter(quiet=True))
    idle = config(text_file, parent, init__fresh=("nothing/.*",))
    with pytest.raises(UserError, match=r"config.init.fresh: 'nothing/.\*' matches no parameter"):
        assembly.Run(idle, tmp_path / "idle", Reporter(quiet=True))


@pytest.mark.heavy
def test_a_new_head_is_what_the_config_says(tmp_path, text_file, cache):
    """Its defaults too, which are not those of the parent."""
    five = {**small.BERT, "head": "classes", "classes": 5, "class_hidden": True}
    parent = small.folder(tmp_path / "parent", five)
    made = tiny_config(text_file, init__from_=f"hf:{parent}", init__fresh=("head/.*",))
    made.model.update(layers=4, width=128, heads=4, max_length=128, head="classes")
    section, _ = completion.resolve(made)
    assert (section.model.head, section.model.classes, section.model.class_hidden) == ("classes", 2, False)
    kept = tiny_config(text_file, init__from_=f"hf:{parent}")
    kept.model.update(layers=4, width=128, heads=4, max_length=128)
    section, _ = completion.resolve(kept)
    assert (section.model.head, section.model.classes, section.model.class_hidden) == ("classes", 5, True)
