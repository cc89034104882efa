"""The experiment of methods: which rates are tried, what is recorded of runs that diverge, and what claims make of it."""

import json
import types

import pytest

from experiments import methods_report, methods_sweep
from experiments.methods_claims import claims
from experiments.methods_runs import LADDER, MATRICES, name_of, ways
from experiments.methods_sweep import Runs, Tried, next_rate, sweep
from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training.loop import NonFinite
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


def test_a_sweep_goes_on_after_runs_that_diverge():
    losses = {1e-3: 3.0, 3e-3: 2.0, 1e-2: 2.5, 3e-2: None}
    asked = []

    def run(rate, seed):
        asked.append((rate, seed))
        loss = None if seed == 1 else losses[rate]
        return None if loss is None else summary(loss)

    tried = sweep(run, MATRICES, 3)
    assert asked == [(3e-3, 0), (1e-2, 0), (3e-2, 0), (1e-3, 0), (3e-3, 1), (3e-3, 2)]
    assert tried.best == 3e-3 and tried.rates[3e-2] is None and tried.finite == [0, 2]
    assert set(tried.runs) == set(asked), "each once"


def test_a_way_that_always_diverges_has_no_best_rate():
    tried = sweep(lambda rate, seed: None, MATRICES, 3)
    assert tried.best is None and set(tried.rates) == set(LADDER[: LADDER.index(MATRICES[-1]) + 1])
    assert set(tried.runs.values()) == {None} and tried.finite == []


class Pretended:
    """An experiment whose runs come to what `losses` has by their names; None: they diverge."""

    def __init__(self, folder, losses):
        self.folder, self.losses, self.reporter, self.expected = folder, losses, Reporter(quiet=True), []

    def workdir(self, name):
        return self.folder / name

    def expect(self, total):
        self.expected.append(total)

    def run(self, name, config):
        loss = self.losses.get(name, 4.0)
        if loss is None:
            raise NonFinite("step 3: the loss or its gradient is not finite")
        return summary(loss)


def test_a_run_that_diverges_ends_nothing_but_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(methods_sweep, "tune_config", lambda *_: None)
    losses = {
        "lora-0.01-seed0": 2.0,
        "lora-0.03-seed0": None,
        "lora-0.01-seed2": None,
        "lora-0.003-seed0": float("nan"),
    }
    losses |= {name_of("IA3", rate, 0): None for rate in LADDER}
    experiment = Pretended(tmp_path, losses)
    chosen = {name: ways()[name] for name in ("LoRA", "IA3")}
    runs = Runs(experiment, chosen, size="tiny", seeds=3)
    tried = {name: runs.tried(name) for name in chosen}
    assert tried["LoRA"].best == 0.01 and tried["LoRA"].finite == [0, 1]
    assert [rate for rate, found in tried["LoRA"].rates.items() if found is None] == [0.003, 0.03], "NaN is no loss"
    assert tried["IA3"].best is None
    assert experiment.expected[0] == 11 and experiment.expected[-1] == 1 + 5 - 2, "those that end"


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
    experiment = types.SimpleNamespace(
        folder=tmp_path, reporter=Reporter(quiet=True), workdir=lambda name: tmp_path / name
    )
    for name, gain, seeds in (("LoRA", 2.0, (0, 1, 2)), ("IA3", 1.0, (0, 2))):
        for seed in seeds:
            folder = name_of(name, 0.01, seed)
            finished(tmp_path, folder, gain + 0.1 * seed, 0.1, seed=seed, tune__method=name.lower())
    tried = {
        "LoRA": Tried({0.003: summary(4.0), 0.01: summary(3.0), 0.03: None}, 0.01, (summary(3.0), summary(3.0), summary(2.0))),
        "IA3": Tried({0.003: summary(4.5), 0.01: summary(4.0)}, 0.01, (summary(4.0), None, summary(4.0))),
        "prompt": Tried({0.01: None, 0.03: None}, None, ()),
    }  # fmt: skip
    methods_report.write(experiment, {name: ways()[name] for name in tried}, summary(1.0, 10.0), tried, seeds=3)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["rates"]["LoRA"]["0.03"] == {"diverged": True} and found["rates"]["LoRA"]["0.01"]["gain"] == 2.0
    assert set(found["groups"]) == set(found["best_rate"]) == {"LoRA", "IA3"} and found["left_out"] == ["prompt"]
    assert found["diverged"] == ["lora-0.03-seed0", "ia3-0.01-seed1", "prompt-0.01-seed0", "prompt-0.03-seed0"]
    assert found["seconds"] == 10 + 4 + 3, "the base, and each run that did not diverge once"
    html = (tmp_path / "report.html").read_text()
    assert html.count(">diverged<") == 3 and "all runs together 17 s" in html
    assert "at any rate: prompt." in html and "at the best rate: IA3 (2 of 3)." in html
    with pytest.raises(UserError, match="not finite at any rate of prompt"):
        methods_report.write(experiment, ways(), summary(1.0), {"prompt": tried["prompt"]}, seeds=3)
