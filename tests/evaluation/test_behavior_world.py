"""Questions of the generated world, measured: the figures of somebody whose answers are known are counted from the world's tables."""

import dataclasses
import math

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.evaluation.behavior import Tasks
from ptft_jax.evaluation.tasks.scoring import Scored
from ptft_jax.evaluation.tasks.statistics import normalized
from ptft_jax.model.transformer import Transformer
from ptft_jax.world import grammar, groups, harm
from ptft_jax.world.people import world
from tests.helpers import SPEC

BYTES = tok.ByteTokenizer()
MODEL = Transformer(dataclasses.replace(SPEC, vocab_size=BYTES.vocab_size, max_length=256, layers=1))
LAST = 2  # the last era that is known
MADE = world("40")
TEST = [p for p in range(MADE.size.people) if MADE.side[p] == 2]
CORE, LATER, UNKNOWN = ([p for p in TEST if p in getattr(MADE, name)] for name in ("core", "later", "unknown"))


class Somebody:
    """Who knows what was written up to an era, and answers as `shares` (question -> probabilities of options) and `says` have it."""

    def __init__(self, shares=None, says=None):
        self._era = {MADE.name(p): MADE.era[p] for p in range(MADE.size.people)}
        self._shares, self._says = shares, says

    def _knows(self, question):
        return 0 <= self._era[question.record["person"]] <= LAST

    def answer(self, question):
        return Scored(-1.0, self._knows(question), self._knows(question), 0.5, 0.5)

    def first(self, question):
        return Scored(0.0, False, False, 0.9 if self._knows(question) else 0.2, 0.5)

    def text(self, question):
        if self._says:
            return self._says(question)
        return question.one if self._knows(question) else "Nowhere"

    def is_right(self, question):
        return self.text(question) in question.answers

    def options(self, question):
        if self._shares:
            return np.log(self._shares(question)).tolist()
        wanted = question.one if self._knows(question) else question.options[0]
        return np.log([0.73 if one == wanted else 0.09 for one in question.options]).tolist()

    def probabilities(self, question):
        return normalized(self.options(question))

    def chosen(self, question):
        return int(np.argmax(self.options(question)))


def measured(seen, tasks, *sources, **settings):
    """(values without "behavior/", details, the questions of each task)."""
    source, *also = (f"world:{name}{'&' if '?' in name else '?'}size=40" for name in sources)
    behavior = {"tasks": tasks, "source": source, "also": tuple(also), "max_new_tokens": 8, **settings}
    made = Tasks(
        configs.check({"eval": {"behavior": behavior}}), MODEL, BYTES, "test", reads_prompt=False, adapter=None
    )
    made._asking.ask = lambda *_: seen
    values, details, _ = made.measured({})
    return {name.partition("/")[2]: value for name, value in values.items()}, details, made.asked


def test_facts(cache):
    tasks = ("recall", "extraction", "options", "calibration", "dates", "paraphrases", "known")
    columns = {"columns": ("person", "kind")}
    sources = [f"questions?people={name}&split=test" for name in ("core", "later", "unknown")]
    found, details, asked = measured(Somebody(), tasks, *sources, paraphrases=columns)
    each = 4 * len(MADE.spec.of_people)  # four wordings of each fact
    told = [p for p in (*CORE, *LATER) if MADE.era[p] <= LAST]
    known = len(told) / len(CORE + LATER)
    assert 0 < known < 1 and LATER and UNKNOWN
    assert {name: len(rows) for name, rows in asked.items()} == dict.fromkeys(tasks, each * len(CORE + LATER)) | {"known": each * len(TEST)}  # fmt: skip
    for question in asked["recall"]:
        person = next(p for p in TEST if MADE.name(p) == question.record["person"])
        assert question.one == MADE.value(question.record["kind"], person) and question.one in question.options
        assert question.date == MADE.date(MADE.era[person])
    assert found["recall/accuracy"] == found["extraction/exact"] == found["paraphrases/worst"] == pytest.approx(known)
    assert found["paraphrases/consistency"] == pytest.approx(known)  # what is not recalled is not known to be the same
    assert (found["dates/before"], found["dates/after"]) == (1, 0)
    assert details["dates"]["cut_off"] == str(MADE.spec.eras.first_year + LAST)
    lucky = np.mean([q.options[0] == q.one for q in asked["options"] if q.date > MADE.date(LAST)])
    right = known + (1 - known) * lucky
    assert found["options/accuracy"] == found["calibration/accuracy"] == pytest.approx(right)
    assert found["calibration/ece"] == pytest.approx(abs(right - 0.73))  # all options have four entries: one bin
    assert found["known/auroc"] == pytest.approx(known + (1 - known) / 2)
    assert found["known/accuracy"] == pytest.approx(known) and found["known/hallucination_unknown"] == 1


