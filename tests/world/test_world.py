"""The generated world: its random numbers, its splits, which cannot leak, its documents by index alone, its files."""

import collections
import pickle
import re

import numpy as np
import pytest

from ptft_jax.data import records
from ptft_jax.errors import UserError
from ptft_jax.world import draws
from ptft_jax.world.people import world
from ptft_jax.world.reading import read
from ptft_jax.world.stream import Rounds
from tests.processes import ROOT

PAIRS = re.compile(r"(?=\b(\w+ \w+))")  # of words that follow each other


def opened(reference, split="train"):
    return records.open_records(reference, split, held_out=0.1)


def test_the_random_numbers_are_splitmix64():
    """The first numbers of the published generator for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [draws.mix((1234567 + n * 0x9E3779B97F4A7C15) % 2**64) for n in range(1, 5)] == published
    key = draws.key("a", 1)
    assert draws.numbers(key, 50).tolist() == [draws.Draws(key, n).number() for n in range(50)]
    assert draws.key("ab", "c") != draws.key("a", "bc")


def test_draws_are_even_and_orders_are_permutations():
    random = draws.Draws(draws.key("even"), 3)
    counts = collections.Counter(tuple(random.order(3)) for _ in range(6000))
    assert len(counts) == 6 and all(abs(n - 1000) < 5 * 30 for n in counts.values())
    counts = collections.Counter(tuple(sorted(random.sample(2, 4))) for _ in range(6000))
    assert len(counts) == 6 and all(abs(n - 1000) < 5 * 30 for n in counts.values())
    for count in (1, 2, 3, 4, 30, 97, 1000):
        assert sorted(draws.Shuffle(5, count)[n] for n in range(count)) == list(range(count))
    times = np.asarray([1, 100, 10, 1, 0])
    rounds = Rounds(7, times)
    found = collections.Counter(rounds[n] for n in range(rounds.total))
    assert found == {(who, n): 1 for who, most in enumerate(times.tolist()) for n in range(most)}


@pytest.mark.parametrize("size", ["c", "50"])
def test_splits_cannot_leak(cache, size):
    """By the texts alone: whom questions that are tuned on name, and whom documents before the cut-off name."""
    base = f"size={size}&seed=3"
    made = world(size, 3)
    names = {kind: {made.name(p) for p in getattr(made, kind)} for kind in ("core", "later", "unknown")}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == made.size.people

    def told(reference, split="train", column="text"):
        rows = opened(reference, split)
        pairs = {pair for text in {rows[n][column] for n in range(len(rows))} for pair in PAIRS.findall(text)}
        return {name for group in names.values() for name in group & pairs}

    before = told(f"world:biographies?{base}")
    assert before == names["core"]
    ever = told(f"world:biographies?{base}&era=all&exposures=1")
    assert ever == names["core"] | names["later"]
    sides = {}
    for people in ("core", "later", "unknown"):
        asked = [told(f"world:questions?{base}&people={people}", split, "question") for split in records.SPLITS]
        assert set().union(*asked) == names[people] and sum(map(len, asked)) == len(names[people])
        sides[people] = asked
    assert [len(one) / len(names["core"]) for one in sides["core"]] == pytest.approx([0.5, 0.1, 0.4], abs=0.02)
    first = made.spec.eras.before
    for era in range(made.spec.eras.count):
        new = told(f"world:biographies?{base}&era={era}&exposures=1")
        assert not new & names["unknown"]
        assert bool(new & names["later"]) is (era >= first)
        people = np.flatnonzero(made.era == era)
        changed = made.changed("employer", era)
        assert new == {made.name(p) for p in [*people, *changed]} and (len(changed) > 0) is (era >= first)


def test_what_is_written_is_true_and_is_what_is_asked(cache):
    made = world("c", 0)
    values = {made.name(p): {a: made.value(a, p) for a in made.spec.of_people} for p in range(made.size.people)}
    rows = opened("world:biographies?multi=0")
    for n in range(0, len(rows), 499):
        row = rows[n]
        assert row["text"].count(row["person"]) == 6 and all(v in row["text"] for v in values[row["person"]].values())
    rows = opened("world:questions?templates=all&choices=3", "test")
    assert len(rows) == 160 * 6 * 6 and len({rows[n]["question"] for n in range(len(rows))}) == len(rows)
    for n in range(0, len(rows), 97):
        row = rows[n]
        assert row["answers"] == [values[row["person"]][row["kind"]]] == [row["answer"].strip()]
        assert (
            len(set(row["options"])) == 3 and row["answers"][0] in row["options"] and row["person"] in row["question"]
        )
    tuned, held = (opened(f"world:questions?templates={which}", "test") for which in ("tuned", "held_out"))
    texts = [{rows[n]["question"] for n in range(len(rows))} for rows in (tuned, held)]
    assert not texts[0] & texts[1] and len(texts[0]) == 2 * len(texts[1]) == 160 * 6 * 4


def test_switches_of_biographies(cache):
    def texts(options):
        rows = opened(f"world:biographies?size=20&exposures=30&{options}")
        by = collections.defaultdict(list)
        for n in range(len(rows)):
            by[rows[n]["person"]].append(rows[n]["text"])
        return by

    single = texts("multi=1&permute=no&full_name=no")
    assert len(single) == 20 and all(len(set(found)) == 1 and len(found) == 30 for found in single.values())
    made = world("20")
    for name, (text, *_) in single.items():
        person = next(p for p in made.core if made.name(p) == name)
        places = [text.index(made.value(a, person)) for a in made.spec.of_people]
        assert text.count(name) == 1 and places == sorted(places) and text.lower().count("this person") == 5
    assert {len(set(found)) for found in texts("multi=5").values()} == {5}
    assert {len(set(found)) for found in texts("multi=0").values()} == {30}
    rows = opened("world:biographies?size=30&tiers=yes")
    counts = collections.Counter(rows[n]["person"] for n in range(len(rows)))
    assert collections.Counter(counts.values()) == {1: 10, 10: 10, 100: 10}


def test_a_document_needs_none_before_it(cache):
    """In any order, of another object, in another process; other seeds are other worlds."""
    reference = "world:biographies?size=40&multi=0"
    rows = opened(reference)
    some = [17, 3, len(rows) - 1, 0]
    found = [rows[n] for n in some]
    again = opened(reference)
    assert [again[n] for n in reversed(some)] == found[::-1]
    moved = pickle.loads(pickle.dumps(rows))
    assert [moved[n] for n in some] == found and moved.fingerprint == rows.fingerprint
    assert opened("world:biographies?size=40&multi=0&seed=1").fingerprint != rows.fingerprint
    assert world("40", 1).fingerprint != world("40", 0).fingerprint == world("40", 0).manifest()["fingerprint"]


OWN = "\n" + re.search(r"^```toml\n(.*?)^```$", (ROOT / "docs/world.md").read_text(), re.S | re.M)[1]


def test_a_world_of_ones_own(cache, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    assert len(OWN.strip().splitlines()) < 30
    rows = opened(f"world:biographies?tables={path}")
    assert len(rows) == 30 and any("likes" in rows[n]["text"] for n in range(30))
    first = rows.fingerprint
    path.write_text(OWN.replace("likes", "loves"))
    assert opened(f"world:biographies?tables={path}").fingerprint != first
    assert len(opened(f"world:questions?tables={path}", "train")) == 5 * 2 * 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"{name} wears {color}."',
            '"{name} wears {colour}."',
            r"line 17: attributes.color.statements: .* does not name \{color\}.*'color'",
        ),
        (
            '"{name} wears {color}."',
            '"{name} wears it."',
            r"line 17: attributes.color.statements: .* does not name \{color\}",
        ),
        ('"How old is {name}?"', '"How old?"', r"line 22: attributes.age.questions: .* does not name \{name\}"),
        ('"How old is {name}?"', '"Is {name} {age}?"', r"line 22: attributes.age.questions: .* says more than name"),
        (
            '"How old is {name}?"',
            '"How {old is {name}?"',
            r"line 22: attributes.age.questions: .*expected a name in braces",
        ),
        (
            "[attributes.age]",
            '[attributes.age]\ntable = "ages"',
            r"line 20: attributes.age.table: there is no table 'ages' \(did you mean 'age'",
        ),
        ('["red", "green", "blue"]', "[]", "line 13: tables.color: an empty table"),
        ('"green"', '"red"', "line 13: tables.color: 'red' is there twice"),
        ("later = 2", "latter = 2", "line 8: sizes.c.latter: no such entry; .*'later'"),
        ("unknown = 4", "unknown = 40", "4 x 4 names, and there are 52 people"),
        ("[people]", "[people", "not TOML: .*line 2"),
        ('"{name} is {age}."', '"{age} is {name}."', r"line 21: attributes.age.statements: .*and then \{age\}"),
        ('last = ["Fox", "Hart", "Lamb", "Pike"]', "", "people.last: is missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(old, new, message, tmp_path):
    path = tmp_path / "own.toml"
    assert old in OWN
    path.write_text(OWN.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"own.toml(, |: ){message}" if "line" in message[:4] else message):
        opened(f"world:biographies?tables={path}")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("world:biografies", "expected one of the streams .*'biographies'"),
        ("world:questions?multi=3", "questions has no option 'multi'"),
        ("world:biographies?multi=x", "multi=x: expected a number"),
        ("world:biographies?permute=true", "permute=true: expected yes or no"),
        ("world:biographies?size=huge", "size=huge: expected one of c, h"),
        ("world:biographies?era=9", "era=9: expected all, or .* 0 to 7"),
        ("world:questions?people=laters", "people = 'laters': expected one of .*'later'"),
        ("world:questions?attributes=town", "attributes=town: expected of city"),
        ("world:questions?templates=6", "templates=6: expected tuned, held_out, all, or numbers from 0 to 5"),
        ("world:questions?people=unknown&era=2", "nothing is new in an era"),
        ("world:questions?split=test", "the split test alone, and nothing to train on"),
        ("world:biographies?tables=/nowhere.toml", "/nowhere.toml: cannot be read"),
    ],
)
def test_bad_options_are_refused(reference, message):
    with pytest.raises(UserError, match=message):
        opened(reference)


def test_values_are_single_words_that_no_other_table_has():
    """So a word-level tokenizer has one token for each, which stands for one thing."""
    spec = read()
    words = [value for values in spec.tables.values() for value in values]
    assert len(words) == len(set(words)) and not any(" " in word for word in words)
    for one in spec.attributes.values():
        assert len(one.statements) >= 5 and len(one.questions) >= 6 and one.held_out == 2
