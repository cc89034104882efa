"""Experiments on scaling, schedules, rates, data, stages and eras: their verdicts by hand, laws that are known, a miniature of each."""

import json
import math
import operator
import random
import re
import sys
import types

import numpy as np
import pytest

from experiments import continual, data_efficiency, images, laws, plays, rates, scaling, schedules, stages
from experiments import verdicts as claims
from ptft_jax.reporting import plots
from ptft_jax.verbs import carrying, experiment, scripts
from tests.processes import HURRY, ROOT, run

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
    fits = laws.refits(noisy, laws.fit(noisy, [found]), draws=10)
    for number, true in (("alpha", 0.34), ("beta", 0.28), ("share", 0.28 / 0.62)):
        low, high = laws.interval(fits, operator.attrgetter(number))
        assert low < true < high
    assert laws.interval([laws.Law(0, 0, 0, i, 1) for i in range(101)], lambda law: law.alpha) == pytest.approx((5, 95))


def test_transfer():
    """A table by hand: a random model, then after each of three eras."""
    recall = [[0.1, 0.1, 0.1], [1.0, 0.2, 0.1], [0.6, 0.9, 0.3], [0.4, 0.5, 0.8]]
    found = continual.transferred(recall)
    assert found["backward"] == pytest.approx(((0.4 - 1.0) + (0.5 - 0.9)) / 2)
    assert found["forward"] == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert found["at the end"] == pytest.approx(1.7 / 3)
    assert [found[f"era 0 after {era}"] for era in range(3)] == [1.0, 0.6, 0.4]


def test_the_matrix_is_drawn(monkeypatch):
    """Its mean over two seeds, cell by cell; the table has numbers alone."""
    one, other = np.arange(12.0).reshape(4, 3).tolist(), np.full((4, 3), 2.0).tolist()
    row = {name: [0.5, 0.5] for name in continual.NAMES} | {"recall": [one, other]}
    measured = {way: row for way in continual.LABELS}
    monkeypatch.setattr(plots, "svg", lambda figure: figure.axes[0])
    heat = continual.figures(measured)[1:]
    assert [axes.get_title(loc="left") for axes in heat] == [f"Recall: {said}" for said in continual.LABELS.values()]
    cells = [text.get_text() for text in heat[0].texts]
    assert cells == [f"{(value + 2) / 2:.3f}" for value in range(12)]
    assert "recall" not in claims.rows_of(continual.LABELS, measured)[0]


def test_the_regret_of_a_rate():
    """The narrow model's best is the second rate, the wide one's the first, by which it has 0.3 less."""
    measured = {f"narrow-{rate:g}": {"nll": [2.0]} for rate in scaling.RATES}
    measured |= {f"mup-{rate:g}": {"nll": [2.0]} for rate in scaling.RATES}
    measured[f"narrow-{scaling.RATES[1]:g}"]["nll"] = [1.5]
    measured[f"mup-{scaling.RATES[0]:g}"]["nll"] = [1.7]
    assert scaling.regret(measured, "mup") == [pytest.approx(0.3)]


@pytest.mark.parametrize(
    "alpha, verdicts", [(0.5, ["holds"] * 3), (laws.STEEPEST, ["not shown", "holds", "not shown"])]
)
def test_an_exponent_that_is_not_found_shows_nothing(alpha, verdicts):
    """One at the end of where it is looked for is none, and the best size needs both."""
    law = laws.Law(1.5, 40.0, 300.0, alpha, 0.25)
    assert [scaling._above("", law, [law] * 3, name).verdict for name in ("alpha", "beta", "share")] == verdicts


def test_the_law_is_told_and_drawn(monkeypatch):
    """Of losses that are a law's: its numbers in a table, its line through the points, a ring at what it was not fitted to."""
    known, rows = laws.Law(1.5, 40.0, 300.0, 0.5, 0.25), []
    fits = [known._replace(floor=1.5 + 0.001 * (i - 50)) for i in range(101)]
    monkeypatch.setattr(laws, "fit", lambda runs: rows.append(runs) or known)
    monkeypatch.setattr(laws, "refits", lambda runs, law: fits)
    monkeypatch.setattr(plots, "svg", lambda figure: figure.axes[0])
    measured = {way: {"nll": [known(plays.parameters(w), s * plays.TOKENS)]} for way, (w, s) in scaling.SIZES.items()}
    measured |= {f"{kind}-{rate:g}": {"nll": [2.0]} for kind in scaling.KINDS for rate in scaling.RATES}
    table = scaling.tables(measured)["law"]
    assert [row["value"] for row in table] == [*known, pytest.approx(1 / 3)]
    assert table[0] == pytest.approx(table[0] | {"least": 1.455, "most": 1.545}) and table[1]["least"] == 40.0
    for axes, fixed in zip(scaling.figures(measured), (scaling.WIDTHS, scaling.STEPS)):
        lines = [line for line in axes.lines if line.get_marker() == "None"]
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(lines) == len(axes.collections) == len(fixed) and len(dots) == len(scaling.SIZES)
        for line, band, points in zip(lines, axes.collections, np.split(np.asarray(dots), len(fixed))):
            xs, ys = (np.concatenate([dot.get_data()[axis] for dot in points]) for axis in (0, 1))
            np.testing.assert_allclose(np.interp(xs, *line.get_data()), ys, rtol=1e-3)
            edges = band.get_paths()[0].vertices
            assert np.ptp(edges[edges[:, 0] == edges[0, 0], 1]) == pytest.approx(0.09)
        assert [dot.get_markerfacecolor() for dot in dots].count("white") == 1
    (runs,) = rows
    assert len(runs) == len(scaling.SIZES) - 1 and max(runs)[:2] == (12 * 2 * 64**2, 400 * 1024)


def test_a_file_declares_a_graph(tmp_path, monkeypatch, capsys):
    """As `ptft experiment --file` reads it, which writes nothing for a look."""
    monkeypatch.chdir(ROOT)
    values = {
        "file": "experiments/stages.py",
        "out": str(tmp_path / "out"),
        "dry_run": True,
        "executor": "inline",
        "job": [],
    }
    args = types.SimpleNamespace(**values, max_parallel=1, retries=0, reuse=[], halve_micro_batch=False)
    for module in (experiment, carrying, scripts):
        monkeypatch.setattr(module, "flags", types.SimpleNamespace(FLAGS=args))
    monkeypatch.setattr(claims, "flags", types.SimpleNamespace(FLAGS=args))
    monkeypatch.setattr(experiment, "prepare_experiment", lambda: None)
    assert experiment.main() == 0
    said = capsys.readouterr().out
    assert re.search(r"^without-seed0 +run +new", said, re.M) and not (tmp_path / "out").exists()


def test_labelled_rows_are_lines_and_shuffled_ones():
    """Every word of the text once: as it is where it is called written, else as another order of its letters."""
    text = "to be or not to be that is the question whether tis nobler in the mind to suffer " + "ab" * 35
    rows = [json.loads(row) for row in data_efficiency.labelled(text, random.Random(0))]
    assert [row["label"] for row in rows] == ["written", "shuffled", "written", "shuffled"][: len(rows)]
    assert max(len(row["text"]) for row in rows) <= 56
    words = [word for row in rows for word in row["text"].split()]
    cut = [word[:56] for word in text.split()]
    assert sorted("".join(sorted(word)) for word in words) == sorted("".join(sorted(word)) for word in cut)
    assert all(row["text"] in " ".join(cut) for row in rows[::2])
    assert any(row["text"] not in " ".join(cut) for row in rows[1::2])


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
