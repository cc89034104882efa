"""Files of claims: what each has, what it asks of its experiment, the table of verdicts, and a miniature."""

import json
import pathlib
import re
import statistics
import sys

import pytest

from experiments import answers, fresh, knowledge, retrieved, shifted, specialists, starts, texts, verdicts
from experiments.claims.__main__ import BEGIN, END, every, inserted, table
from ptft_jax.errors import UserError
from ptft_jax.world.people import world
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
        "what a key had": 0.9, "answers in two hops": 0.2,
    }  # fmt: skip
    by_way = {
        "answers about others": {"base": 0.0, "asked": 0.92},
        "known from unknown (AUROC)": {"base": 0.85, "asked": 0.57},
        "spread over wordings": {"one": 0.15, "asked": 0.01},
        "bias": {"base": 0.6, "mended": 0.1},
        "read off the name": {"base": 0.1, "asked": 0.9},
        "read off the question": {"base": 0.1, "asked": 0.9},
    }

    def value(way, what):
        mean = by_way[what][way] if what in by_way else knows[what]
        return [mean, mean + 0.001]

    found = {
        name: claim.judged(measured(knowledge, value))["verdict"]
        for name, claim in CLAIMS.items()
        if claim.experiment is knowledge
    }
    failed = {name for name, verdict in found.items() if verdict != verdicts.HOLDS}
    assert failed == {"rules_not_memorizing", "two_hops"} and {found[name] for name in failed} == {verdicts.FAILS}
    assert len(found) == 13


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


def test_other_letters_are_the_same_text():
    text = "Now, Harry! Whence come you? 1599"
    other = starts.permuted(text)
    assert other != text and [c for c in other if not c.isalpha()] == [c for c in text if not c.isalpha()]
    assert [c.isupper() for c in other] == [c.isupper() for c in text]
    assert len(set(zip(text, other))) == len(set(text)) == len(set(other))  # one for one


def test_ranks_of_bases_and_children():
    """Of two seeds: children in the order of their bases, and two of them the other way round (Spearman: 1 - 6 * 2 / (4 * 15))."""
    made = {f"base-{steps}": {"nll of other plays": [nll, nll]} for steps, nll in zip(starts.STEPS, (4, 3, 2, 1))}
    made |= {f"child-{s}": {"nll": [a, b]} for s, a, b in zip(starts.STEPS, (0.9, 0.5, 0.4, 0.3), (0.9, 0.4, 0.5, 0.3))}
    assert starts.correlations(made) == pytest.approx([1.0, 0.8])
    made |= {"far": {"nll": [1.5, 2.0]}, "far-scratch": {"nll": [2.0, 2.0]}}
    assert starts.gains(made) == [0.25, 0.0]


def test_the_worst_of_twelve():
    made = {f"{kind}-{n}": {"recall": [1.0, 0.8]} for kind in ("adapter", "full") for n in specialists.NUMBERS}
    made["adapter-7"] = {"recall": [0.9, 0.2]}
    assert specialists.worst(made) == pytest.approx([0.9, 0.25])


@pytest.mark.parametrize(
    "new, old", [(0.0, 1.0), (0.25, 0.9), (0.5, 0.8), (0.75, 0.5), (1.0, 0.2), (1.5, 0.2)]
)  # the points, and lines between them; beyond them the last
def test_what_plain_tuning_still_knows(new, old):
    points = [(0.0, 1.0), (0.5, 0.8), (0.4, 0.1), (1.0, 0.2)]
    assert fresh.between(points, new) == pytest.approx(old)


def test_texts_to_read_ask_for_what_they_tell(tmp_path):
    """By the world's own templates: each answer stands in its passage, and is asked for after it, about nobody whom there is."""
    place = pathlib.Path(retrieved.write_practice(tmp_path, "tiny").removeprefix("jsonl:"))
    made, texts = world("20"), [json.loads(line)["text"] for line in place.read_text().splitlines()]
    people = {made.name(person) for person in range(made.size.people)}
    values = {value for one in made.spec.of_people for value in made.tables[made.spec.attributes[one].table]}
    assert len(texts) == 50
    for text in texts:
        told, *answers = text.split("? ")
        assert not any(name in text for name in people)
        found = [next(value for value in values if answer.startswith(value)) for answer in answers]
        assert len(found) == len(set(found)) == retrieved.ASKED_OF and all(value in told for value in found)


def test_answers_that_are_written_are_as_wrong_as_is_said(tmp_path):
    answers.write_answers(tmp_path, "demo")
    answers.write_sums(tmp_path, "demo")
    rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    made = world("100")
    true = {made.name(p): {made.value(one, p) for one in made.spec.of_people} for p in range(made.size.people)}

    def right(row):
        return any(row["answer"].strip() in known for name, known in true.items() if name in row["question"])

    assert len(rows["clean"]) == 120 and all(map(right, rows["clean"]))
    assert len(rows["noisy"]) == 1200 and 0.25 < 1 - statistics.mean(map(right, rows["noisy"])) < 0.35
    for name in ("sums", "asked"):
        for row in rows[name]:
            a, b = map(int, re.findall(r"\d+", row["question"]))
            assert row["answer"] == f" {(a + b) % 11}"
    assert not {row["question"] for row in rows["sums"]} & {row["question"] for row in rows["asked"]}


NEW = (answers, fresh, retrieved, shifted, specialists, starts, texts)


@pytest.mark.parametrize("experiment", NEW)
def test_a_graph_is_declared(experiment, tmp_path):
    """Of both sizes: what is measured of each way stands in it, and what it names is there."""
    for size in ("demo", "tiny"):
        graph = experiment.declared(tmp_path / size, size, 2)
        names = {node.name for node in graph.ordered()}
        for way, found in measured(experiment).items():
            ends = [end for what, (end, _) in experiment.NAMES.items() if what in found]
            assert all(f"{way}-seed{seed}{end}" in names for seed in range(2) for end in ends)


@pytest.mark.parametrize(
    "of",
    [
        pytest.param((knowledge,), marks=pytest.mark.heavy),
        pytest.param((fresh,), marks=pytest.mark.heavy),
        *(
            pytest.param(some, marks=pytest.mark.slow)
            for some in ((starts, texts, answers), (retrieved, shifted, specialists))
        ),
    ],
)
def test_in_miniature(of, tmp_path):
    """Of those without miniatures of their own. One seed, and what was kept of it goes on."""
    names = [name for name, claim in CLAIMS.items() if claim.experiment in of]
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
    for one in of:
        assert (tmp_path / "out" / one.__name__.rpartition(".")[2] / "experiment.html").exists()
