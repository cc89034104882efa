"""What `ptft eval --probe` makes of its flags, and which do not go together."""

import types

import pytest
from absl import flags

from ptft_jax.errors import UserError
from ptft_jax.verbs import probes

NOTHING = dict(
    probe=[], probe_shots=None, probe_pooling=None, probe_k=None, probe_seed=None, probe_prompts=None, probe_html=None, split="", answers=[], knn="", tokens=0, objective="",
)  # fmt: skip


def asked(monkeypatch, **given):
    monkeypatch.setattr(flags, "FLAGS", types.SimpleNamespace(**{**NOTHING, **given}))
    return probes.asked()


def test_what_is_asked(monkeypatch):
    assert asked(monkeypatch) == {}
    assert asked(monkeypatch, probe=["ridge"]) == {"probes": ("ridge",)}
    found = asked(monkeypatch, probe=["knn"], probe_shots=["1", "0"], probe_k=3, probe_seed=0, probe_pooling="mean")
    assert found == {"probes": ("knn",), "shots": (1, 0), "k": 3, "seed": 0, "pooling": "mean"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"probe_seed": 0}, "--probe_seed is for probes: give --probe"),
        ({"probe": ["ridge"], "probe_html": "x.html"}, "--probe_html shows nearest neighbors: name knn"),
        ({"probe": ["knn"], "probe_html": "no/x.html"}, "--probe_html=no/x.html: there is no such folder"),
        ({"probe": ["ridge"], "probe_k": 3}, "--probe_k is for nearest neighbors"),
        ({"probe": ["ridge"], "probe_prompts": ["a {}"]}, "--probe_prompts is for classes by their names"),
        ({"probe": ["prompts"], "probe_shots": ["1"]}, "--probe_shots is for probes that learn"),
        ({"probe": ["ridge"], "split": "train"}, "--split=train: probes learn from it"),
        ({"probe": ["ridge"], "probe_shots": ["-1"]}, "--probe_shots=-1: expected counts"),
        ({"probe": ["ridge"], "objective": "causal_lm"}, "--objective is not for probes"),
    ],
)
def test_what_does_not_go_together(given, message, monkeypatch):
    with pytest.raises(UserError, match=message):
        asked(monkeypatch, **given)
