"""What becomes of answers by principles, of a model whose every word is set here."""

import json
import types

import pytest

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.answers import asked
from ptft_jax.evaluation.samples import Continuation
from ptft_jax.feedback import writing
from ptft_jax.feedback.constitution import Check, Principle, Repair
from ptft_jax.feedback.making import Feedback
from ptft_jax.model.decode import Sampling
from ptft_jax.rewards.base import Score, Unscored, Verifier
from tests.evaluation.test_answers import SETTINGS, written

BYTES = tok.ByteTokenizer()
NO_FOOL = Check("regex", {"pattern": "fool"}, None, 0)
POLITE = Principle("polite", "x", "What is rude?", "Say it again.", NO_FOOL)


@pytest.fixture
def model(monkeypatch):
    """Makes a loaded run that answers by a table of what it is given to (text, reason); and notes what it was given."""
    seen = []

    def make(says):
        def continued(self, ids, stop, place):
            texts = [bytes(row).decode() for row in ids]
            seen.append((place, stop, texts))
            found = [says[text] if text in says else says[text, place] for text in texts]
            return [
                Continuation("", *((one, 3, "end") if isinstance(one, str) else (one[0], 3, one[1]))) for one in found
            ]

        monkeypatch.setattr(writing.Writer, "_continued", continued)
        monkeypatch.setattr(writing.decode, "laid_out", lambda params: params)
        source = types.SimpleNamespace(name="runs/x@1", config=configs.check({}))
        sight = types.SimpleNamespace(max_tokens=400)
        return types.SimpleNamespace(source=source, model=sight, params={}, tokenizer=BYTES, reads_prompt=False)

    make.seen = seen
    return make


def questions(tmp_path, *prompts, template=""):
    source = written(tmp_path / "q.jsonl", *({"prompt": p, "completion": "x"} for p in prompts))
    data = configs.check({"data": {"source": source, "template": template}}).data
    return asked(data, source, "", BYTES, 400, SETTINGS)


