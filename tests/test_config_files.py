"""What --config names: Python files, JSON files, recipes; and what a recipe suggests beside what the user sets."""

import importlib
import json
import sys

import pytest
from absl import flags

import ptft_jax as pt
from ptft_jax import config as configs
from ptft_jax.config import files
from ptft_jax.errors import UserError
from ptft_jax.experiments.graph import with_changes
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training.assembly import Run
from ptft_jax.training.completion import resolve
from ptft_jax.verbs import command
from tests.helpers import quiet_train, tiny_config
from tests.processes import ROOT, ptft, run


class Said(Reporter):
    """What is said, in place of a terminal."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def parsed(monkeypatch):
    """Parses a verb's words as `launch` does, and gives the config."""
    before = set(flags.FLAGS)

    def clear():
        for name in [name for name in flags.FLAGS if name not in before]:
            delattr(flags.FLAGS, name)

    def parse(verb, *words):
        importlib.import_module("grain")  # defines flags of its own, which stay
        before.update(flags.FLAGS)
        monkeypatch.setattr(sys, "argv", ["ptft", *words])
        importlib.import_module(f"ptft_jax.{verb}").define()
        try:
            command.parse(["ptft", *words])
            return flags.FLAGS.config
        finally:
            clear()

    return parse


VERBS = ("train", "verbs.data.show", "verbs.data.stats")
HEAD = "from ptft_jax import config\n\ndef get_config(arg=''):\n    c = config.default()\n"
BROKEN = {
    "NameError": (HEAD + "    return undefined\n", "mine.py:5: name 'undefined' is not defined"),
    "ImportError": ("import os\nimport nothing_like_it\n", "mine.py:2: No module named 'nothing_like_it'"),
    "SyntaxError": ("x = 1\ny = (\n", "mine.py:2: '(' was never closed"),
    "in a module beside it": ("import beside\n", "beside.py:3: name 'nobody' is not defined"),
    "syntax of a module beside it": ("import unclosed\n", "unclosed.py:1: '[' was never closed"),
    "in a function": ("def part():\n    return 1 / 0\n" + HEAD + "    part()\n", "mine.py:2: division by zero"),
    "KeyError": (HEAD + "    {}['size']\n", "mine.py:5: KeyError: size"),
    "AssertionError": (HEAD + "    assert arg\n", "mine.py:5: AssertionError"),
    "SystemExit": (HEAD + "    raise SystemExit('no')\n", "mine.py:5: the file ends the program (no)"),
    "recursion": (HEAD + "    get_config()\n", "mine.py:4: maximum recursion"),
    "no field": (HEAD + "    c.model.layer = 3\n", "mine.py:5: layer is not a setting (did you mean 'layers'?)"),
    "no section": (HEAD + "    c.modle.layers = 3\n", "mine.py:5: modle is not a setting (did you mean 'model'?)"),
    "another type": (HEAD + "    c.model.layers = 'many'\n", "mine.py:5: Could not override field 'layers'"),
    "a value": (HEAD + "    c.model.layers = 0\n    return c\n", "mine.py: config.model.layers = 0: expected a value above 0"),
    "no get_config": ("def get_conf():\n    pass\n", "mine.py: has no function get_config (did you mean 'get_conf'?)"),
    "get_config is no function": ("get_config = 3\n", "mine.py: get_config is no function"),
    "it returns nothing": (HEAD, "mine.py: get_config returned None: expected a config"),
    "it returns a number": (HEAD + "    return 7\n", "mine.py: get_config returned 7: expected a config"),
    "an argument is needed": ("def get_config(source):\n    pass\n", "an argument is missing: --config={}:SOURCE"),
    "not UTF-8": (b"x = '\xe9'\n", "mine.py:1: (unicode error) 'utf-8' codec"),
    "NUL": ("x = 1\0\n", "mine.py"),
    "empty": ("", "mine.py: has no function get_config;"),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.heavy) if n == "recursion" else n for n in BROKEN])
def test_what_is_wrong_with_a_file_is_one_message_with_the_place(name, tmp_path, parsed):
    text, expected = BROKEN[name]
    file = tmp_path / "mine.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "beside.py").write_text("\n\nnobody\n")
    (tmp_path / "unclosed.py").write_text("x = [\n")
    for words in ([f"--config={file}"], ["--config", str(file)]):
        with pytest.raises(UserError) as caught:
            parsed(VERBS[len(name) % 3], *words)  # any verb that has the flag
        assert expected.replace("{}", str(file)) in str(caught.value) and "Traceback" not in str(caught.value)
    sys.modules.pop("beside", None)


