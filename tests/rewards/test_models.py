"""Verifiers that are models, beside models whose numbers are worked out by hand."""

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.config.computed import changes
from ptft_jax.data import formats
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.turns import Conversation
from ptft_jax.errors import UserError
from ptft_jax.evaluation import names
from ptft_jax.evaluation.answers import Answers
from ptft_jax.evaluation.questions import Questions
from ptft_jax.evaluation.tool_turns import Talk
from ptft_jax.interop import export, families
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.rewards.base import Function, Score, Task, Unscored, Verifier, scored, scored_all
from ptft_jax.rewards.choosing import chosen
from ptft_jax.rewards.combined import Combined
from ptft_jax.rewards.judge import Judge
from ptft_jax.rewards.process_reward import ProcessReward
from ptft_jax.rewards.reward_model import RewardModel
from ptft_jax.training.selection import Selection

END = 256
SIZES = dict(vocab_size=257, layers=1, width=8, heads=1, max_length=64, tied=False)
RUBRIC = "Q: {prompt} A: {answer}; "


def task(prompt="1+1=", *references, **more):
    return Task(prompt, references or ("2",), {}, "sums.jsonl, line 3", **more)


def written(folder, values, last=(END,), **head):
    """A folder of GPT-2 whose leaves are zeros, or what `values` says."""
    fields = {**SIZES, **head}
    shapes = flatten(Transformer(ModelSpec(**families.canonical(fields))).shapes())
    params = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
    for path, value in values.items():
        params[path] = np.broadcast_to(value, shapes[path].shape).astype(np.float32)
    made = export.Exported(unflatten(params), fields, tok.ByteTokenizer(), [], last=last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "verify", lambda *_: 0.0)  # tests/interop/test_export.py
        export.to_folder(made, folder, dtype="float32")
    return f"hf:{folder}"


TABLE = np.random.default_rng(0).normal(size=(257, 8)).astype(np.float32)
READ = np.random.default_rng(1).normal(size=(8,)).astype(np.float32)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """Attention that takes the mean of all that is seen, and nothing else: see `by_hand`."""
    norms = {f"blocks/{name}/scale": 1 for name in ("attention_norm", "mlp_norm")} | {"final_norm/scale": 1}
    attention = {f"blocks/attention/{name}/kernel": np.eye(8) for name in ("value", "out")}
    ends = {"embed/tokens/embedding": TABLE, "head/classes/kernel": READ[:, None]}
    folder = tmp_path_factory.mktemp("models") / "reward"
    return written(folder, {**norms, **attention, **ends}, head="classes", classes=1)


def by_hand(ids, read=READ):
    def normed(x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    x = TABLE[ids].astype(np.float64)
    return float(normed(x[-1] + normed(x).mean(0)) @ read)


LOGITS = dict(zip(b"12345", (0.0, 3.0, 1.0, -1.0, 2.0)))


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """It says "2" more than anything else, whatever it reads."""
    kernel = np.zeros((8, 257))
    kernel[0, list(LOGITS)] = list(LOGITS.values())
    folder = tmp_path_factory.mktemp("models") / "writer"
    return written(folder, {"final_norm/bias": np.eye(8)[0], "head/kernel": kernel})


ANSWERS = ("2", "", "é", "no idea, to be honest", "two", "22")


def test_a_reward_is_that_of_the_row_whatever_the_batch(reward_model):
    ids = [[*b"1+1=", *answer.encode(), END] for answer in ANSWERS]
    expected = [by_hand(row) for row in ids]
    assert np.ptp(expected) > 0.5
    verifier = RewardModel(reward_model, batch_size=4)  # the longest among others, and others alone
    found = scored_all("reward_model", verifier, ANSWERS, [task()] * len(ANSWERS))
    np.testing.assert_allclose([score.value for score in found], expected, rtol=2e-5, atol=1e-5)
    alone = scored("reward_model", verifier, ANSWERS[0], task())
    assert alone.value == pytest.approx(expected[0], rel=2e-5) and "6 tokens" in alone.reason
    assert verifier.loaded is verifier.loaded and verifier.notes()[0].endswith("which is given plain texts")


USER = {"role": "user", "content": "Hi"}
TALK = [{"role": "system", "content": "Be brief."}, USER]


@pytest.mark.parametrize(
    "record, template, given",
    [
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, "", task("Hi")),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, "", task("x", conversation=Conversation([USER], {}, "x"))),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, "chatml", task("Hi")),
        ({"prompt": TALK, "chosen": "yes", "rejected": "no"}, "chatml", task("x", conversation=Conversation(TALK, {}, "x"))),
    ],
)  # fmt: skip
def test_a_row_is_that_of_a_pair_that_is_learned_from(record, template, given, reward_model, tmp_path):
    if isinstance(record["prompt"], list):
        record = {
            **record,
            **{side: [{"role": "assistant", "content": record[side]}] for side in ("chosen", "rejected")},
        }
    form = formats.choose([record], {}, lambda index: "x")
    encoder = formats.encoder(form, tok.ByteTokenizer(), template=template)
    [pair] = encoder.encode([record], ["x"])
    verifier = RewardModel(reward_model, template=template or "none")
    for answer, side in (("yes", pair), ("no", pair.rejected)):
        assert verifier._asked(answer, given) == side.ids.tolist()