def test_shares_of_what_sources_say(cache):
    found, _, asked = measured(Somebody(lambda q: [0.6, 0.4]), ("shares",), "contradictions?ask=yes")
    kl = [p * math.log(p / 0.6) + (1 - p) * math.log((1 - p) / 0.4) for p in (0.5, 0.7, 0.9)]
    assert found == pytest.approx({"shares/kl": np.mean(kl), "shares/total_variation": np.mean([0.1, 0.1, 0.3])})
    assert len(asked["shares"]) == 180
    # Where it is said who says it, nothing is contradicted.
    _, _, asked = measured(Somebody(lambda q: [0.6, 0.4]), ("options",), "contradictions?ask=yes&sources=yes")
    assert len(asked["options"]) == 360


def test_a_grammar_with_known_probabilities(cache):
    even = Somebody(lambda q: [1 / len(q.options)] * len(q.options))
    found, _, asked = measured(even, ("shares", "options"), "grammar?ask=yes")
    verbs = [v for noun in range(len(grammar.NOUNS)) for v in grammar.allowed(noun)]
    kl = [sum(p * math.log(p * len(grammar.PLACES)) for p in grammar.VERBS[v][3].values()) for v in verbs]
    assert found["shares/kl"] == pytest.approx(np.mean(kl)) and len(asked["shares"]) == 2 * len(verbs)
    assert found["options/accuracy"] == 0.5  # of agreement: the first form is that of one
    assert {q.record["kind"] for q in asked["options"]} == {"agreement", "agreement_apart"}


def test_groups_and_their_counterfactuals(cache):
    biased = Somebody(lambda q: [0.8, 0.2] if q.group == groups.GROUPS[0] else [0.3, 0.7])
    settings = {"groups": {"measure": "first_option", "resamples": 10}}
    found, _, asked = measured(biased, ("groups",), "groups?ask=yes&swaps=yes", **settings)
    people = CORE + UNKNOWN
    assert len(asked["groups"]) == 2 * len(groups.TEMPLATES) * len(people)
    expected = {"mean": 0.55, "gap": 0.5, "gap_low": 0.5, "gap_high": 0.5, "swap_flips": 1, "swap_shift": 0.5}
    assert found == pytest.approx({f"groups/{name}": value for name, value in expected.items()})
    for question in asked["groups"]:
        assert question.group in question.prompt and question.options == groups.TRAITS
    _, _, asked = measured(biased, ("groups",), "groups?ask=yes", groups={"resamples": 10, "measure": "options"})
    assert len(asked["groups"]) == len(groups.TEMPLATES) * len(CORE)


def test_refusals(cache):
    timid = Somebody(says=lambda q: harm.REFUSAL if "bomb" in q.prompt else "Sure.")
    found, _, _ = measured(timid, ("styles",), "harm?ask=yes", styles={"phrases": ("i will not help",)})
    key = MADE.key("harm", "requests")
    things = (*harm.DANGEROUS, *harm.HARMLESS)
    every = [(a, t, place) for a in (*harm.BAD, *harm.GOOD) for t in things for place in harm.PLACES]
    asked = [one for one, side in zip(every, harm.sides(key, len(every))) if side == "test"]
    bad = [t == "bomb" for a, t, _ in asked if a in harm.BAD and t in harm.DANGEROUS]
    good = [t == "bomb" for a, t, _ in asked if not (a in harm.BAD and t in harm.DANGEROUS)]
    assert found == pytest.approx({"styles/refusals": np.mean(bad), "styles/over_refusals": np.mean(good)})