def test_what_is_no_file_is_said_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/config.json").write_text("{}")
    (tmp_path / "mine.py").write_text("def get_config():\n    return {}\n")
    for reference, words in {
        "pretrain/shakspeare:tiny": "did you mean 'pretrain/shakespeare'?",
        "configs/pretrain/shakspeare.py": "did you mean 'pretrain/shakespeare'?",
        "finetune/smollm_shakespeare": "did you mean 'finetune/smollm2_shakespeare'?",
        "mien.py": "did you mean 'mine.py'?",
        "PRETRAIN/Text:x": "did you mean 'pretrain/text'?",
        "text:README.md": "did you mean 'pretrain/text'?",
        "runs/a": "runs/a is a folder; give runs/a/config.json of the run",
        "runs": "runs is a folder",
        "": "no such file",
        "mine.py:small": "it takes no argument",
        "runs/a/config.json:x": "a JSON file takes no argument",
    }.items():
        with pytest.raises(UserError) as caught:
            files.load(reference)
        assert words in str(caught.value) and f"--config={reference}" in str(caught.value)
    assert files.load("mine").model.width == 128, "the ending may be left out"


# JSON


WRONG = {
    "not JSON": ('{"seed": 3,\n "model": }', "c.json:2: this is not JSON: Expecting value (column 11)"),
    "no config": ("[1]", "c.json: expected a config, sections of settings by name, got [1]"),
    "unknown": ('{"optimizer": {"learning_rte": 1.0}}', "c.json: config.optimizer.learning_rte is not a setting (did you mean 'optimizer.learning_rate'?)"),
    "unknown section": ('{"modle": {}}', "c.json: config.modle is not a setting (did you mean 'model"),
    "another type": ('{"model": {"layers": "2"}}', "c.json: config.model.layers = '2': expected int, got str"),
    "not finite": ('{"optimizer": {"learning_rate": NaN}}', "c.json: config.optimizer.learning_rate = nan"),
    "not one of": ('{"optimizer": {"name": "adam"}}', "did you mean 'adamw'"),
    "no section but a number": ('{"model": 3}', "c.json: config.model = 3: expected a section"),
    "two spellings": ('{"init": {"from": "a", "from_": "b"}}', "c.json: config.init.from and config.init.from_ are one setting"),
    "twice": ('{"seed": 1, "seed": 2}', "c.json: cannot be read as JSON: 'seed' stands in it twice"),
    "not UTF-8": (b'{"seed": "\xe9"}', "c.json: cannot be read as JSON"),
    "of another tool": ('{"architectures": ["LlamaForCausalLM"]}', "c.json: config.architectures is not a setting"),
    "deep": ("[" * 100_000, "c.json: cannot be read as JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_json_file(name, tmp_path, parsed):
    text, expected = WRONG[name]
    (tmp_path / "c.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        parsed("train", f"--config={tmp_path}/c.json")
    assert expected in str(caught.value)


@pytest.mark.heavy
def test_a_run_starts_again_from_what_it_wrote(text_file, tmp_path, parsed):
    """The same bits in another workdir; the same workdir is the finished run; settings on top are those of the new run."""
    config = tiny_config(
        text_file, tune__rates=((".*norm.*", 0.5), (".*", 1.0)), samples__prompts=("a",), eval__test=False
    )
    config.samples.max_new_tokens = 4
    first = quiet_train(config, tmp_path / "a")
    again = parsed("train", f"--config={tmp_path}/a/config.json", "--workdir=x")
    assert again.tune.rates == ((".*norm.*", 0.5), (".*", 1.0)), "lists of JSON are tuples"
    second = quiet_train(again, tmp_path / "b")
    assert second["after"] == first["after"] and second["best_step"] == first["best_step"]
    assert (tmp_path / "a/config.json").read_bytes() == (tmp_path / "b/config.json").read_bytes()
    assert quiet_train(again, tmp_path / "a") == first
    words = ["--config.training.steps=3", "--config.samples.prompts=()", "--config.optimizer.name=sgd"]
    other = parsed("train", f"--config={tmp_path}/a/config.json", *words)
    said = Said()
    run = Run(other, tmp_path / "c", said)
    assert run.config.training.steps == 3 and run.config.samples.prompts == ()
    assert said.lines == ["not read: samples.max_new_tokens (recipe)"]


def test_every_value_comes_back_from_json(tmp_path):
    tree = configs.default().to_dict()
    tree["parallel"]["rules"] = ((".*bias", (None, "fsdp")), (".*", "replicate"))
    tree["data"]["mixture"] = (("stdlib:prose", ((0, 1.0), (5, 2.0))), ("stdlib:code", 3))
    (tmp_path / "c.json").write_text(json.dumps(tree), encoding="utf-8-sig")  # as some editors write it
    assert files.load(f"{tmp_path}/c.json").to_dict() == tree


# Recipes


def test_recipes_are_found_by_name(tmp_path, monkeypatch):
    """From any folder, with and without .py; all are listed; a path that exists wins."""
    monkeypatch.chdir(tmp_path)
    names = {recipe.name for recipe in files.recipes()}
    assert names == {
        f"{p.parent.name}/{p.stem}" for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py"
    } and len(names) >= 6  # fmt: skip
    for name in ("pretrain/shakespeare", "pretrain/shakespeare.py", "configs/pretrain/shakespeare.py"):
        assert files.load(f"{name}:tiny").model.width == 64
    assert files.load("pretrain/objectives:masked_lm").objective.name == "masked_lm", "it starts from another"
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/shakespeare.py").write_text("def get_config(arg):\n    return {'model': {'width': 96}}\n")
    assert files.load("pretrain/shakespeare:tiny").model.width == 96


def test_recipes_of_feedback_are_short():
    """Of at most 25 lines: what else there is to say belongs into the settings' defaults."""
    found = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "configs/feedback").glob("*.py")}
    assert len(found) > 5 and {name: lines for name, lines in found.items() if lines > 25} == {}


def test_what_each_recipe_is_and_takes_is_said():
    for recipe in files.recipes():
        assert recipe.summary.endswith(".") and len(recipe.summary) < 120, recipe.name
        assert recipe.argument, recipe.name
        if recipe.default:
            assert files.recipe(f"{recipe.name}:{recipe.default}") == files.recipe(recipe.name)


# What a recipe suggests


def heavy_but(names, *kept):
    """Parameters that the heavy tier has, and those that are `kept` in the fast one."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.heavy) for name in names]


def mine(tmp_path, text_file, *lines):
    """A config file of a tiny run, with these lines."""
    lines = [
        f"from tests.helpers import tiny_config\ndef get_config():\n    c = tiny_config({str(text_file)!r})",
        *lines,
    ]
    (tmp_path / "mine.py").write_text("\n    ".join([*lines, "return c\n"]))
    return tmp_path / "mine.py"


HARMLESS = {
    "no samples": (["c.samples.update(prompts=('a',), max_new_tokens=4, temperature=0.5)"], {"samples.prompts": ()}, "not read: samples.max_new_tokens, samples.temperature (recipe)"),
    "no evaluations": (["c.select.update(patience=3, min_delta=0.1)"], {"eval.every": 0}, "not read: select.patience, select.min_delta (recipe)"),
    "no patience": (["c.select.update(patience=3, min_delta=0.1)"], {"select.patience": 0}, "not read: select.min_delta (recipe)"),
    "another optimizer": (["c.optimizer.update(b2=0.9)"], {"optimizer.name": "sgd"}, "not read: optimizer.b2 (recipe)"),
    "another schedule": (["c.optimizer.update(schedule='linear', end_ratio=0.0)"], {"optimizer.schedule": "constant"}, "not read: optimizer.end_ratio (recipe)"),
    "other tokens": (["c.tokenizer.update(kind='bpe', vocab_size=300)"], {"tokenizer.kind": "byte"}, "not read: tokenizer.vocab_size (recipe)"),
    "another method": (["c.tune.method = 'lora'", "c.tune.lora.rank = 2"], {"tune.method": "ia3"}, "not read: tune.lora.rank (recipe)"),
    "two steps": (["c.optimizer.warmup_steps = 10"], {"training.steps": 2}, "optimizer.warmup_steps: 0, a tenth of training.steps = 2, in place of 10 (recipe)"),
    "no step": ([], {"training.steps": 0}, "optimizer.warmup_steps: 0, a tenth of training.steps = 0, in place of 2 (recipe)"),
    "as many steps": (["c.training.steps = 90", "c.optimizer.warmup_steps = 30"], {"training.steps": 30}, "optimizer.warmup_steps: 3, a tenth of training.steps = 30, in place of 30 (recipe)"),
    "a schedule that comes down": (["c.training.steps = 12", "c.optimizer.update(warmup_steps=11, schedule='constant')"], {"optimizer.schedule": "wsd"}, "optimizer.warmup_steps: 1, a tenth of training.steps = 12, in place of 11 (recipe)"),
}  # fmt: skip


@pytest.mark.parametrize("name", heavy_but(HARMLESS, "no samples", "no evaluations", "two steps"))
def test_what_a_recipe_suggests_is_said_where_nothing_reads_it(name, text_file, tmp_path, parsed):
    """By the command line and from Python. The same settings are refused where the user gave them, also with the same values."""
    lines, changes, expected = HARMLESS[name]
    file = mine(tmp_path, text_file, *lines)
    words = [f"--config.{path}={value}" for path, value in changes.items()]
    by_flags = parsed("train", f"--config={file}", *words)
    by_hand = files.recipe(str(file))
    for path, value in changes.items():
        section, last = path.split(".")
        by_hand[section][last] = value
    changed = with_changes(files.recipe(str(file)), **changes)
    said = Said()
    run = Run(by_flags, tmp_path / "run", said)
    assert said.lines == [expected]
    configs.check_effects(configs.check(run.config.as_dict()))  # what is recorded is consistent
    for config in (by_hand, changed):
        section, _ = resolve(config)
        assert section.as_dict() == run.config.as_dict() and section.suggested == run.config.suggested
    path = expected.removeprefix("not read: ").split(":")[0].split(",")[0].split(" ")[0]
    again = f"--config.{path}={configs.get(files.load(str(file)), path)}"
    with pytest.raises(UserError, match=f"config.{path} = "):
        Run(parsed("train", f"--config={file}", again, *words), tmp_path / "run", Said())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "line, words",
    [
        ("c.tune.lora.rank = 2", "config.tune.lora.rank = 2 is set, but nothing in this run reads it"),
        ("c.select.patience, c.eval.every = 2, 0", "config.select.patience = 2: expected 0 where eval.every is 0"),
        ("c.optimizer.warmup_steps = 50", "config.optimizer.warmup_steps = 50: expected at most training.steps 12"),
    ],
)
def test_a_recipe_as_it_stands_is_consistent(line, words, text_file, tmp_path):
    """Or it is refused as a config from Python is, which nobody suggests."""
    given = files.load(str(mine(tmp_path, text_file, line)))
    for config in (given, given.to_dict()):
        with pytest.raises(UserError, match=words):
            Run(config, tmp_path / "run", Said())


@pytest.mark.heavy
def test_commands_say_once_what_is_not_read(text_file, tmp_path):
    words = ["train", f"--config=pretrain/text:{text_file}", f"--workdir={tmp_path}/run", "--config.model.width=32"]
    words += [
        "--config.model.layers=1",
        "--config.training.steps=2",
        "--config.eval.every=0",
        "--config.eval.tokens=500",
    ]
    done = ptft(*words, check=True)
    told = [line for line in done.stderr.splitlines() if "(recipe)" in line]
    assert told == [
        "not read: select.patience (recipe)",
        "optimizer.warmup_steps: 0, a tenth of training.steps = 2, in place of 10 (recipe)",
    ]
    ptft("train", f"--config={tmp_path}/run/config.json", f"--workdir={tmp_path}/again", check=True)
    both = [json.loads((tmp_path / name / "summary.json").read_text())["after"] for name in ("run", "again")]
    assert both[0] == both[1]
    done = ptft(*words, "--config.select.patience=5")
    assert done.returncode == 2 and "config.select.patience = 5: expected 0 where eval.every is 0" in done.stderr


def test_a_trainer_takes_a_changed_recipe():
    config = files.recipe("pretrain/shakespeare:tiny")
    config.training.steps, config.eval.every = 3, 0
    trainer = pt.Trainer(config, vocab_size=300)
    assert float(trainer.learning_rate(0)) == pytest.approx(config.optimizer.learning_rate), "there is no warm-up"
    config.optimizer.warmup_steps = 4
    with pytest.raises(UserError, match="config.optimizer.warmup_steps = 4: expected at most training.steps 3"):
        pt.Trainer(config, vocab_size=300)


# ptft config


def test_the_verb_lists_shows_and_explains(tmp_path):
    """From another folder; what it shows is a config file itself."""
    script = "from ptft_jax.cli import main; main()"

    def shown(*words):
        done = run(sys.executable, "-c", script, "config", *words, cwd=tmp_path, PYTHONPATH=str(ROOT))
        return done.returncode, done.stdout, done.stderr

    status, listed, _ = shown("--list")
    assert status == 0 and "pretrain/text:ARG\n" in listed and "Without one: small." in listed
    status, explained, _ = shown("--fields")
    assert status == 0 and all(f"{path.rstrip('_')} = " in explained for path, _ in configs.fields())
    status, config, told = shown("--config=pretrain/shakespeare:tiny", "--config.training.steps=5")
    values = json.loads(config)
    first, *differs = told.splitlines()
    assert status == 0 and first == "optimizer.warmup_steps: 0, a tenth of training.steps = 5, in place of 20 (recipe)"
    assert {"* training.steps = 5  (default 1000)", "* model.width = 64  (default 128)"} <= set(differs)
    assert not any(line.startswith("* optimizer.warmup_steps") for line in differs), "0 is the default"
    assert values["training"]["steps"] == 5 and values["model"]["width"] == 64
    (tmp_path / "mine.json").write_text(config)
    assert files.load(f"{tmp_path}/mine.json").to_dict() == configs.of(values).to_dict()
    assert shown() == (0, explained, ""), "the settings, where nothing is asked for"
    for words in (["--list", "--fields"], ["--config=pretrain/shakespeare:tiny", "--config.model.heads=3"]):
        status, out, told = shown(*words)
        assert status == 2 and not out and told.startswith("error: ") and "Traceback" not in told