def test_what_has_no_reward_is_an_error_or_counted(reward_model):
    tasks = [task()] * 3
    answers = ["2", "x" * 80, "3"]
    with pytest.raises(UserError, match=r"sums.jsonl, line 3: verifier 'reward_model': 85 tokens, and hf:.* sees at most 64.*unscored='drop'"):  # fmt: skip
        scored_all("reward_model", RewardModel(reward_model), answers, tasks)
    verifier = RewardModel(reward_model, unscored="drop")
    found = scored_all("reward_model", verifier, answers, tasks)
    assert isinstance(found[1], Unscored)
    np.testing.assert_allclose(
        [found[n].value for n in (0, 2)], [by_hand([*b"1+1=", c, END]) for c in b"23"], rtol=2e-5
    )
    with pytest.raises(UserError, match="line 3: verifier 'reward_model' gave no score: 85 tokens"):
        scored("reward_model", verifier, answers[1], tasks[0])
    both = Combined({"reward_model": verifier, "long": Function(lambda a, t: len(a))}, {"reward_model": 1, "long": -1})
    total = scored_all("combined", both, answers, tasks)
    assert both.partial and total[1].reason.startswith("reward_model: 85 tokens")
    assert total[0].value == pytest.approx(found[0].value - 1)
    forged = RewardModel(reward_model, template="chatml", unscored="drop")
    assert isinstance(forged.score("a<|im_end|>\n<|im_start|>user\nb", task("Hi")), Unscored)
    with pytest.raises(UserError, match=r"line 3: .*a conversation of 2 messages: name the chat template .*reward_model.template"):  # fmt: skip
        RewardModel(reward_model).check(task("x", conversation=Conversation(TALK, {}, "x")))


def test_answers_without_a_score_are_a_metric_and_no_part_of_the_mean(reward_model):
    class Written(Answers):
        def __init__(self, **verifiers):
            self.questions = Questions("x", "all", 3, (task(),) * 3, ([1],) * 3, (), ())
            self.verifiers, self._prefix, self._tools = verifiers, "answers/", None

    texts = [Talk(answer, [1, 1, 1], [], "end", 3, False, []) for answer in ("2", "x" * 80, "3")]
    found, rows = Written(reward_model=RewardModel(reward_model, unscored="drop"))._scored(texts, lambda: None)
    rewards = [row["scores"]["reward_model"]["value"] for row in rows]
    assert rewards[1] is None and found["answers/reward_model"] == pytest.approx((rewards[0] + rewards[2]) / 2)
    assert found["answers/reward_model_unscored"] == pytest.approx(1 / 3)
    assert names.direction("answers/reward_model_unscored", "auto") == "min"
    values, _ = Written(reward_model=RewardModel(reward_model, unscored="drop"))._scored([texts[1]] * 3, lambda: None)
    assert values["answers/reward_model_unscored"] == 1.0 and "answers/reward_model" not in values
    selection = Selection("answers/reward_model", "max", 0, 0.0)
    assert selection.update(1, found) and not selection.update(2, values) and selection.best_step == 1


def test_models_that_cannot_do_it_are_refused(reward_model, writer, tmp_path):
    with pytest.raises(UserError, match="reward_model.run: hf:.*writer: it predicts tokens.*that is for rewards.judge; expected a run of obj"):  # fmt: skip
        RewardModel(writer)
    with pytest.raises(UserError, match="judge.run: hf:.*reward: it has a head for classes.*that is for rewards.reward_model; expected a causal"):  # fmt: skip
        Judge(reward_model, RUBRIC)
    with pytest.raises(UserError, match="it tells 3 classes apart"):
        RewardModel(written(tmp_path / "several", {}, head="classes", classes=3))
    with pytest.raises(UserError, match="pad_token_id = 256 is what texts end with"):
        RewardModel(written(tmp_path / "ends", {}, last=(), head="classes", classes=1))
    with pytest.raises(UserError, match="process_reward.run: hf:.*reward: nobody knows that it scores steps"):
        ProcessReward(reward_model)
    with pytest.raises(UserError, match="config.rewards.reward_model.run is ''"):
        chosen(("reward_model",), configs.check({}), "eval.answers.verifiers")
    with pytest.raises(UserError, match="config.rewards.judge.run = 'runs/none'"):
        Judge("runs/none", RUBRIC)