def test_checks_and_repairs(model, tmp_path, cache):
    repaired = Principle("polite", "x", "", "", NO_FOOL, Repair("you fool", "friend"))
    loaded = model({"a": " yes, you fool", "b": " fool", "c": " fine", "d": (" you fool", "length"), "e": "yes"})
    feedback = Feedback(loaded, questions(tmp_path, *"abcde"), [repaired], refusal="^yes")
    made = feedback.made()
    assert made.revised == [
        {"prompt": "a", "completion": " yes, friend"}, {"prompt": "c", "completion": " fine"}, {"prompt": "e", "completion": "yes"},
    ]  # fmt: skip
    assert made.pairs == [{"prompt": "a", "chosen": " yes, friend", "rejected": " yes, you fool"}]
    assert made.facts["principles"] == {
        "polite": {"violations_before": 3, "violations_after": 1, "changed": 2, "unchanged": 1}
    }
    assert made.facts["pairs"] == {"written": 1, "equal": 1, "undecided": 0, "unended": 1}
    assert made.facts["revised"] == {"written": 3, "left_out": 2} and made.facts["unended"] == 1
    assert made.facts["refusals"] == {"before": 0.2, "after": 0.2} and made.facts["asked"] == 5
    made.write(tmp_path / "out")
    for name, rows in (("revised", made.revised), ("pairs", made.pairs), ("feedback", made.rows)):
        assert [json.loads(line) for line in (tmp_path / f"out/{name}.jsonl").read_text().splitlines()] == rows
    assert json.loads((tmp_path / "out/feedback.json").read_text()) == made.facts
    with pytest.raises(UserError, match="--out=.*out: exists"):
        made.write(tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == {"out", "q.jsonl"}


def test_a_model_looks_at_its_answers_and_writes_them_again(model, tmp_path, cache):
    """Only those that a check finds; in turns where there is a template, else as a text."""
    critique = "a no, fool\n\nCritique request: What is rude?\n\nCritique:"
    revision = "a no, fool\n\nCritique request: What is rude?\n\nCritique: The name.\n\nRevision request: Say it again.\n\nRevision:"
    loaded = model({"a": " no, fool", "b": " no", critique: " The name.\n", revision: " No, friend."})
    made = Feedback(loaded, questions(tmp_path, *"ab"), [POLITE]).made()
    assert made.revised[0] == {"prompt": "a", "completion": " No, friend."}
    assert made.rows[0]["steps"] == [{"principle": "polite", "critique": "The name.", "answer": " No, friend."}]
    assert [stop for _, stop, _ in model.seen] == [(), ("\n\n",), ("\n\n",)] and made.rows[1]["steps"] == []

    def talk(*turns):
        roles = ("user", "assistant")
        said = "".join(f"<|im_start|>{roles[n % 2]}\n{text}<|im_end|>\n" for n, text in enumerate(turns))
        return f"{said}<|im_start|>assistant\n"

    loaded = model({
        talk("a"): "fool", talk("b"): "no", talk("a", "fool", "What is rude?"): "It.",
        talk("a", "fool", "What is rude?", "It.", "Say it again."): "Hi.",
    })  # fmt: skip
    made = Feedback(loaded, questions(tmp_path, *"ab", template="chatml"), [POLITE]).made()
    assert made.revised == [{"prompt": "a", "completion": "Hi."}, {"prompt": "b", "completion": "no"}]
    assert made.pairs == [{"prompt": "a", "chosen": "Hi.", "rejected": "fool"}]


@pytest.mark.parametrize("again", ["", ("Half of", "length"), "still a fool"])
def test_revisions_that_are_none_are_not_taken(again, model, tmp_path, cache):
    class Says(dict):
        def __missing__(self, key):
            return again if "Revision:" in key[0] else "It."

    class Model(dict):
        def __contains__(self, text):
            return False

        def __getitem__(self, key):
            return {"a": "fool"}.get(key[0]) or Says()[key]

    made = Feedback(model(Model()), questions(tmp_path, "a", "a"), [POLITE]).made()
    assert made.revised == [] and made.facts["principles"]["polite"]["violations_after"] == 2
    assert made.facts["principles"]["polite"]["changed"] == (2 if again == "still a fool" else 0)
    assert made.facts["pairs"]["undecided" if again == "still a fool" else "equal"] == 2


class Longest(Verifier):
    def score(self, answer, task):
        return Unscored("none") if "?" in answer else Score(float(len(answer)), "")


def test_a_verifier_prefers_one_of_two_samples(model, tmp_path, cache):
    says = {("a", (0, 0)): "no", ("a", (0, 1)): "yes", ("b", (0, 0)): "one", ("b", (0, 1)): "two", ("c", (0, 0)): "x", ("c", (0, 1)): "x", ("d", (0, 0)): "x", ("d", (0, 1)): "?"}  # fmt: skip
    found = Feedback(model(says), questions(tmp_path, *"abcd"), [], prefer=("longest", Longest()), samples=2)
    made = found.made()
    assert made.pairs == [{"prompt": "a", "chosen": "yes", "rejected": "no"}]
    assert made.facts["pairs"] == {"written": 1, "equal": 1, "undecided": 2, "unended": 0}
    assert not made.revised and "revised" not in made.facts  # nothing was
    assert made.rows[0]["preferred"][:2] == [2.0, 3.0] and made.rows[3]["preferred"][1] is None
    with pytest.raises(UserError, match="--samples=2: answers at --temperature=0 are all the same"):
        Feedback(model({}), questions(tmp_path, "a"), [POLITE], samples=2, sampling=Sampling(temperature=0.0))
    with pytest.raises(UserError, match="--principles and --prefer are missing"):
        Feedback(model({}), questions(tmp_path, "a"), [])
    with pytest.raises(UserError, match="principle 'polite': check: config.rewards.regex.pattern is ''"):
        Feedback(model({}), questions(tmp_path, "a"), [Principle("polite", "x", "", "", Check("regex", {}, 1, None))])
    [*_, note] = Feedback(model({}), questions(tmp_path, "a"), [Principle("polite", "x", "c", "r")]).notes
    assert note.startswith("no pairs are made: no principle has a check")


def test_messages_stay_messages(model, tmp_path, cache):
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    source = written(tmp_path / "m.jsonl", *({"messages": [*talk, {"role": "assistant", "content": "x"}], "n": n} for n in (1, 2)))  # fmt: skip
    data = configs.check({"data": {"source": source, "template": "chatml"}}).data
    says = {"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n": "fool"}
    repaired = Principle("polite", "x", "", "", NO_FOOL, Repair("", "friend"))
    made = Feedback(model(says), asked(data, source, "", BYTES, 400, SETTINGS), [repaired]).made()
    answers = [[{"role": "assistant", "content": text}] for text in ("friend", "fool")]
    assert made.revised[0] == {"prompt": talk, "completion": answers[0]}
    assert made.pairs[0] == {"prompt": talk, "chosen": answers[0], "rejected": answers[1]}
