"""What was forgotten at one gain, and runs of any kind side by side: on files made by hand."""

import csv
import io
import json

import pytest

from ptft_jax.reporting import any_runs, comparison, comparison_page, equal_gain
from tests.processes import ptft
from tests.reporting.test_comparison import run


def evaluated(workdir, points):
    """The evaluations of a run that gains and forgets so; it starts at losses of 5 and 2."""
    rows = [
        {"step": 10 * n, "kind": "eval", "validation/nll": 5 - gain, "source/nll": 2 + forgot}
        for n, (gain, forgot) in enumerate(points)
    ]
    rows.insert(1, {"step": 3, "kind": "train", "loss": 1.0})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


# What runs end at misleads: full tuning forgets most at its end, and least at the gain that both have.
FULL, LOW_RANK = [(0, 0), (2, 0.75), (3, 2.75)], [(0, 0), (1, 0.5), (2, 1.25)]


def test_between_evaluations():
    assert [equal_gain.forgotten(FULL, gain) for gain in (1, 2, 2.5, 3.01)] == [0.375, 0.75, 1.75, None]
    assert equal_gain.forgotten([(0, 0), (1, 1), (0.5, 3), (2, 4)], 0.75) == 0.75  # when it was first reached
    assert equal_gain.reached([FULL, LOW_RANK]) == 2 and equal_gain.reached([FULL, [(0, 0), (-1, 0)]]) is None
    assert equal_gain.reached([]) is None and equal_gain.reached([FULL, []]) is None


@pytest.fixture
def runs(tmp_path):
    full = evaluated(run(tmp_path, "full", 3.0, 2.75), FULL)
    low = [
        evaluated(
            run(tmp_path, f"low-seed{seed}", 2.0, 1.25, tune__method="lora", seed=seed),
            [(g, f + 0.5 * seed) if g else (0, 0) for g, f in LOW_RANK],
        )
        for seed in range(2)
    ]
    return [full, *low]


def test_compared_at_equal_gain(runs, tmp_path):
    full, low = comparison.compare(runs)
    assert full.figures["forgetting"][0] > low.figures["forgetting"][0]
    assert full.figures["equal_gain"][0] == 0.75 and low.figures["equal_gain"] == (1.5, pytest.approx(0.5 / 2**0.5))
    assert "a gain of 2.000" in comparison.meanings([full, low])
    full, low = comparison.compare(runs, at_gain=2.5)
    assert full.figures["equal_gain"] == (1.75, 0.0) and "equal_gain" not in low.figures
    comparison_page.write([full, low], tmp_path / "page.html")
    assert "On the way" in (tmp_path / "page.html").read_text()
    (runs[0] / "metrics.jsonl").unlink()
    assert all("equal_gain" not in group.figures for group in comparison.compare(runs))


def others(folder):
    """Two seeds without a parent, and one run at another rate, on other data."""
    made = []
    for name, seed, rate, nll in (("a-seed0", 0, 0.001, 3.0), ("a-seed1", 1, 0.001, 3.5), ("b", 0, 0.01, 2.5)):
        source = "text:other" if name == "b" else "text:some"
        made.append(
            run(folder, name, 0.0, 0.0, lineage=[], seed=seed, optimizer__learning_rate=rate, data__source=source)
        )
        path = made[-1] / "summary.json"
        after = {"validation/nll": nll, "validation/loss": nll, **({"validation/extra": 1.0} if name == "b" else {})}
        path.write_text(
            json.dumps(
                json.loads(path.read_text())
                | {"transfer": None, "after": after, "seconds": 120.0, "selected": {"metric": "validation/nll"}}
            )
        )
        evaluated(made[-1], [(0, 0), (1, 0)])
    return made


def test_runs_of_any_kind(tmp_path):
    groups = any_runs.compare(others(tmp_path))
    assert [(group.name, len(group.runs), dict(group.differs)) for group in groups] == [
        ("a", 2, {"optimizer.learning_rate": "0.001", "data.source": "text:some"}),
        ("b", 1, {"optimizer.learning_rate": "0.01", "data.source": "text:other"}),
    ]
    assert groups[0].results["validation/nll"] == (3.25, pytest.approx(0.5 / 2**0.5))
    assert groups[0].results["minutes"] == (2.0, 0.0) and "validation/loss" not in groups[0].results
    assert any_runs.plain(groups)[0]["validation/extra"] == "" and any_runs.plain(groups)[1]["validation/extra"] == 1.0
    assert "data.source differ" in any_runs.remarks(groups)[0] and any_runs.remarks(groups[:1] * 2)
    any_runs.write(groups, tmp_path / "any.html")
    figures = json.loads((tmp_path / "any.json").read_text())
    assert figures[1]["results"]["validation/nll"] == {"mean": 2.5, "sd": 0.0} and figures[0]["seeds"] == [0, 1]


def test_at_the_command_line(tmp_path, runs):
    (tmp_path / "more").mkdir()
    mixed = [str(path) for path in (*others(tmp_path / "more"), runs[0])]
    done = ptft("compare", *mixed, "--csv", check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["run"] for row in rows] == ["a", "b", "full"] and [row["from"] for row in rows] == [
        "-",
        "-",
        "runs/base@9",
    ]
    assert "caution: measured on different data" in done.stderr
    done = ptft("compare", *mixed, "--at_gain=1")
    assert done.returncode == 2 and "--at_gain is for runs of one parent" in done.stderr