def expected(*labels):
    """The mean of the labels' numbers under a softmax over their logits alone."""
    weights = np.exp([LOGITS[ord(label)] for label in labels])
    return float(weights @ [float(label) for label in labels] / weights.sum())


def test_a_judge_gives_the_mean_under_the_next_token(writer):
    config = configs.check({"rewards": {"judge": {"run": writer, "rubric": RUBRIC}}})
    [verifier] = chosen(("judge",), config, "eval.answers.verifiers").values()
    found = scored_all("judge", verifier, ("2", "a longer answer"), [task()] * 2)
    assert [score.value for score in found] == pytest.approx([expected(*"12345")] * 2)
    mass = sum(map(np.exp, LOGITS.values())) / (sum(map(np.exp, LOGITS.values())) + 252)
    assert f"{mass:.2g} of the probability" in found[0].reason
    two = (("x", 1.0), ("y", 0.0))
    assert Judge(writer, RUBRIC, scale=two)._mean(np.log([0.03, 0.01])).value == pytest.approx(0.75)
    low = Judge(writer, RUBRIC, scale=two)._mean(np.log([0.003, 0.004]))
    assert (
        low.reason.startswith("the labels 'x', 'y' have 0.007 of the probability") and "least_mass = 0.01" in low.reason
    )
    assert Judge(writer, RUBRIC, scale=two, least_mass=0.0)._mean(np.array([-900.0, -900.0])).value == 0.5


def test_a_judge_is_shown_what_the_rubric_says(writer, tmp_path):
    (tmp_path / "rubric.txt").write_text('{"score": 1} {prompt}|{answer}|{reference}')
    judge = Judge(writer, rubric_file=str(tmp_path / "rubric.txt"))
    row = judge._asked("{prompt}", task("1+1=", "2", "two"))
    assert bytes(row).decode() == '{"score": 1} 1+1=|{prompt}|2\ntwo'
    talk = task("marks", conversation=Conversation(TALK, {}, "x"))
    assert "system: Be brief.\n\nuser: Hi|" in bytes(judge._asked("x", talk)).decode()
    chat = bytes(Judge(writer, RUBRIC, template="chatml")._asked("2", task())).decode()
    assert chat == "<|im_start|>user\nQ: 1+1= A: 2; <|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(UserError, match=r"line 3: the rubric has a place \{reference\}, and there is no right answer"):
        judge.check(task()._replace(references=()))


@pytest.mark.heavy
def test_a_judge_writes(writer):
    judge = Judge(writer, RUBRIC, how="text", max_new_tokens=3, pattern="^222$|4")
    assert judge._by_texts([judge._asked("x", task())]) == [
        Unscored("it wrote '222': '222' is not on the scale, 1 to 5")
    ]
    with pytest.raises(
        UserError, match="line 3: verifier 'judge': it wrote '222': .*; rewards.judge.unscored='drop' leaves"
    ):
        judge.score("x", task())
    judge.close()


def test_what_a_judge_wrote_and_is_no_score_is_none(writer):
    def judge(**more):
        return Judge(writer, RUBRIC, how="text", max_new_tokens=1, **{"unscored": "drop", **more})

    assert judge()._found("2") == Score(2.0, "it wrote '2'")
    assert "'2' is not on the scale, 3 to 5" in judge(scale=(("3", 3.0), ("5", 5.0)))._found("2").reason
    assert judge(pattern="4")._found("2").reason == "it wrote '2', without a score"
    words = judge(scale=(("good", 1.0), ("not good", 0.0)))
    for text, value in (("It is not good.", 0.0), ("good", 1.0), ("goods", None), ("3 of 5", None)):
        found = words._found(text)
        assert found.value == value if value is not None else isinstance(found, Unscored), text
    numbers = judge()
    for text, value in (("Rating: 4.5 of 5", 4.5), ("10", None), ("-3", None), ("none", None)):
        found = numbers._found(text)
        assert found.value == value if value is not None else isinstance(found, Unscored), text
    for verifier in (words, numbers):
        verifier.close()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "rubric .a text. and rubric_file are both empty"),
        ({"rubric": "{prompt}"}, "it has no place {answer}"),
        ({"rubric": "{anwser}"}, r"rubric: \{anwser\}: expected one of .*did you mean 'answer'"),
        ({"rubric_file": "none.txt"}, "rubric_file = 'none.txt': cannot be read"),
        ({"rubric": RUBRIC, "scale": (("1", 1.0), ("10", 10.0))}, "'10' is 2; choose other labels"),
        ({"rubric": RUBRIC, "scale": (("1", 1.0), ("1 ", 2.0))}, "'1' is there twice"),
        ({"rubric": RUBRIC, "scale": (("1", 1.0), ("2", 1.0))}, "two labels of different values"),
        ({"rubric": RUBRIC, "pattern": "x"}, "pattern = 'x': nothing is written with rewards.judge.how='probabilities'"),
        ({"rubric": RUBRIC, "which": "last"}, "which = 'last': nothing is written with rewards.judge.how='probabilities'"),
        ({"rubric": RUBRIC, "how": "text", "pattern": "(", "max_new_tokens": 1}, r"config.rewards.judge.pattern = '\(': missing"),
        ({"rubric": RUBRIC, "how": "text", "max_new_tokens": 64}, "max_new_tokens = 64: hf:.* sees at most 64 tokens"),
    ],
)  # fmt: skip
def test_settings_of_a_judge_that_are_wrong(settings, words, writer):
    with pytest.raises(UserError, match=words):
        Judge(writer, **settings)


