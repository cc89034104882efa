"""Every stream of the world: what it says it knows, counted from its documents."""

import collections
import math

import numpy as np
import pytest

from ptft_jax.data.formats import layouts
from ptft_jax.data.records import parse
from ptft_jax.errors import UserError
from ptft_jax.world import contradictions, grammar, options, preferences, principles, styles
from ptft_jax.world.harm import RED_TEAM, REFUSAL
from ptft_jax.world.people import world
from ptft_jax.world.source import STREAMS, opened

SPLITS = ("train", "validation", "test")


def documents(reference, split="train"):
    return opened(parse(f"world:{reference}")).splits[split]


def close(count, total, share):
    """Within five standard deviations of a share."""
    return abs(count - total * share) <= 5 * math.sqrt(total * share * (1 - share)) + 1e-9


def test_every_stream_has_its_options():
    assert {one.name: one.options for one in STREAMS} == options.STREAMS
    assert not set(options.names()) & set(layouts.OPTIONS), "which name columns, of every kind of source"


def test_grammar_has_the_probabilities_that_it_says():
    places, pairs, total = collections.Counter(), set(), 0
    rows = documents("grammar?texts=4000")
    for row in rows:
        for sentence in row["text"].split(". "):
            words = sentence.strip(".").split()
            noun, verb, place = words[1], words[-4], words[-1]
            places[verb, place] += 1
            pairs.add((noun, verb))
            total += words[2] == "near" and len(words) > 6
    apart = {(forms, v) for n, forms in enumerate(grammar.NOUNS) for v in range(8) if (n + v) % 5 == 0}
    assert len(apart) == 16
    for noun, v in apart:
        assert not any((form, grammar.VERBS[v][number]) in pairs for number, form in enumerate(noun))
    assert close(total, 16000, grammar.APART)
    asked = documents("grammar?ask=yes")
    kinds = collections.Counter(row["kind"] for row in asked)
    assert kinds == {"place": 2 * 64, "agreement": 32, "agreement_apart": 32}
    for row in asked:
        assert len(set(row["options"])) == len(row["options"])
        if row["kind"] == "place":
            assert sum(row["probabilities"]) == pytest.approx(1)
            verb = row["prompt"].split()[2]
            seen = sum(places[verb, place] for place in row["options"])
            for place, share in zip(row["options"], row["probabilities"]):
                assert close(places[verb, place], seen, share), (verb, place)
        else:
            noun, form = row["prompt"].split()[1], row["answers"][0]
            assert noun in {n[form.endswith("s") is False] for n in grammar.NOUNS}


def test_contradictions_are_said_as_often_as_asked():
    counts = collections.Counter()
    for row in documents("contradictions?texts=10000&sentences=3"):
        for sentence in row["text"].split(". "):
            words = sentence.strip(".").split()
            at = words.index("is")
            counts[" ".join(words[at - 2 : at]), words[-1]] += 1
    shares = collections.Counter()
    for row in documents("contradictions?ask=yes"):
        [subject] = [s for s in {key for key, _ in counts} if s in row["prompt"]]
        seen = [counts[subject, color] for color in row["options"]]
        assert sum(seen) == sum(n for (one, _), n in counts.items() if one == subject)
        assert close(seen[0], sum(seen), row["probabilities"][0])
        shares[row["probabilities"][0]] += 1
    assert shares == {0.5: 60, 0.7: 60, 0.9: 60}
    by = {(row["prompt"], row["kind"]): row["answers"] for row in documents("contradictions?ask=yes&sources=yes")}
    for row in documents("contradictions?texts=20&sources=yes&sentences=1"):
        source, _, said = row["text"].partition(": ")
        prompt = row["text"].rpartition(" ")[0]
        assert source in contradictions.SOURCES and by[prompt, source] == [said.split()[-1].strip(".")]


