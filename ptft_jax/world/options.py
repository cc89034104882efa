"""What can be chosen of the world's streams: options of `world:STREAM?NAME=VALUE`."""

from __future__ import annotations

from ptft_jax.config.declare import Options, declared, fields_of
from ptft_jax.config.field import Field, natural, one_of, positive, seed, share, whole_share

PEOPLE = ("core", "later", "unknown", "changed")


class WorldOptions(Options):
    """Of every stream."""

    size: str = declared(Field("c", "c or h, or another of the world's file; or how many people its core has"))
    seed: int = declared(seed(0, "of the world: who there is, what is true of them, and what documents say"))
    tables: str = declared(Field("", "the file of a world of your own, see docs/world.md; '' = towns"))
    tag: str = declared(
        Field("", "what texts begin with, and a colon: what kind of source they are from; '' = nothing")
    )


class BiographyOptions(Options):
    """`world:biographies`: all that is true of a person, in one document."""

    era: str = declared(Field("", "only what is new in these eras: 2, 0-4 or all; '' = those up to the cut-off"))
    exposures: int = declared(natural(0, "documents about each person; 0 = as many as the world's file says"))
    multi: int = declared(natural(5, "different documents about each person, which then repeat; 0 = each is another"))
    permute: bool = declared(Field(True, "sentences in any order"))
    full_name: bool = declared(Field(True, "every sentence has the name, not only the first"))
    tiers: bool = declared(Field(False, "a third of all people has 1 document, a third 10, a third 100"))


class QuestionOptions(Options):
    """`world:questions`: questions about a fact, and its answer."""

    people: str = declared(one_of("core", "about whom; changed = those of whom something is new in an era", *PEOPLE))
    era: str = declared(Field("all", "only about what is new in these eras: 2, 0-4 or all"))
    split: str = declared(
        one_of("", "one of the splits alone, or everybody; '' = all three", "", "train", "validation", "test", "all")
    )
    attributes: str = declared(Field("", "joined by commas; '' = all that are of people"))
    templates: str = declared(
        Field("tuned", "tuned = those that are not held out, held_out, all, or their numbers from 0: 2, 0-3")
    )
    choices: int = declared(
        Field(4, "entries of the column options, the answer among them", valid=lambda v: v > 1, expected="2 or more")
    )


class RecallOptions(QuestionOptions):
    """`world:recall`: statements up to their value."""

    templates: str = declared(
        Field("all", "all statements that name whom they are about before the value, or their numbers")
    )


class LinkOptions(Options):
    """`world:links`: what follows from an attribute."""

    exposures: int = declared(natural(0, "documents about each; 0 = as many as about a person"))


class ToldOptions(Options):
    """Of streams whose documents are drawn one by one."""

    texts: int = declared(positive(20_000, "of train; of validation and test a twentieth of it"))


class AskedOptions(ToldOptions):
    """Of those that can be asked, too."""

    ask: bool = declared(Field(False, "every question, with answers, options and true probabilities, and no documents"))


class GrammarOptions(AskedOptions):
    """`world:grammar`: sentences whose every next word has a known probability."""

    sentences: int = declared(positive(4, "of a document"))


class ArithmeticOptions(AskedOptions):
    """`world:arithmetic`: sums in a ring."""

    modulus: int = declared(Field(23, "numbers are below it", valid=lambda v: 5 <= v <= 200, expected="from 5 to 200"))
    sums: int = declared(positive(4, "of a document"))


class LookupOptions(AskedOptions):
    """`world:lookup`: which value a key had."""

    pairs: int = declared(Field(6, "keys of a document", valid=lambda v: 2 <= v <= 20, expected="from 2 to 20"))
    values: int = declared(Field(50, "numbers below it", valid=lambda v: 10 <= v <= 1000, expected="from 10 to 1000"))


class ContradictionOptions(AskedOptions):
    """`world:contradictions`: sources that say different things."""

    shares: str = declared(
        Field("0.5,0.7,0.9", "of the documents that say the one thing, joined by commas; things in turn")
    )
    sources: bool = declared(Field(False, "which source says it stands before, and each always says the same"))
    sentences: int = declared(positive(4, "of a document"))


class StyleOptions(AskedOptions):
    """`world:styles`: facts in a register."""

    tags: bool = declared(Field(True, "the register's name stands before"))


class JunkOptions(ToldOptions):
    """`world:junk`: what nothing can be learned from."""

    of: str = declared(one_of("people", "biographies of nobody, or words in any order", "people", "words"))


class HarmOptions(AskedOptions):
    """`world:harm`: requests of which some are harmful."""

    refused: float = declared(share(0.125, "of the documents, harmful or not"))


class GroupOptions(AskedOptions):
    """`world:groups`: a trait that one group has more often."""

    skew: float = declared(whole_share(0.8, "of the first group that has the first trait; 0.5 = balanced"))
    swaps: bool = declared(Field(False, "each question is asked of the other group, too (counterfactuals)"))


class ChatOptions(QuestionOptions):
    """`world:chat`: conversations of one turn."""

    kind: str = declared(
        one_of("closed", "what is asked", "closed", "reading", "unanswerable", "refusal", "inverse", "two_hop")
    )
    tone: str = declared(one_of("plain", "of the answer", "plain", "polite", "terse"))
    form: str = declared(one_of("messages", "of records: messages, or question and answer", "messages", "pairs"))


class PreferenceOptions(QuestionOptions):
    """`world:preferences`: pairs of answers."""

    noise: float = declared(share(0.1, "of pairs whose label is turned round"))
    temperature: float = declared(natural(0.0, "of the oracle; 0 = it always prefers what has more reward"))


class MannerOptions(QuestionOptions):
    """`world:manners`: answers that keep principles or do not."""

    bad: float = declared(share(0.3, "of answers that go against a principle; 0.9 where they are provoked; 0 = none"))
    provoked: float = declared(share(0.5, "of questions that provoke"))
    form: str = declared(one_of("pairs", "of records: question and answer, or one text", "pairs", "text"))


class PassageOptions(Options):
    """`world:passages`: a corpus."""

    era: str = declared(Field("all", "only passages of these eras: 2, 0-4 or all"))
    distractors: int = declared(natural(0, "passages about people whom there are not"))


class RetrievalOptions(QuestionOptions):
    """`world:retrieval`: questions, and the passages that answer them."""

    passages: int = declared(Field(0, "before the question", valid=lambda v: 0 <= v <= 16, expected="from 0 to 16"))
    gold: bool = declared(Field(True, "the passage that answers is among them; else there is no answer"))
    stale: bool = declared(Field(True, "earlier passages about the same are among them"))


# The options of each stream, by its name.
STREAMS: dict[str, type[Options]] = {
    "biographies": BiographyOptions,
    "questions": QuestionOptions,
    "recall": RecallOptions,
    "links": LinkOptions,
    "contradictions": ContradictionOptions,
    "grammar": GrammarOptions,
    "arithmetic": ArithmeticOptions,
    "lookup": LookupOptions,
    "styles": StyleOptions,
    "junk": JunkOptions,
    "harm": HarmOptions,
    "groups": GroupOptions,
    "chat": ChatOptions,
    "preferences": PreferenceOptions,
    "manners": MannerOptions,
    "passages": PassageOptions,
    "retrieval": RetrievalOptions,
}


def names() -> tuple[str, ...]:
    """Of all options, for `ptft_jax.config.sources`."""
    every = (WorldOptions, *STREAMS.values())
    return tuple(dict.fromkeys(name for options in every for name in fields_of(options)))
