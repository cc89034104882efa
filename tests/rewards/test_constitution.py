"""Files of principles: what they may say, and what is wrong with others."""

import json

import pytest

from ptft_jax.errors import UserError
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.constitution import Check, Repair, read

TOML = """
[[principles]]
name = "polite"
text = "Nobody is called names."
critique = "What is rude here?"
repair = {pattern = "you (fool|ass)", text = "my friend"}
[principles.check]
verifier = "regex"
most = 0
settings = {pattern = "fool|ass"}

[[principles]]
name = "short"
text = "Answers are short."
"""


def file(folder, text, name="principles.toml"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_principles_are_read(tmp_path):
    polite, short = read(file(tmp_path, TOML))
    assert polite.check == Check("regex", {"pattern": "fool|ass"}, None, 0)
    assert polite.repair == Repair("you (fool|ass)", "my friend") and polite.critique == "What is rude here?"
    assert short.check is short.repair is None and short.revision.endswith("nothing else: Answers are short.")
    verifier = polite.verifier()
    assert [polite.check.keeps(verifier.score(text, Task("", (), {}, "x")).value) for text in ("fool", "no")] == [False, True]  # fmt: skip
    verifier.close()
    values = [{"name": "polite", "text": "Be polite.", "check": {"verifier": "number", "least": 1}}]
    for written in (values, {"principles": values}):
        [one] = read(file(tmp_path, json.dumps(written), "principles.json"))
        assert one.check == Check("number", {}, 1, None) and one.check.keeps(1.0) and not one.check.keeps(0.5)


POLITE = 'name = "polite"\ntext = "x"\n'


@pytest.mark.parametrize(
    "text, words",
    [
        ("principles = 3", r"it has no principles: expected a list of tables, \[\[principles\]\]"),
        ("[[principle]]\nname = 'x'", "principle: no such field: expected of principles .did you mean 'principles'"),
        ("[[principles]]\nname = 'x'", "principle 1 'x': text is missing: expected a text"),
        ("[[principles]]\nname = 3", "principle 1: name = 3: expected a text"),
        (f"[[principles]]\n{POLITE}[[principles]]\n{POLITE}", "principle 2 'polite': name: another one is called so"),
        (f"[[principles]]\n{POLITE}critiqe = 'x'", "principle 1 'polite': critiqe: no such .*did you mean 'critique'"),
        (f"[[principles]]\n{POLITE}check = 'x'", "principle 1 'polite': check = 'x': expected a table"),
        (f"[[principles]]\n{POLITE}check = {{verifier = 'exact'}}", "principle 1 'polite': check: least or most is missing"),
        (f"[[principles]]\n{POLITE}check = {{verifier = 'exact', least = 'x'}}", "principle 1 'polite': check: least = 'x': expected a number"),
        (f"[[principles]]\n{POLITE}check = {{verifier = 'exact', least = nan}}", "principle 1 'polite': check: least = nan: expected a finite"),
        (f"[[principles]]\n{POLITE}check = {{verifier = 'exact', least = 2, most = 1}}", "principle 1 'polite': check: least = 2 is more than most = 1"),
        (f"[[principles]]\n{POLITE}repair = {{text = 'x'}}", "principle 1 'polite': repair: there is no check"),
        (f"[[principles]]\n{POLITE}check = {{verifier = 'exact', least = 1}}\nrepair = {{text = '\\\\2', pattern = '(x)'}}".replace("'\\\\2'", "'\\2'"), "principle 1 'polite': repair: .*invalid group reference"),
        (f"[[principles]]\n{POLITE}check = {{verifier = 'exact', least = 1}}\nrepair = {{pattern = 'x'}}", "principle 1 'polite': repair: text is missing"),
        ("[[principles", "not TOML: "),
    ],
)  # fmt: skip
def test_what_is_wrong_names_file_principle_and_field(text, words, tmp_path):
    with pytest.raises(UserError, match=rf"principles.toml: {words}"):
        read(file(tmp_path, text))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="none.toml: cannot be read"):
        read(str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="principles.yaml: principles are read from a .toml or .json file"):
        read(file(tmp_path, TOML, "principles.yaml"))
    [bad] = read(file(tmp_path, f"[[principles]]\n{POLITE}check = {{verifier = 'regexp', least = 1}}"))
    with pytest.raises(UserError, match="no verifier 'regexp': .*did you mean 'regex'"):
        bad.verifier()