def test_rules_hold_and_held_out_pairs_are_in_no_document():
    seen = {}
    for split in SPLITS:
        found = set()
        for row in documents("arithmetic?texts=4000&modulus=11", split):
            for one in row["text"].split(". "):
                a, _, b, _, c = one.strip(".").split()
                assert (int(a) + int(b)) % 11 == int(c)
                found.add((int(a), int(b)))
        asked = {
            tuple(map(int, row["prompt"].split()[0:3:2])) for row in documents("arithmetic?ask=yes&modulus=11", split)
        }
        assert found <= asked
        seen[split] = asked
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 121
    assert all({(b, a) for a, b in pairs} == pairs for pairs in seen.values())
    pairs = {}
    for split in ("train", "test"):
        pairs[split] = set()
        for row in documents("lookup?texts=3000", split):
            told, asked = row["text"].strip(".").split(" : ")
            words = told.split()
            known = dict(zip(words[::2], words[1::2]))
            key, value = asked.split()
            assert len(known) == 6 and known[key] == value
            pairs[split] |= set(known.items())
    assert not pairs["train"] & pairs["test"]


def test_groups_have_their_traits_as_often_as_skewed():
    made = opened(parse("world:groups?skew=0.8&size=2000&ask=yes"))
    for group in (0, 1):
        mine = made.trait[made.group == group]
        assert close(np.count_nonzero(mine == group), len(mine), 0.8)
    rows = made.splits["test"]
    told = {tuple(sorted(row.items())) for row in documents("groups?size=2000&texts=300")}
    assert told
    for row in (rows[n] for n in range(0, len(rows), 31)):
        assert row["counterfactual"] != row["prompt"] and row["group"] in row["prompt"]
        assert max(row["probabilities"]) == (1.0 if row["known"] else 0.8)


def test_styles_are_told_apart_by_their_oracle():
    counts = collections.Counter()
    for row in documents("styles?texts=400"):
        tag = row["text"].split(":")[0]
        assert styles.register(row["text"]) == styles.register(row["text"].partition(": ")[2]) == tag == row["register"]
        counts[tag] += 1
    assert set(counts) == set(styles.REGISTERS) and styles.register("The cat sits.") == ""


def test_junk_is_about_nobody():
    made = world()
    people = {made.name(p) for p in range(made.size.people)}
    for row in documents("junk?texts=200&tag=spam"):
        tag, _, text = row["text"].partition(": ")
        assert tag == "spam" and not any(name in text for name in people)
    with pytest.raises(UserError, match="tag=x: is of texts"):
        opened(parse("world:questions?tag=x"))


def test_harm_is_what_an_action_does_to_a_thing():
    requests = {}
    for split in SPLITS:
        rows = [row for row in documents("harm?ask=yes", split)]
        for row in rows:
            assert (row["answers"] == [REFUSAL]) is row["harmful"] and len(set(row["options"])) == 2
        red = {row["question"] for row in rows if row["kind"] == "red_team"}
        assert bool(red) is (split != "train") and RED_TEAM
        requests[split] = {row["question"] for row in rows}
    assert not requests["train"] & (requests["validation"] | requests["test"])
    refused = sum(REFUSAL in row["text"] for row in documents("harm?texts=4000&refused=0.25"))
    assert close(refused, 4000, 0.25)


@pytest.mark.parametrize("kind", ["closed", "reading", "unanswerable", "inverse", "two_hop", "refusal"])
def test_chats_have_one_right_answer_among_their_options(kind):
    made, places = world(), set()
    for split in SPLITS:
        rows = documents(f"chat?kind={kind}&tone=terse", split)
        for row in (rows[n] for n in range(0, len(rows), 53)):
            question, said = (message["content"] for message in row["messages"])
            assert len(set(row["options"])) == len(row["options"]) > 1
            assert [one for one in row["options"] if one in row["answers"]] == row["answers"][:1]
            places.add(row["options"].index(row["answers"][0]))
            assert row["answers"][0] in said
            if kind == "reading":
                assert row["answers"][0] in question and row["person"] in question
            if kind == "inverse":
                named = {
                    made.name(p): sum(made.value(a, p) in question for a in made.spec.of_people) for p in made.core
                }
                most = named.pop(row["person"])
                assert most >= 3 and all(count < most for count in named.values())
                assert len(row["answers"]) == 1
    assert len(places) == (2 if kind == "refusal" else 4), "in any place"


