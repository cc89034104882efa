"""The table of docs/methods.md of the six settings that say what trains: each pair is tried."""

import re

import jax
import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.parallel import mesh as meshes
from ptft_jax.training.trainer import Trainer
from tests.processes import ROOT

UNTIED = dict(model__tied=False)
ONE = {
    "tune.method": dict(tune__method="lora"),
    "tune.train": dict(tune__train="last:1"),
    "tune.rates": dict(tune__rates=(("(head|final_norm)/.*", 0.5), (".*/bias", 1.0), (".*", 0.0))),
    "init.fresh": dict(init__fresh=("head/.*",), **UNTIED),
    "tune.phases": dict(tune__phases=((0, "last:1"), (4, "all"))),
    "tune.layer_decay": dict(tune__layer_decay=0.5),
}
ADDED = (".*/adapter/.*", 1.0)
# What goes together, where it is to be tried with other values: such as show that both do something.
WORKS = {
    ("tune.method", "tune.rates"): dict(tune__rates=(ADDED, (".*/bias", 1.0), (".*", 0.0))),
    ("tune.train", "init.fresh"): dict(tune__train="norms"),
}
# What "error if" says.
FAILS = {
    ("tune.method", "tune.rates"): (dict(tune__rates=((".*", 1.0),)), "these train, and so does what tune.lora adds"),
    ("tune.method", "init.fresh"): (dict(init__fresh=("blocks/mlp/.*",)), "these train, and so does what tune.lora adds"),
    ("tune.train", "tune.phases"): (dict(tune__train="norms", tune__phases=((0, "attention"),)), "trains nothing of what the run"),
    ("tune.rates", "init.fresh"): (dict(tune__rates=((".*/bias", 1.0), (".*", 0.0))), "are re-initialized, but frozen|re-initialized"),
    ("tune.rates", "tune.phases"): (dict(tune__phases=((0, "attention"),), tune__rates=((".*norm/.*", 1.0), (".*", 0.0))), "trains nothing of what the run"),
    ("tune.phases", "tune.phases"): (dict(tune__unfreeze_every=2), "says already what trains when"),
}  # fmt: skip
REFUSED = {
    ("tune.method", "tune.train"): "config.tune.train = 'last:1' is set, but nothing",
    ("tune.train", "tune.rates"): "config.tune.train = 'last:1' is set, but nothing",
}


def cells():
    """(row, column) -> what the table says of the two together."""
    text = (ROOT / "docs/methods.md").read_text()
    [table] = re.findall(r"^Two of them together:\n\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    head, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    name = lambda cell: re.match(r"`([\w.]+)`", cell)[1]  # noqa: E731
    return {(name(first), name(column)): cell for first, *row in lines for column, cell in zip(head[1:], row) if cell}


def attempt(changes):
    """The rates and phases of what trains, by path, in a run with such settings. Raises UserError where they are refused."""
    config = configs.default()
    config.init.from_ = "runs/parent"
    config.model.update(layers=2, width=32, heads=2)
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    checked = configs.check(config)
    trainer = Trainer(checked, vocab_size=64, mesh=meshes.make(0, 1, jax.devices()[:1]))
    checked.refuse_unread()
    return {leaf.path: (set(leaf.rates), leaf.phases) for leaf in trainer.partition.leaves if leaf.trains}


def test_the_table_is_whole():
    names = list(ONE)
    pairs = {(a, b) for number, a in enumerate(names) for b in names[number + 1 :]}
    assert set(cells()) == pairs | {("tune.phases", "tune.phases")}
    table = re.findall(r"^\| \d \| `([\w.]+)`", (ROOT / "docs/methods.md").read_text(), re.MULTILINE)
    assert table == names


@pytest.mark.parametrize("pair", cells(), ids=" ".join)
def test_a_pair(pair):
    said = cells()[pair]
    both = ONE[pair[0]] | ONE[pair[1]]
    assert (said.split()[0].strip(":;") == "error") == (pair in REFUSED or pair == ("tune.phases", "tune.phases"))
    if pair in REFUSED:
        with pytest.raises(UserError, match=REFUSED[pair]):
            attempt(both)
    elif said.startswith("works"):
        together = attempt(both | WORKS.get(pair, {}))
        alone = attempt(ONE[pair[0]] | ({k: v for k, v in both.items() if k.startswith("model")}))
        assert together and (together != alone or pair == ("tune.rates", "init.fresh")), "rules have said all of it"
    assert ("error if" in said or "error beside" in said) == (pair in FAILS)
    if pair in FAILS:
        changes, words = FAILS[pair]
        with pytest.raises(UserError, match=words):
            attempt(both | changes)


def test_what_they_train():
    """Cells that say what trains."""
    head = "head/kernel"
    added = attempt(ONE["tune.method"] | ONE["init.fresh"])
    assert (
        head in added and {path for path in added if path != head} and all("adapter" in p for p in added if p != head)
    )
    chosen = attempt(ONE["tune.train"] | ONE["init.fresh"])
    assert chosen.keys() - {head} == attempt(ONE["tune.train"] | UNTIED).keys() - {head}
    phases = dict(tune__phases=((0, "norms"), (4, "all")))
    assert attempt(ONE["init.fresh"] | phases)[head][1] == (True, True), "in every phase"
    layers = attempt(ONE["tune.method"] | ONE["tune.phases"])
    assert {path.split("/")[0]: phases for path, (_, phases) in layers.items()} == {
        "blocks[0:1]": (False, True),
        "blocks[1:2]": (True, True),
    }


def test_decay_multiplies_rates():
    """Rate 0.5 of the final norm stays; biases of the last block have 1 / 2, those below 1 / 4."""
    rates = attempt(ONE["tune.rates"] | ONE["tune.layer_decay"])
    assert rates["final_norm/scale"][0] == {0.5} and rates["blocks/mlp/up/bias"][0] == {0.5, 0.25}
