"""What forgetting is measured on, along a chain of runs."""

import json
import pathlib
import types

import pytest

from ptft_jax import config as configs
from ptft_jax import objectives
from ptft_jax.data import builders
from ptft_jax.evaluation import measured_sets


def run(trained, older=None, **settings):
    config = configs.check({"data": {"source": f"text:{trained}"}, "eval": settings}, complete=False)
    return types.SimpleNamespace(data=config.data, config=config, older=older, workdir=pathlib.Path("nowhere"))


BASE = run("a.txt")
ADAPTER = run("b.txt", BASE)
CHAINS = {  # parent, what is trained on, what is measured
    "an adapter": (BASE, "b.txt", "a.txt"),
    "its continuation": (ADAPTER, "b.txt", "a.txt"),
    "spelled otherwise": (ADAPTER, "./b.txt", "a.txt"),
    "the continuation of that": (run("b.txt", ADAPTER), "b.txt", "a.txt"),
    "another stage": (run("b.txt", ADAPTER), "c.txt", "b.txt"),
    "the base goes on": (BASE, "a.txt", "a.txt"),
    "as the parent asked": (run("b.txt", BASE, source="text:d.txt"), "b.txt", "d.txt"),
    "of a parent without data": (run("b.txt", None), "b.txt", "b.txt"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_was_retained_is_inherited(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for file in "abcd":
        (tmp_path / f"{file}.txt").write_text(file)
    monkeypatch.setattr(measured_sets.restore, "before", lambda parent: parent.older)
    parent, trained, measured = CHAINS[name]
    config = run(trained).config
    assert measured_sets.source_settings(config, parent)["source"] == f"text:{measured}"
    asked = run(trained, source="text:c.txt").config
    assert measured_sets.source_settings(asked, parent)["source"] == "text:c.txt"
    assert measured_sets.source_settings(run(trained, parent_data=False).config, parent) is None


@pytest.mark.parametrize("options", ["", "?format=rated"])
@pytest.mark.parametrize("name", ["causal_lm", "dpo"])
def test_good_and_bad_answers_are_not_retained_alike(name, options, tmp_path):
    """What a run learned of answers that are good or bad is measured of the good ones, whatever its child learns."""
    rows = [{"prompt": "a", "completion": "b", "label": n == 0} for n in range(4)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"jsonl:{tmp_path}{options}"
    parent = types.SimpleNamespace(
        config=configs.check({"objective": {"name": "kto"}, "data": {"source": source}}, complete=False)
    )
    child = configs.check({"objective": {"name": name}, "data": {"source": source}}, complete=False)
    mine = builders.build(child.objective, None, True)
    retained = measured_sets._retained_objective(child, parent, child.data, mine)
    assert retained.name == "kto"
    measured = objectives.build(retained).alone
    assert not measured.needs_reference and measured.metrics == ("loss", "nll")
