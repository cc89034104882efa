"""The types of settings: every one has its own, in the class of its section, and an editor's checker reads them off a config."""

import re
import sys
import typing

import pytest

from ptft_jax import config as configs
from ptft_jax.config.declare import Options, declared, fields_of, required, section
from ptft_jax.config.field import Field, natural
from ptft_jax.config.methods import METHODS, MethodOptions
from ptft_jax.config.objectives import OBJECTIVES, ObjectiveOptions
from ptft_jax.config.tree import Config
from tests.processes import ROOT, run


def annotated(options, prefix=""):
    """Path -> type of every setting that a class of options and those in it annotate."""
    found = {}
    for name, kind in typing.get_type_hints(options).items():
        nested = isinstance(kind, type) and issubclass(kind, Options)
        found |= annotated(kind, f"{prefix}{name}.") if nested else {prefix + name: kind}
    return found


def test_every_setting_has_the_type_of_its_default():
    types = annotated(Config)
    assert types.keys() == dict(configs.fields()).keys()
    for path, field in configs.fields():
        kind = typing.get_origin(types[path]) or types[path]
        assert kind is type(field.default), path


def test_every_method_and_objective_has_its_settings_in_the_typed_tree():
    assert {name: spec.fields for name, spec in METHODS.items()} == fields_of(MethodOptions)
    settings = fields_of(ObjectiveOptions)
    assert all(settings[name] == field for spec in OBJECTIVES.values() for name, field in spec.fields.items())


def test_a_section_is_its_fields_in_order_and_cannot_be_changed():
    class Inner(Options):
        b: int = declared(natural(2, "b"))

    class Outer(Options):
        c: float = required(natural(0.5, "c"))
        inner: Inner = section(Inner)
        a: str = declared(Field("x", "a"))

    fields = fields_of(Outer)
    assert list(fields) == ["c", "inner", "a"] and fields["inner"]["b"].default == 2 and fields["c"].default == 0.5
    made = Outer(c=1.0)
    assert (made.c, made.inner.b, made.a) == (1.0, 2, "x") and made == Outer(c=1.0, inner=Inner(b=2)) != Outer(c=2.0)
    with pytest.raises(AttributeError):
        made.c = 2.0
    with pytest.raises(TypeError):
        Outer()


# What a checker says of a line stands behind it.
MINE = """
import ptft_jax as pt
from ptft_jax import config as configs


def get_config() -> configs.Config:
    config = configs.default()
    config.optimizer.learning_rate = 1e-3
    config.optimizer.learning_rate = 1
    config.optimizer.learning_rte = 1e-3  #! "OptimizerOptions" has no attribute "learning_rte"; maybe "learning_rate"?  [attr-defined]
    config.training.micro_batches = 2.5  #! Incompatible types in assignment (expression has type "float", variable has type "int")
    config.model.layers = 2
    config.model.layers = "2"  #! Incompatible types in assignment (expression has type "str", variable has type "int")
    config.modle.layers = 2  #! "Config" has no attribute "modle"; maybe "model"?
    config.seed = 3
    config.init.from_ = "runs/base"
    config.data.mixture = (("jsonl:a", 2.0), ("jsonl:b", ((0, 1.0), (100, 0.0))))
    config.data.mixture = ("jsonl:a", "jsonl:b")  #! Incompatible types in assignment
    config.samples.prompts = ("a", "b")
    config.samples.prompts = "a"  #! Incompatible types in assignment (expression has type "str", variable has type "tuple[str, ...]")
    config.tune.method = "lora"
    config.tune.lora.rank = 4
    config.tune.lora.rnak = 4  #! "LoraOptions" has no attribute "rnak"
    config.tune.phases = ((0, "head"), (10, "all", 0.1))
    config.tune.ewc.update(weight=1.0, rows=8)
    config.tune.ewc.update(wieght=1.0)  #! Unexpected keyword argument "wieght" for "EwcOptions"; did you mean "weight"?
    config.objective.mask_rate = 0.3
    config.parallel.rules = ((".*", (None, "fsdp")), ("embed/.*", "replicate"))
    config.samples.update(**configs.default().samples)
    with config.unlocked():
        config["optimizer"]["name"] = "sgd"
    return config


def main() -> None:
    config = pt.recipe("pretrain/shakespeare:tiny")
    config.training.steps = 3
    config.training.step = 3  #! "TrainingOptions" has no attribute "step"; maybe "steps"?
    pt.train(config, "runs/a")
    pt.Trainer(config, vocab_size=256)
    print(configs.check(config).tune.distill.weight.real)
    print(configs.check(config).tune.distill.wight)  #! "DistillOptions" has no attribute "wight"; maybe "weight"?
"""


def test_what_a_checker_accepts_runs():
    values = {}
    exec("".join(line for line in MINE.splitlines(keepends=True) if "  #! " not in line), values)
    section = configs.check(values["get_config"]())
    assert (section.optimizer.learning_rate, section.tune.ewc.rows, section.optimizer.name) == (1.0, 8, "sgd")


@pytest.mark.heavy
def test_a_checker_finds_what_is_wrong_in_a_config_file_and_no_more(tmp_path):
    """Nor anything in the recipes of the package."""
    expected = {str(n): line.partition("  #! ")[2] for n, line in enumerate(MINE.splitlines(), 1) if "  #! " in line}
    file = tmp_path / "mine.py"
    file.write_text(re.sub(r"  #! .*", "", MINE))
    words = ["--explicit-package-bases", "--no-error-summary", "--hide-error-context", str(file), "configs"]
    done = run(sys.executable, "-m", "mypy", *words, cwd=ROOT)
    assert not done.stderr, done.stderr
    lines = [line for line in done.stdout.splitlines() if ": note: " not in line]
    found = dict(re.fullmatch(r".*mine\.py:(\d+): error: (.*)", line).groups() for line in lines)
    assert found.keys() == expected.keys(), done.stdout
    assert all(found[n].startswith(message) for n, message in expected.items()), done.stdout