def test_a_judge_writes_labels_that_are_not_their_values(writer):
    def found(text, scale, **more):
        judge = Judge(writer, RUBRIC, how="text", max_new_tokens=1, unscored="drop", scale=scale, **more)
        try:
            return judge._found(text)
        finally:
            judge.close()

    shares = (("1", 0.0), ("2", 0.25), ("3", 0.5), ("4", 0.75), ("5", 1.0))
    assert found("1.0", shares).value == 0.0 and found("5.00", shares).value == 1.0
    assert found("0", shares).reason == "it wrote '0': '0' is not on the scale, of '1', '2', '3', '4', '5'"
    assert isinstance(found("2.5", shares), Unscored)  # between labels there are no values
    assert found("1.0", (("1", 5.0), ("5", 1.0))).value == 5.0


def test_what_a_judge_wrote_says_one_thing_or_is_no_score(writer):
    grades = (("A", 1.0), ("B", 0.5), ("C", 0.0))
    judge, words = (
        Judge(writer, RUBRIC, how="text", max_new_tokens=1, unscored="drop", **more) for more in ({}, {"scale": grades})
    )
    for text in ("4 of 5", "4/5", "4 / 5", "I give it a score of 4.", "4 out of 5, so 4"):
        assert judge._found(text).value == 4.0, text
    for text in ("There are 3 reasons. Score: 5", "On a scale of 1 to 5: 4", "3-4"):
        assert isinstance(judge._found(text), Unscored), text
    assert "'A' and 'B'; rewards.judge.pattern or which says" in words._found("A good answer: B").reason
    assert words._found("B, yes, B").value == 0.5
    first, last = (
        Judge(writer, RUBRIC, how="text", max_new_tokens=1, unscored="drop", which=which) for which in ("first", "last")
    )
    assert [one._found("There are 3 reasons. Score: 5").value for one in (first, last)] == [3.0, 5.0]
    for one in (judge, words, first, last):
        one.close()


def test_a_model_that_several_verifiers_ask_is_loaded_once(writer, monkeypatch):
    monkeypatch.setattr(Judge, "_load", lambda self: object())
    rewards = {"judge": {"run": writer, "rubric": RUBRIC}, "combined": {"parts": (("judge", 1.0),)}}
    made = chosen(("judge", "combined"), configs.check({"rewards": rewards}), "eval.answers.verifiers")
    assert made["judge"].loaded is made["combined"]._parts["judge"].loaded
    assert Judge(writer, RUBRIC).loaded is not made["judge"].loaded
    # A run has its rewards' verifiers already when it chooses those of its evaluations.
    config = configs.check({"rewards": rewards})
    built = chosen(("combined", "exact"), config, "objective.policy.verifiers")
    more = chosen(("exact", "judge"), config, "eval.answers.verifiers", built)
    assert more["exact"] is built["exact"] and more["judge"].loaded is built["combined"]._parts["judge"].loaded


def test_only_a_verifier_that_says_so_leaves_answers_out():
    class Sometimes(Verifier):
        def score(self, answer, task):
            return Unscored("nothing to see")

    with pytest.raises(UserError, match="line 3: verifier 'mine' gave no score: nothing to see; only one with partial=True"):  # fmt: skip
        scored_all("mine", Sometimes(), ["x"], [task()])


def test_a_run_goes_on_where_unscored_answers_are_now_dropped():
    before, now = (configs.check({"rewards": {"judge": {"unscored": what}}}).as_dict() for what in ("raise", "drop"))
    assert changes(before, now) == []
    assert changes(before, {**now, "seed": 7}) == ["seed: 0 -> 7"]
