"""A run that trains an adapter for each source, and what can be done with it."""

import jax
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import continue_texts, generate
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.model.decode import Sampling
from ptft_jax.params.rules import flatten
from ptft_jax.reporting import comparison, run_report
from ptft_jax.runs import loading
from ptft_jax.runs import source as restore
from tests.helpers import quiet_train, stop_at, tiny_config

pytestmark = pytest.mark.heavy

SMALL = {"eval__test": False, "eval__tokens": 256, "model__scan": True}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """References of two texts that have little in common."""
    folder = tmp_path_factory.mktemp("sources")
    for name, line in (("digits", "0123456789 9876543210\n"), ("letters", "abcdefghij jihgfedcba\n")):
        (folder / f"{name}.txt").write_text(line * 200)
    return [f"text:{folder / name}.txt" for name in ("digits", "letters")]


@pytest.fixture(scope="module")
def several(text_file, sources, tmp_path_factory):
    """The base, the run on it, and its summary."""
    folder = tmp_path_factory.mktemp("runs")
    quiet_train(tiny_config(text_file, training__steps=20, **SMALL), folder / "base")
    config = child(text_file, sources, folder / "base", samples__prompts=("ab",), samples__max_new_tokens=2)
    return folder, config, quiet_train(config, folder / "many")


def child(text_file, sources, base, **changes):
    options = {
        "init__from_": str(base),
        "tune__method": "lora",
        "tune__adapters": ("digits", "letters"),
        "data__source": "",
        "data__mixture": tuple((source, 1.0) for source in sources),
        "training__steps": 24,
        "eval__every": 0,
        "optimizer__learning_rate": 5e-2,
        **SMALL,
        **changes,
    }
    return tiny_config(text_file, **options)


def test_each_source_trains_its_own(several, sources):
    folder, _, summary = several
    before, after = summary["before"], summary["after"]
    for name in ("validation/nll", "validation_letters/nll"):
        assert after[name] < before[name] - 0.3, name
    # Before training all are the base; afterwards each forgot in its own way.
    assert before["source_digits/nll"] == before["source_letters/nll"]
    assert after["source_digits/nll"] != after["source_letters/nll"]
    names = ("digits", "letters")
    runs = [loading.load(f"{folder}/many#{name}") for name in names]
    measured = [[evaluate(run, source, "validation", tokens=256)["nll"] for source in sources] for run in runs]
    # As in the loop, where the adapter was apart: merging costs float32 rounding.
    own = [after["validation/nll"], after["validation_letters/nll"]]
    assert np.diag(measured) == pytest.approx(own, abs=2e-5)
    for number, found in enumerate(own):
        assert measured[1 - number][number] > found + 0.3, "the other's adapter, which learned another source"


def test_what_each_gained_forgot_and_how_far_it_moved(several, sources, text_file):
    """Against the losses of the loop, the adapter alone on a plain model, and a run that is compared with one of them."""
    folder, _, summary = several
    before, after = summary["before"], summary["after"]
    assert set(summary["transfer"]) == {"adapters"} and set(summary["drift"]) == {"adapters"}
    base = flatten(jax.device_get(loading.load(f"{folder}/base").params))
    for name, target in (("digits", "validation"), ("letters", "validation_letters")):
        found = summary["transfer"]["adapters"][name]
        assert found["target"]["gain"] == before[f"{target}/nll"] - after[f"{target}/nll"]
        assert found["source"]["forgetting"] == after[f"source_{name}/nll"] - before[f"source_{name}/nll"]
        assert found["source"]["reference"]["of"].startswith("random parameters")
        assert "missing" in found["target_test"]
        moved = flatten(jax.device_get(loading.load(f"{folder}/many#{name}").params))
        rows = {row["part"]: row["distance"] for row in summary["drift"]["adapters"][name]}
        for layer in range(2):
            squares = [np.sum((moved[p][layer] - base[p][layer]) ** 2) for p in base if p.startswith("blocks/")]
            # Merged in float32 here as there, and subtracted: what is left of it is of the size of its rounding.
            assert rows[f"blocks[{layer}]"] == pytest.approx(np.sqrt(sum(squares)), rel=1e-3)
        assert rows["embed"] == 0.0
    alone = tiny_config(
        text_file,
        init__from_=f"{folder}/base",
        data__source=sources[0],
        training__steps=2,
        optimizer__warmup_steps=0,
        eval__every=0,
        **SMALL,
    )
    quiet_train(alone, folder / "alone")
    groups = comparison.compare([f"{folder}/many#digits", folder / "alone"])
    assert {g.name for g in groups} == {"many#digits", "alone"}
    run_report.write([folder / "many"], folder / "report.html")
    html = (folder / "report.html").read_text()
    assert ">letters<" in html and "many#letters" in html


