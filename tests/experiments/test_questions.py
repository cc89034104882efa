"""Experiments on scaling, schedules, rates, data, stages and eras: their verdicts by hand, laws that are known, a miniature of each."""

import json
import math
import sys

import numpy as np
import pytest

from experiments import continual, data_efficiency, images, laws, rates, scaling, schedules, stages
from experiments import verdicts as claims
from tests.processes import HURRY, run

HOLDS, FAILS, UNSHOWN = "holds", "does not hold", "not shown"


@pytest.mark.parametrize(
    "groups, verdict",
    [
        ([[1.0, 1.1], [1.0, 1.1], [2.0, 2.1]], HOLDS),
        ([[1.0, 1.1], [2.0, 2.1], [1.5, 1.6]], FAILS),
        ([[1.0, 1.5], [1.2, 1.7]], UNSHOWN),
    ],
)
def test_rising(groups, verdict):
    assert claims.rising("nll", groups).verdict == verdict


@pytest.mark.parametrize(
    "values, verdict",
    [([-0.1, -0.12], HOLDS), ([-0.3, -0.32], FAILS), ([-0.2, 0.0], UNSHOWN)],
)
def test_more_than_a_rival(values, verdict):
    assert claims.more("backward", [-0.5, -0.48], values, 0.3).verdict == verdict


def test_a_law_that_is_known_is_found():
    """That of Hoffmann et al. 2022, section 3.3."""
    known = laws.Law(1.69, 406.4, 410.7, 0.34, 0.28)
    grid = [(n, d) for n in np.geomspace(1e7, 1e10, 5) for d in np.geomspace(1e9, 1e12, 5)]
    found = laws.fit([(n, d, known(n, d)) for n, d in grid])
    for n, d in grid:
        assert math.isclose(found(n, d), known(n, d), rel_tol=1e-3)
    assert math.isclose(found.share, 0.28 / 0.62, rel_tol=0.03)
    noisy = [(n, d, known(n, d) * (1 + 0.01 * (-1) ** i)) for i, (n, d) in enumerate(grid)]
    low, high = laws.interval(noisy, laws.fit(noisy, [found]), draws=20)
    assert low.alpha < 0.34 < high.alpha and low.beta < 0.28 < high.beta


def test_transfer():
    """A table by hand: a random model, then after each of three eras."""
    recall = [[0.1, 0.1, 0.1], [1.0, 0.2, 0.1], [0.6, 0.9, 0.3], [0.4, 0.5, 0.8]]
    found = continual.transferred(recall)
    assert found["backward"] == pytest.approx(((0.4 - 1.0) + (0.5 - 0.9)) / 2)
    assert found["forward"] == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert found["at the end"] == pytest.approx(1.7 / 3)
    assert [found[f"era 0 after {era}"] for era in range(3)] == [1.0, 0.6, 0.4]


def test_the_regret_of_a_rate():
    """The narrow model's best is the second rate, the wide one's the first, by which it has 0.3 less."""
    measured = {f"narrow-{rate:g}": {"nll": [2.0]} for rate in scaling.RATES}
    measured |= {f"mup-{rate:g}": {"nll": [2.0]} for rate in scaling.RATES}
    measured[f"narrow-{scaling.RATES[1]:g}"]["nll"] = [1.5]
    measured[f"mup-{scaling.RATES[0]:g}"]["nll"] = [1.7]
    assert scaling.regret(measured, "mup") == [pytest.approx(0.3)]


MINIATURES = {
    "scaling": scaling,
    "schedules": schedules,
    "rates": rates,
    "data_efficiency": data_efficiency,
    "stages": stages,
    "continual": continual,
    "images": images,
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", MINIATURES)
def test_the_experiments(name, tmp_path):
    words = [f"--out={tmp_path / 'out'}", "--size=tiny", "--seeds=2"]
    done = run(sys.executable, "-m", f"experiments.{name}", *words, XLA_FLAGS=HURRY)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert list(found["measured"]) == list(MINIATURES[name].LABELS)
    assert all(len(values) == 2 for way in found["measured"].values() for values in way.values())
    assert found["claims"] and {row["verdict"] for row in found["claims"]} <= {HOLDS, FAILS, UNSHOWN}
    assert "<svg" in (tmp_path / "out/report.html").read_text()
