"""Principles as a reward: by hand."""

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Task, Unscored, scored_all
from ptft_jax.rewards.choosing import chosen

TOML = """
[[principles]]
name = "polite"
text = "Nobody is called names."
check = {verifier = "regex", most = 0, settings = {pattern = "fool"}}
[[principles]]
name = "short"
text = "Answers are short."
check = {verifier = "unruly", most = 5}
[[principles]]
name = "right"
text = "Answers are right."
check = {verifier = "f1", least = 0.5}
[[principles]]
name = "kind"
text = "Answers are kind."
"""
TASK = Task("1?", ("yes no",), {}, "x.jsonl, line 7")


def made(folder, text=TOML, **settings):
    (folder / "principles.toml").write_text(text)
    config = configs.default(("tests.rewards.given",))
    config.rewards.principles.update({"file": str(folder / "principles.toml")} | settings)
    return chosen(("principles",), configs.check(config), "eval.answers.verifiers")["principles"]


def test_the_score_is_the_share_of_the_weights_of_what_is_kept(tmp_path):
    """Three have a check, one of them by a verifier of a plugin."""
    answers = ["yes", "fool", "yes yes", "you fool, no"]
    kept = [(1, 1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 0)]  # polite, at most five characters, half of the words
    plain, weighed = made(tmp_path), made(tmp_path, weights=(("polite", 3.0), ("right", 0.5)))
    for verifier, weights in ((plain, (1, 1, 1)), (weighed, (3, 1, 0.5))):
        found = scored_all("principles", verifier, answers, [TASK] * 4)
        expected = [sum(k * w for k, w in zip(each, weights)) / sum(weights) for each in kept]
        assert [score.value for score in found] == pytest.approx(expected)
        assert [score.reason for score in found] == [
            "keeps all", "against polite, right", "against short", "against polite, short, right",
        ]  # fmt: skip
        assert verifier.notes() == ["principles without a check are not counted: kind"]
        verifier.close()
    with pytest.raises(UserError, match="principle 'polite': its check gave no score: .*unscored='drop'"):
        plain.joined({"polite": Unscored("late")}, TASK)
    assert made(tmp_path, unscored="drop").joined({"polite": Unscored("late")}, TASK) == Unscored("polite: late")


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        (TOML, {"file": ""}, "config.rewards.principles.file is '': a file of principles"),
        ('[[principles]]\nname = "a"\ntext = "b"\n', {}, "no principle has a check"),
        (TOML, {"weights": (("polit", 1.0),)}, "weights: 'polit' is not in .*did you mean 'polite'"),
        (TOML, {"weights": (("kind", 1.0),)}, "weights: 'kind' has no check"),
        (TOML, {"weights": (("short", -1.0),)}, "weights: 'short': -1: expected a number above 0"),
        (TOML.replace('"f1"', '"f2"'), {}, "principle 'right': check: config.rewards: no verifier 'f2': .*did you mean 'f1'"),
        (TOML.replace('"f1"', '"principles"'), {}, "check: verifier = 'principles': it counts"),
    ],
)  # fmt: skip
def test_what_is_refused(text, settings, words, tmp_path):
    with pytest.raises(UserError, match=words):
        made(tmp_path, text, **settings)
