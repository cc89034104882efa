"""What becomes of answers by principles, of a model whose every word is set here."""

import dataclasses
import json
import types

import pytest

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.turns import Conversation
from ptft_jax.errors import UserError
from ptft_jax.evaluation.answers import asked
from ptft_jax.evaluation.samples import Continuation
from ptft_jax.feedback import prompts, writing
from ptft_jax.feedback.made import check_out
from ptft_jax.feedback.making import Feedback
from ptft_jax.model.decode import Sampling
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier
from ptft_jax.rewards.constitution import Check, Principle, Repair
from ptft_jax.rewards.texts import Exact
from tests.evaluation.test_answers import SETTINGS, written

BYTES = tok.ByteTokenizer()
NO_FOOL = Check("regex", {"pattern": "fool"}, None, 0)
POLITE = Principle("polite", "x", "What is rude?", "Say it again.", NO_FOOL)


@pytest.fixture
def model(monkeypatch):
    """Makes a loaded run that answers by a table of what it is given to (text, reason); and notes what it was given."""
    seen = []

    def make(says):
        def continued(self, ids, stop, place, numbers):
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
        "polite": {"violations_before": 3, "violations_after": 1, "unscored": 0, "changed": 2, "unchanged": 1}
    }
    assert made.facts["pairs"] == {"written": 1, "equal": 1, "undecided": 0, "unscored": 0, "unended": 1}
    assert made.facts["revised"] == {"written": 3, "left_out": 2, "unrevised": 0} and made.facts["unended"] == 1
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
    partial = True

    def score(self, answer, task):
        return Unscored("none") if "?" in answer else Score(float(len(answer)), "")


def test_a_verifier_prefers_one_of_two_samples(model, tmp_path, cache):
    says = {("a", (0, 0)): "no", ("a", (0, 1)): "yes", ("b", (0, 0)): "one", ("b", (0, 1)): "two", ("c", (0, 0)): "x", ("c", (0, 1)): "x", ("d", (0, 0)): "x", ("d", (0, 1)): "?"}  # fmt: skip
    found = Feedback(model(says), questions(tmp_path, *"abcd"), [], prefer=("longest", Longest()), samples=2)
    made = found.made()
    assert made.pairs == [{"prompt": "a", "chosen": "yes", "rejected": "no"}]
    assert made.facts["pairs"] == {"written": 1, "equal": 1, "undecided": 1, "unscored": 1, "unended": 0}
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


PLUGIN = """
from ptft_jax.config.verifiers import VerifierSpec
from ptft_jax.rewards.base import Score, Verifier
class Brief(Verifier):
    shared = []
    def share(self, models):
        self.shared.append(models)
    def score(self, answer, task):
        return Score(len(answer), "")
VERIFIERS = {"brief_one": VerifierSpec(Brief)}
"""