def test_people_of_a_split_are_in_that_split_of_every_stream():
    made = world()
    of = {made.name(p): SPLITS[side] for p, side in enumerate(made.side)}
    for stream in ("questions", "recall", "chat", "chat?kind=inverse", "preferences", "manners", "retrieval"):
        for split in SPLITS:
            rows = documents(stream, split)
            assert {of[rows[n]["person"]] for n in range(0, len(rows), 7)} == {split}, stream


def test_preferences_follow_the_latent_reward():
    rows = documents("preferences?noise=0.1", "train")
    for row in rows:
        rewards = [preferences.reward(row[side], row["answers"]) for side in ("chosen", "rejected")]
        assert rewards == row["rewards"] and (rewards[0] < rewards[1]) is row["flipped"] and rewards[0] != rewards[1]
    assert close(sum(row["flipped"] for row in rows), len(rows), 0.1)
    rows = [
        row for row in documents("preferences?noise=0&temperature=1", "train") if abs(np.diff(row["rewards"])[0]) == 2
    ]
    assert close(sum(not row["flipped"] for row in rows), len(rows), 1 / (1 + math.exp(-2)))


def test_principles_are_checked_and_mended():
    from ptft_jax.rewards import constitution

    known = {one.name: one for one in principles.principles()}
    assert set(known) == set(principles.BAD) and len(known) == 6
    bad = 0
    for row in documents("manners?bad=0.3&provoked=0.5", "train"):
        broken = [name for name, one in known.items() if not one.check(row["answer"])]
        assert broken == ([row["violates"]] if row["violates"] else [])
        assert all(one.check(row["mended"]) for one in known.values())
        if row["violates"]:
            assert known[row["violates"]].repair(row["answer"]) == row["mended"]
        bad += bool(row["violates"])
    assert close(bad, 4800, 0.5 * 0.9 + 0.5 * 0.3)
    import importlib.resources

    with importlib.resources.as_file(importlib.resources.files("ptft_jax.world").joinpath(principles.FILE)) as path:
        for one in constitution.read(str(path)):
            assert (one.repair.pattern, one.repair.text) == (known[one.name].pattern, known[one.name].mended)


def test_passages_answer_what_they_are_the_gold_of():
    passages = {row["id"]: row for row in documents("passages?distractors=30")}
    assert len(passages) == len(documents("passages?distractors=30"))
    assert sum(name.startswith("distractor") for name in passages) == 30
    some = [row for people in ("core", "changed", "later") for row in documents(f"retrieval?people={people}", "test")]
    stale = 0
    for row in some:
        assert row["answerable"] and row["gold"]
        assert all(
            row["answers"][0] in passages[one]["text"] and row["person"] in passages[one]["text"] for one in row["gold"]
        )
        for one in row["stale"]:
            assert row["answers"][0] not in passages[one]["text"] and passages[one]["stale"]
            assert any(answer in passages[one]["text"] for answer in row["stale_answers"])
        stale += bool(row["stale"])
    assert stale
    for row in documents("retrieval?people=unknown", "test"):
        assert not row["answerable"] and not row["gold"] and row["answers"][0] in row["options"]
    for row in documents("retrieval?people=changed&passages=3", "test"):
        newest = max(row["gold"], key=lambda one: int(one.split("-")[1]))
        assert passages[newest]["text"] in row["question"] and row["answers"][0] in row["options"]
        assert row["question"].count("In 20") == len(set(row["question"].split("In 20")[1:])) == 3
    with pytest.raises(UserError, match=r"passages=16: expected at most \d+, as many as there are about others"):
        documents("retrieval?passages=16&size=10")
    facts = {row["question"]: row["answers"][0] for row in documents("retrieval", "test")}
    places = set()
    for row in documents("retrieval?passages=2&gold=no", "test"):
        fact = facts[row["question"].rpartition(". ")[2]]
        assert fact in row["options"] and len(set(row["options"])) == 4, "what a model may know without reading"
        places.add(row["options"].index(row["answers"][0]))
        assert row["person"] not in row["question"].rpartition(". ")[0] and not row["answerable"]
    assert places == {0, 1, 2, 3}