def test_tests_are_of_each(several, sources):
    folder, _, _ = several
    changes = dict(training__steps=0, optimizer__warmup_steps=0, eval__test=True)
    config = child(None, sources, folder / "base", **changes)
    summary = quiet_train(config, folder / "tested")
    for name, test in (("digits", "test"), ("letters", "test_letters")):
        assert summary["transfer"]["adapters"][name]["target_test"]["before"] == summary["before"][f"{test}/nll"]
        assert "missing" not in summary["transfer"]["adapters"][name]["source_test"]


def test_text_from_both_at_once(several):
    folder, _, _ = several
    many = loading.load(f"{folder}/many", together=True)
    options = {"max_new_tokens": 8, "sampling": Sampling(temperature=0.0)}
    rows = continue_texts(many.model, many.params, many.tokenizer, ["a", "a"], adapters=[0, 1], **options)
    for name, row in zip(("digits", "letters"), rows):
        one = loading.load(f"{folder}/many#{name}")
        assert row.text == continue_texts(one.model, one.params, one.tokenizer, ["a"], **options)[0].text
    assert rows[0].text != rows[1].text
    assert generate(many, ["a", "a"], use_adapter=["digits", "letters"], **options) == rows
    with pytest.raises(
        UserError, match="use_adapter: no adapter 'leters', only digits, letters .did you mean 'letters'"
    ):
        generate(many, ["a"], use_adapter=["leters"], **options)
    samples = (folder / "many/samples.jsonl").read_text()
    assert '"adapter": "digits"' in samples and '"adapter": "letters"' in samples


def test_one_of_them_is_a_parent(several, text_file):
    folder, _, _ = several
    config = tiny_config(text_file, init__from_=f"{folder}/many#letters", training__steps=0, optimizer__warmup_steps=0)
    config.eval.update(test=False, tokens=256, parent_data=False)
    quiet_train(config, folder / "grandchild")
    ours, theirs = (
        flatten(jax.device_get(loading.load(f"{folder}/{n}").params)) for n in ("grandchild", "many#letters")
    )
    for path, array in theirs.items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)
    assert restore.find(f"{folder}/many#letters").name.endswith("many@24#letters")


def test_an_adapter_on_one_of_them_is_read_back(several, text_file, sources):
    """What was forgotten is measured on what that one was trained on."""
    folder, _, _ = several
    config = tiny_config(
        text_file,
        init__from_=f"{folder}/many#letters",
        tune__method="lora",
        training__steps=0,
        optimizer__warmup_steps=0,
    )
    config.eval.update(test=False, tokens=256)
    summary = quiet_train(config, folder / "on")
    loaded = loading.load(f"{folder}/on")
    assert evaluate(loaded, sources[1], "validation", tokens=256)["nll"] == pytest.approx(
        summary["before"]["source/nll"], abs=2e-5
    )
    (folder / "run#1").symlink_to(folder / "base")
    assert restore.find(f"{folder}/run#1@20").name.endswith("run#1@20")


def test_which_has_to_be_said(several, text_file, sources):
    folder, _, _ = several
    with pytest.raises(UserError, match="has an adapter for each of digits, letters: choose one, as .*many#digits"):
        loading.load(f"{folder}/many")
    with pytest.raises(UserError, match="no adapter 'letter', only digits, letters .did you mean 'letters'"):
        loading.load(f"{folder}/many#letter")
    with pytest.raises(UserError, match="not several adapters to choose from; leave out #letters"):
        loading.load(f"{folder}/base#letters")
    with pytest.raises(UserError, match="names 3 adapters .* and data.mixture has 2 sources"):
        quiet_train(child(text_file, sources, folder / "base", tune__adapters=("a", "b", "c")), folder / "bad")
    with pytest.raises(UserError, match="none of config.tune.adapters, as it is no source of data.mixture"):
        quiet_train(child(text_file, sources, folder / "base", data__source=f"text:{text_file}"), folder / "bad")


@pytest.mark.slow
def test_a_stopped_run_continues_exactly(several, monkeypatch):
    folder, config, whole = several
    with monkeypatch.context() as m:
        stop_at(7, m)
        assert quiet_train(config, folder / "part")["step"] == 7
    assert quiet_train(config, folder / "part")["after"] == whole["after"]
