"""The experiment of methods: which rates are tried, what is recorded of runs that diverge, and what claims make of it."""

import json
import pathlib
import types

import pytest

from experiments import methods_report
from experiments.methods_claims import claims
from experiments.methods_runs import LADDER, MATRICES, name_of, ways
from experiments.methods_sweep import Sweep, Tried, next_rate, wanted
from ptft_jax.errors import UserError
from ptft_jax.experiments import launch
from ptft_jax.experiments.executors.base import Outcome
from ptft_jax.experiments.executors.inline import Inline
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs.scripts import Carried
from tests.reporting.test_comparison import run as finished

INF = float("inf")


def summary(loss, seconds=1.0):
    """Of a run that started at a loss of 5, and forgot half of what it gained."""
    transfer = {"target": {"gain": 5 - loss}, "source": {"forgetting": (5 - loss) / 2}}
    return {"after": {"validation/nll": loss}, "transfer": transfer, "seconds": seconds}


@pytest.mark.parametrize(
    "losses,beyond",
    [
        ({3e-3: 3.0, 1e-2: 2.0, 3e-2: 2.5}, None),
        ({3e-3: 1.0, 1e-2: 2.0, 3e-2: 2.5}, 1e-3),
        ({3e-3: 3.0, 1e-2: 2.0, 3e-2: 1.5}, 1e-1),
        ({3e-3: 3.0, 1e-2: 2.0, 3e-2: INF}, None),
        ({3e-3: 3.0, 1e-2: INF, 3e-2: INF}, 1e-3),
        ({3e-3: INF, 1e-2: INF, 3e-2: INF}, 1e-3),
        ({1e-3: INF, 3e-3: INF, 1e-2: INF, 3e-2: INF}, 3e-4),
        ({1e-4: INF, 3e-4: INF}, None),
        ({LADDER[-1]: 1.0, LADDER[-2]: 2.0}, None),
    ],
)
def test_the_best_rate_lies_between_others(losses, beyond):
    assert next_rate(losses) == beyond


def climbed(losses, rates, seeds):
    """What is tried of a way, in order, where runs have these losses by rate, and those of other seeds 1 more."""
    found = {(rate, 0): losses(rate) for rate in rates}
    while further := wanted(found, seeds):
        found |= {(rate, seed): losses(rate) + seed for rate, seed in further}
    return list(found)


def test_a_sweep_goes_on_after_runs_that_diverge():
    losses = {1e-3: 3.0, 3e-3: 2.0, 1e-2: 2.5, 3e-2: INF}
    asked = climbed(losses.get, MATRICES, 3)
    assert asked == [(3e-3, 0), (1e-2, 0), (3e-2, 0), (1e-3, 0), (3e-3, 1), (3e-3, 2)]


def test_a_way_that_always_diverges_has_no_other_seeds():
    asked = climbed(lambda rate: INF, MATRICES, 3)
    assert {rate for rate, _ in asked} == set(LADDER[: LADDER.index(MATRICES[-1]) + 1])
    assert {seed for _, seed in asked} == {0} and len(asked) == len(set(asked)), "each once"


class Pretended(Inline):
    """Runs come to what `losses` has by their names; None: they diverge."""

    def __init__(self, losses):
        super().__init__()
        self.losses, self.begun = losses, []

    def start(self, task):
        self.begun.append(task.name)
        loss, here = self.losses.get(task.name, 4.0), Workdir(pathlib.Path(task.folder))
        here.path.mkdir(parents=True)
        if loss is not None:
            here.summary.write_text(json.dumps({**summary(loss), "selected": {"metric": "validation/nll"}}))
        self._ended.append((task.name, Outcome("diverged" if loss is None else "finished")))


def test_a_run_that_diverges_ends_nothing_but_itself(tmp_path):
    losses = {
        "lora-0.01-seed0": 2.0,
        "lora-0.03-seed0": None,
        "lora-0.01-seed2": None,
        "lora-0.003-seed0": float("nan"),
    }
    losses |= {name_of("IA3", rate, 0): None for rate in LADDER}
    chosen = {name: ways()[name] for name in ("LoRA", "IA3")}
    sweep, runs = Sweep(chosen, size="tiny", seeds=3), Pretended(losses)
    done = Carried(tmp_path, launch.launch(sweep.graph, tmp_path, by=runs, reporter=Reporter(quiet=True)))
    tried = {name: sweep.tried(name, done) for name in chosen}
    assert tried["LoRA"].best == 0.01 and tried["LoRA"].finite == [0, 1]
    assert [rate for rate, found in tried["LoRA"].rates.items() if found is None] == [0.003, 0.03], "NaN is no loss"
    assert set(tried["LoRA"].runs) == {(0.003, 0), (0.01, 0), (0.03, 0), (0.01, 1), (0.01, 2)}
    assert tried["IA3"].best is None and tried["IA3"].finite == [] and set(tried["IA3"].runs.values()) == {None}
    down = LADDER[: LADDER.index(ways()["IA3"].rates[-1]) + 1]
    assert len(runs.begun) == len(set(runs.begun)) == 1 + 5 + len(down), "each once"


