"""Files of claims: what each has, what it asks of its experiment, the table of verdicts, and a miniature."""

import json
import re
import statistics
import sys

import pytest

from experiments import knowledge, verdicts
from experiments.claims.__main__ import BEGIN, END, every, inserted, table
from ptft_jax.errors import UserError
from tests.processes import HURRY, ROOT, run

CLAIMS = every()
WORDS = {verdicts.HOLDS, verdicts.FAILS, verdicts.UNSHOWN}


def measured(experiment, value=lambda way, what: [0.4, 0.5]):
    """Something that might have been measured of each way by each of its names."""
    asked = getattr(experiment, "ASKED", None)

    def has(way, end):
        return asked is None or end.removeprefix("-") in asked[way]

    return {
        way: {what: value(way, what) for what, (end, _) in experiment.NAMES.items() if has(way, end)}
        for way in experiment.LABELS
    }


@pytest.mark.parametrize("name", CLAIMS)
def test_a_file_says_what_is_asked_and_judges_it(name):
    """Whatever was measured: the ways and measures that it names are those of its experiment."""
    claim = CLAIMS[name]
    text = (ROOT / f"experiments/claims/{name}.py").read_text()
    assert len(text.splitlines()) <= 40 and claim.question.endswith("?") and claim.said[0].isupper()
    found = measured(claim.experiment)
    row = claim.judged(found)
    assert row["verdict"] in WORDS and row["criterion"] and row["claim"] == claim.said
    assert any(claim.shows in way for way in found.values())
    alone = claim.judged(measured(claim.experiment, lambda way, what: [0.4]))
    assert alone["verdict"] == verdicts.ONE and "±" not in alone["numbers"]


def test_verdicts_follow_what_was_measured():
    """Of the world: figures by hand, as they would be of a model that knows, and of one that does not."""
    knows = {
        "recall": 0.95, "recall after the cut-off": 0.02, "agreement": 0.99, "KL to the true next words": 0.004,
        "sums of unseen pairs": 0.1, "made up of the unknown": 1.0, "distance to the sources' shares": 0.02,
    }  # fmt: skip
    by_way = {
        "answers about others": {"base": 0.0, "asked": 0.92},
        "known from unknown (AUROC)": {"base": 0.85, "asked": 0.57},
        "spread over wordings": {"one": 0.15, "asked": 0.01},
        "bias": {"base": 0.6, "mended": 0.1},
    }

    def value(way, what):
        mean = by_way[what][way] if what in by_way else knows[what]
        return [mean, mean + 0.001]

    found = {
        name: claim.judged(measured(knowledge, value))["verdict"]
        for name, claim in CLAIMS.items()
        if claim.experiment is knowledge
    }
    assert {name for name, verdict in found.items() if verdict != verdicts.HOLDS} == {"rules_not_memorizing"}
    assert found["rules_not_memorizing"] == verdicts.FAILS and len(found) == 10


@pytest.mark.parametrize("values, verdict", [([0.9, 0.95], "holds"), ([0.85, 0.95], "not shown"), ([0.1, 0.2], "does not hold")])  # fmt: skip
def test_a_least(values, verdict):
    part = verdicts.at_least("recall", values, 0.9)
    assert part.verdict == verdict and part.numbers.startswith(f"{statistics.mean(values):.3f} ±")


def test_the_table():
    rows = {
        "hallucination": {"verdict": "holds", "numbers": "0.9 ± 0.1", "criterion": "a|b", "seeds": 3, "size": "demo"}
    }
    text = table(CLAIMS, rows)
    assert text.count("\n") == len(CLAIMS) + 2
    (row,) = (line for line in text.splitlines() if "hallucination" in line)
    assert (
        "| holds, 3 seeds | 0.9 ± 0.1 | a/b | [picture](figures/claims/hallucination.svg), `--only=hallucination` |"
        in row
    )
    assert text.count("| not run |") == len(CLAIMS) - 1
    page = inserted(f"before\n{BEGIN}\nold\n{END}\nafter\n", text, "page")
    assert page == f"before\n{BEGIN}\n\n{text}\n{END}\nafter\n" == inserted(page, text, "page")
    with pytest.raises(UserError, match="--docs=page: there is no place for the table"):
        inserted("nothing", text, "page")


def test_the_page_has_every_claim():
    page = (ROOT / "docs/claims.md").read_text()
    assert set(re.findall(r"`--only=(\w+)` \|$", page, re.MULTILINE)) == set(CLAIMS)


@pytest.mark.heavy
def test_in_miniature(tmp_path):
    """Of the world; the other experiments have miniatures of their own. One seed, and what was kept of it goes on."""
    names = [name for name, claim in CLAIMS.items() if claim.experiment is knowledge]
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"# Claims\n\n{BEGIN}\n{END}\n")
    words = ["-m", "experiments.claims", f"--out={tmp_path / 'out'}", "--size=tiny", "--seeds=1", f"--docs={page}"]
    done = run(sys.executable, *words, f"--only={','.join(names)}", XLA_FLAGS=HURRY)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "out/claims.json").read_text())
    assert set(kept) == set(names) and {row["verdict"] for row in kept.values()} == {verdicts.ONE}
    for name in names:
        assert f"[picture](figures/claims/{name}.svg)" in page.read_text()
        assert "<svg" in (page.parent / f"figures/claims/{name}.svg").read_text()
    assert (tmp_path / "out/knowledge/experiment.html").exists()