def test_checks_know_the_verbs_plugins_and_share_models(model, tmp_path, cache, monkeypatch):
    (tmp_path / "brief_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    asks = [Principle(name, "x", "", "", Check("brief_one", {}, None, 1), Repair("", "y")) for name in ("one", "two")]
    with pytest.raises(UserError, match="principle 'one': check: .*no verifier 'brief_one'"):
        Feedback(model({}), questions(tmp_path, "a"), asks)
    found = Feedback(model({"a": "long"}), questions(tmp_path, "a"), asks, plugins=("brief_plugin",))
    first, second = found._checks["one"].shared[-2:]
    assert first is second
    assert found.made().revised == [{"prompt": "a", "completion": "y"}]


def test_prompts_alone_are_compared_with_nothing(model, tmp_path, cache):
    found = questions(tmp_path, "a")
    alone = dataclasses.replace(found, tasks=tuple(task._replace(references=()) for task in found.tasks))
    message = "q.jsonl, line 1: verifier '{}' compares with right answers, and there is none"
    for name, settings in {"exact": {}, "f1": {}, "number": {}, "regex": {"pattern": "(x)"}}.items():
        with pytest.raises(UserError, match=message.format(name)):
            Feedback(model({}), alone, [Principle("p", "x", "", "", Check(name, settings, 1, None))])
    with pytest.raises(UserError, match=message.format("exact")):
        Feedback(model({}), alone, [], prefer=("exact", Exact()), samples=2)
    assert Feedback(model({"a": "no"}), alone, [POLITE]).made().revised == [{"prompt": "a", "completion": "no"}]


def test_an_answer_without_a_score_neither_keeps_nor_breaks_a_principle(model, tmp_path, cache):
    """A search that takes too long says nothing; what has no score is no training data, and is counted."""
    slow = Check("regex", {"pattern": "(?:o+)+l$", "seconds": 0.3}, None, 0)
    loaded = model({"a": "f" + 60 * "o", "b": "fool", "c": "fine"})
    polite = Principle("polite", "x", "", "", slow, Repair("", "friend"))
    rude = Principle("rude", "x", "", "", Check("regex", {"pattern": "^f"}, 1, None), Repair("", "fiend"))
    made = Feedback(loaded, questions(tmp_path, *"abc"), [polite, rude]).made()
    assert [row["completion"] for row in made.revised] == ["friend", "fine"]
    assert made.facts["principles"]["polite"] == {
        "violations_before": 1, "violations_after": 0, "unscored": 1, "changed": 1, "unchanged": 0
    }  # fmt: skip
    assert made.rows[0]["violations"] == [None, None] and made.rows[1]["violations"] == [1, 0]


def test_a_repair_of_all_begins_as_the_answer_did(model, tmp_path, cache):
    polite = Principle("polite", "x", "", "", NO_FOOL, Repair("", "No fool."))
    made = Feedback(model({"a": " fool", "b": " No fool."}), questions(tmp_path, *"ab"), [polite]).made()
    assert [row["revised"] for row in made.rows] == [" No fool.", " No fool."]
    assert made.facts["principles"]["polite"]["changed"] == 1 and made.facts["principles"]["polite"]["unchanged"] == 1


def test_a_repair_whose_process_ends_is_none(model, tmp_path, cache):
    ends = Principle("polite", "x", "", "", NO_FOOL, Repair("(fool)", "\\2"))  # no such group: it ends the process
    made = Feedback(model({"a": "fool"}), questions(tmp_path, "a"), [ends]).made()
    assert made.facts["principles"]["polite"]["unchanged"] == 1 and made.rows[0]["revised"] == "fool"


def test_what_was_to_be_revised_and_was_not_is_no_training_data(model, tmp_path, cache):
    class Says(dict):
        def __contains__(self, text):
            return False

        def __getitem__(self, key):
            text = key[0]
            if "Revision:" not in text:
                return "It." if "Critique:" in text else "first"
            return ("Half of", "length") if text.startswith("a") else " Whole."

    made = Feedback(model(Says()), questions(tmp_path, *"ab"), [Principle("kind", "x", "c", "r")]).made()
    assert made.revised == [{"prompt": "b", "completion": "Whole."}]
    assert made.facts["revised"] == {"written": 1, "left_out": 1, "unrevised": 1}
    settings = made.facts["settings"]
    assert settings["principles"][0]["critique"] == "c" and settings["temperature"] == 0.8 and settings["samples"] == 1


def test_tools_and_documents_stay_beside_the_prompt():
    talk = [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": {"name": "look"}}]
    asked_ = Task("x", (), {}, "x", Conversation(talk, {"tools": tools, "documents": None}, "x"))
    assert prompts.written(asked_, "messages") == {"prompt": talk, "tools": tools}


def test_a_note_says_that_prompts_are_plain_texts(tmp_path, cache):
    loaded = types.SimpleNamespace(template="{{ messages }}", source=types.SimpleNamespace(name="hf:x"))
    [note] = prompts.notes(questions(tmp_path, "a"), loaded)
    assert note.startswith(
        "prompts are given as plain texts, and hf:x has a chat template: name it in --template for turns"
    )
    assert prompts.notes(questions(tmp_path, "a", template="chatml"), loaded) == []


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="--out=.*: cannot be written: .*file is no folder"):
        check_out(tmp_path / "file" / "out")
    check_out(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_what_was_killed_goes_on_where_it_was(model, tmp_path, cache, monkeypatch):
    """Nothing is written or scored twice, and what comes of it is the same; what follows from something else is made anew."""
    monkeypatch.setattr(writing, "PART", 2)
    monkeypatch.setattr("ptft_jax.feedback.making.PART", 2)
    says = {(text, (0, n)): f"{text}{'!' * (n + 1)}" for text in "abcde" for n in range(2)}
    scored, left = [], [3]

    class Counting(Longest):
        def score(self, answer, task):
            if not left[0]:
                raise OSError("killed")
            left[0], _ = left[0] - 1, scored.append(answer)
            return super().score(answer, task)

    def feedback(*texts):
        return Feedback(model(says), questions(tmp_path, *texts), [], prefer=("longest", Counting()), samples=2)

    parts = tmp_path / "out.parts"
    with pytest.raises(UserError, match="killed"):
        feedback(*"abcde").made(0, parts)
    (parts / "answers-1-2.json").write_text('{"of": "')  # cut off
    left[0] = 100
    asked, before = len(model.seen), list(scored)
    again = feedback(*"abcde").made(0, parts)
    assert [texts for *_, texts in model.seen[asked:]] == [["c", "d"]]
    assert before == ["a!", "b!", "c!"] and scored[3:] == ["c!", "d!", "e!", "a!!", "b!!", "c!!", "d!!", "e!!"]
    assert again == feedback(*"abcde").made() and len(again.pairs) == 5
    asked = len(model.seen)
    feedback(*"abcde").made(1, parts)  # of another seed
    assert len(model.seen) == asked + 6