# Claims


def results(**rates):
    """Of full updates and ways with `rates`, way -> {rate: (gain, forgetting), or None where it diverged}."""
    found = {
        way: {f"{rate:g}": {"gain": o[0], "forgetting": o[1]} if o else {"diverged": True} for rate, o in row.items()}
        for way, row in rates.items()
    }
    best = {way: max((rate for rate in row if row[rate]), key=lambda rate: row[rate]) for way, row in rates.items()}
    groups = {
        way: {"gain": [rates[way][best[way]][0], 0.0], "forgetting": [rates[way][best[way]][1], 0.01], "seeds": 3}
        for way in rates
    }
    wise = [{"alpha": a, "target": 5 - a, "source": 3 + a} for a in (0.0, 1.0)]
    return {"rates": found, "best_rate": best, "groups": groups, "averages": {"wise": wise, "members": []}}


def claim(found, said):
    return next(row for row in claims(found) if row["said"].startswith(said))


def test_a_rate_that_diverged_is_a_full_loss():
    rates = {1e-3: (1.9, 0.5), 3e-3: (2.0, 1.0), 1e-2: (1.95, 2.0)}
    found = claim(results(full=rates), "the learning rate decides")
    assert found["agrees"] == "no" and "0 of 1 ways" in found["measured"]
    found = claim(results(full={**rates, 1e-2: None}), "the learning rate decides")
    assert found["agrees"] == "yes" and "1 of 1 ways" in found["measured"] and "100%" in found["measured"]


def test_ways_are_compared_at_equal_gain_up_to_their_best_rates():
    full = {1e-4: (1.0, 0.1), 1e-3: (3.0, 0.3), 1e-2: (4.0, 1.0), 1e-1: None}
    lora = {1e-3: None, 3e-3: (1.0, 0.6), 1e-2: (2.0, 0.7), 3e-2: None, 1e-1: (1.5, 9.0)}
    found = claim(results(full=full, LoRA=lora), "... also where both learn the same")
    assert found["measured"] == "forgetting at a validation gain of 2.00: LoRA 0.700, full 0.200"
    assert found["agrees"] == "no"
    # Beyond its best rate a way is not looked at, also where it passes that gain once more.
    beyond = {1e-4: (3.0, 0.1), 1e-3: (4.0, 0.3), 1e-2: (1.0, 1.0), 1e-1: (2.5, 8.0)}
    found = claim(results(full=beyond, LoRA=lora), "... also where both learn the same")
    assert found["agrees"] == "not shown" and "no rate was tried" in found["measured"]


def test_one_seed_has_no_spread_to_show_anything_by():
    rates = {1e-3: (1.0, 0.5), 3e-3: (2.0, 1.0)}
    found = results(full=rates, LoRA={rate: (gain + 1, forgot) for rate, (gain, forgot) in rates.items()})
    found["groups"]["LoRA"]["seeds"] = 1
    assert claim(found, "LoRA comes near")["agrees"] == "not shown: one seed of LoRA"
    assert claim(found, "a soup is at least")["agrees"] == "not shown"


# The report


def test_the_report_says_what_diverged(tmp_path):
    done, quiet = types.SimpleNamespace(folder=tmp_path, place=lambda name: tmp_path / name), Reporter(quiet=True)
    for name, gain, seeds in (("LoRA", 2.0, (0, 1, 2)), ("IA3", 1.0, (0, 2))):
        for seed in seeds:
            folder = name_of(name, 0.01, seed)
            finished(tmp_path, folder, gain + 0.1 * seed, 0.1, seed=seed, tune__method=name.lower())
    tried = {
        "LoRA": Tried({0.003: summary(4.0), 0.01: summary(3.0), 0.03: None}, 0.01, (summary(3.0), summary(3.0), summary(2.0))),
        "IA3": Tried({0.003: summary(4.5), 0.01: summary(4.0)}, 0.01, (summary(4.0), None, summary(4.0))),
        "prompt": Tried({0.01: None, 0.03: None}, None, ()),
    }  # fmt: skip
    methods_report.write(done, quiet, {name: ways()[name] for name in tried}, summary(1.0, 10.0), tried, {}, seeds=3)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["rates"]["LoRA"]["0.03"] == {"diverged": True} and found["rates"]["LoRA"]["0.01"]["gain"] == 2.0
    assert set(found["groups"]) == set(found["best_rate"]) == {"LoRA", "IA3"} and found["left_out"] == ["prompt"]
    assert found["diverged"] == ["lora-0.03-seed0", "ia3-0.01-seed1", "prompt-0.01-seed0", "prompt-0.03-seed0"]
    assert found["seconds"] == 10 + 4 + 3, "the base, and each run that did not diverge once"
    html = (tmp_path / "report.html").read_text()
    assert html.count(">diverged<") == 3 and "all runs together 17 s" in html
    assert "at any rate: prompt." in html and "at the best rate: IA3 (2 of 3)." in html
    with pytest.raises(UserError, match="not finite at any rate of prompt"):
        methods_report.write(done, quiet, ways(), summary(1.0), {"prompt": tried["prompt"]}, {}, seeds=3)
