"""Every declared field under bad values: one UserError that names it, at once, whatever Python object it is given."""

import json
import math

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ptft_jax import config as configs
from ptft_jax.config import seeds
from ptft_jax.config.field import Field
from ptft_jax.errors import UserError
from ptft_jax.model.decode import Sampling
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training import assembly
from tests.helpers import quiet_train, stop_at, tiny_config
from tests.processes import ptft

FIELDS = dict(configs.fields())


def nested(value, levels):
    for _ in range(levels):
        value = (value,)
    return value


# Nothing of these is a value of any field.
ANYWHERE = {
    "numpy float": np.float32(0.5), "numpy double": np.float64(0.5), "numpy int": np.int64(3), "numpy bool": np.bool_(True),
    "numpy text": np.str_("x"), "numpy array": np.arange(3.0), "jax array": jax.ShapeDtypeStruct((2,), np.float32),
    "bytes": b"adamw", "set": {1, 2}, "frozenset": frozenset({"a"}), "dict": {"a": 1}, "function": nested, "lambda": lambda x: x,
    "class": Field, "complex": 1j, "object": object(), "none": None, "range": range(3), "generator": (x for x in ()),
    "infinity": math.inf, "minus infinity": -math.inf, "nan": math.nan, "beyond float32": 1e300, "below float32": 1e-46,
    "huge": 10**400, "of thousands of digits": 10**5000, "minus huge": -(10**400), "surrogates": "\ud800",
}  # fmt: skip
# Nothing of these is in a tuple of any field.
INSIDE = {k: v for k, v in ANYWHERE.items() if k not in ("none",)}


def given(path, value):
    tree = {}
    *parents, last = path.split(".")
    section = tree
    for key in parents:
        section = section.setdefault(key, {})
    section[last] = value
    return tree


def refused(path, value):
    """The message for a value of a field."""
    with pytest.raises(UserError) as caught:
        configs.check(given(path, value))
    message = str(caught.value)
    assert message.startswith(f"config.{path}") and len(message) < 1500, message[:200]
    return message


@pytest.mark.parametrize("name", ANYWHERE)
def test_what_is_no_value_is_refused_by_every_field(name):
    for path in FIELDS:
        refused(path, ANYWHERE[name])


@pytest.mark.parametrize("name", INSIDE)
def test_what_is_no_value_is_refused_inside_tuples(name):
    """However deep: as an entry, as the second of a pair, in a list in it, and 12 tuples down."""
    value = INSIDE[name]
    for path, field in FIELDS.items():
        if isinstance(field.default, tuple):
            for form in (
                (value,),
                (("a", value),),
                [["a", [[0, value], [1, 1.0]]]],
                nested(value, 12),
                (("a", 1.0), ("b", value)),
            ):
                refused(path, form)
        else:
            refused(path, (value,))


def test_a_tuple_without_end_is_refused():
    for path, field in FIELDS.items():
        if isinstance(field.default, tuple):
            refused(path, nested(1, 5000))


def test_types_are_not_mixed_up():
    """True is no 1, 2.0 no 2; 2 is 2.0 where floats are asked for, and -0.0 is 0.0."""
    for path, field in FIELDS.items():
        kind = type(field.default)
        others = {
            int: (True, 2.0, "2"),
            bool: (1, 0, "True", 1.0),
            float: (True, "0.5"),
            str: (1, True, 0.5),
            tuple: ("a", 1),
        }
        for value in others[kind]:
            assert f"expected {kind.__name__}" in refused(path, value)
        if kind is float and (not field.valid or field.valid(1.0)):
            found = configs.get(configs.check(given(path, 1), complete=False).as_dict(), path)
            assert type(found) is float and found == 1.0
        if kind is float and (not field.valid or field.valid(0.0)):
            found = configs.get(configs.check(given(path, -0.0), complete=False)._values, path)
            assert math.copysign(1, found) == 1
        if kind is int:
            refused(path, -1), refused(path, 2**63)


WHERE = {
    "data.mixture": ((("jsonl:a", (np.float32(1), 2)),), r"config.data.mixture\[0\]\[1\]\[0\] = np.float32\(1.0\): .* got numpy.float32"),
    "tune.rates": ((("a", 1.0), ("b", nested)), r"config.tune.rates\[1\]\[1\] = <function nested.*: .* got function"),
    "samples.prompts": (("a", b"b"), r"config.samples.prompts\[1\] = b'b': .* got bytes"),
    "optimizer.decay_rules": (((".*", math.nan),), r"config.optimizer.decay_rules\[0\]\[1\] = nan: expected a finite number"),
    "parallel.rules": (((".*", 3),), r"config.parallel.rules: \('.\*', 3\): expected 'fsdp', 'replicate' or a tuple"),
    "tune.lora.targets": (("(",), r"config.tune.lora.targets: '\(' is not a regular expression"),
    "model.biases": (("qkv", "otu"), r"config.model.biases: expected of qkv, out, mlp, norm \(did you mean 'out'\?\)"),
    "tokenizer.add": (("",), r"config.tokenizer.add: '' is an empty text"),
    "data.source": ("jsonl:a\0b", "config.data.source = .*: expected a text without NUL characters"),
    "samples.temperature": (1e-38, "config.samples.temperature = 1e-38: "),
    "tune.distill.temperature": (0.0, "expected a value from 1e-06 to 1e\\+06"),
    "optimizer.learning_rate": (math.inf, "config.optimizer.learning_rate = inf: expected a finite number"),
    "seed": (2**63, "config.seed = 9223372036854775808: expected a number of at most 63 bits"),
    "model.layers": (10_000_000, "config.model.layers = 10000000: expected at most 100000"),
    "model.norm_eps": (1e-40, "expected 0, or a number that float32 can hold"),
    "model.rope_scaling": ((("kind", "longrope"), ("short_factor", 3)), "."),
}  # fmt: skip


@pytest.mark.parametrize("path", WHERE)
def test_the_place_is_named(path):
    import re

    value, words = WHERE[path]
    assert re.search(words, refused(path, value))


def test_what_may_be_said_may_be_said():
    """The ends of what is valid, and NUL where texts are not names."""
    for path, value in {
        "seed": 2**63 - 1, "tune.vera.seed": 2**63 - 1, "data.train_tokens": 2**40, "samples.temperature": 1e-6,
        "samples.prompts": ("\0", ""), "optimizer.eps": 2.0**-126, "training.steps": 2**31 - 1, "init.fresh": (".*",),
        "parallel.rules": (("a", (None, "fsdp")),), "tune.rates": (("blocks[-3:-1]/.*", 1), (".*", 0.0)),
    }.items():  # fmt: skip
        configs.check(given(path, value))


@pytest.mark.parametrize(
    "config", [None, 3, [], "x", {3: 4}, {"seed": {"a": 1}}, {"model": None}, {b"model": {}}], ids=str
)
def test_what_is_no_config(config):
    with pytest.raises(UserError, match="^config"):
        configs.check(config)


ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=2), st.complex_numbers(),
    st.sampled_from(["all", "lora", "adamw", ".*", "qkv", "text:x", np.float32(1), np.array([1]), nested, {1}, 2**31, 1e38]),
)  # fmt: skip
VALUES = st.recursive(
    ATOMS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner)), max_leaves=6
)


@hypothesis.given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES, min_size=1, max_size=4), st.booleans())
@hypothesis.settings(max_examples=400)
def test_any_values_are_valid_or_refused(changes, together):
    """And what is valid can be written down and read again."""
    tree = configs.default().to_dict()
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = tree
        for key in parents:
            section = section[key]
        section[last] = value
    try:
        section = configs.check(tree, complete=together)
    except UserError as e:
        assert str(e).startswith("config") and len(str(e)) < 3000
        return
    again = configs.check(json.loads(json.dumps(section.as_dict(), allow_nan=False)), complete=together)
    assert again.as_dict() == section.as_dict()


def test_a_config_dict_with_strange_things_in_it():
    for value in ((np.float64(1),), (("a", nested),)):
        config = configs.default()
        config.data.mixture = value
        with pytest.raises(UserError, match=r"config.data.mixture\[0\]"):
            configs.check(config)
    assert isinstance(configs.default(), ConfigDict)


NO_EFFECT = {
    "patience": (dict(select__patience=2, eval__every=0), "select.patience = 2: expected 0 where eval.every is 0"),
    "min_delta": (dict(select__min_delta=0.1), "select.min_delta = 0.1: expected 0 where select.patience is 0"),
    "budget": (dict(select__stop_over_budget=True, select__source_budget=0.1, eval__every=0), "select.stop_over_budget = True"),
    **{
        f"warm-up of {name}": (dict(optimizer__warmup_steps=12, optimizer__schedule=name), "optimizer.warmup_steps = 12: expected steps that are left for the decay")
        for name in ("cosine", "linear", "wsd", "rsqrt")
    },
    "metric": (dict(select__metric="validation/acuracy"), r"select.metric = 'validation/acuracy': .* give validation/loss, .*\(did you mean 'validation/accuracy'"),
    "metric of no set": (dict(select__metric="source/nll"), "select.metric = 'source/nll': evaluations of this run give validation/loss, validation/nll, validation/accuracy, validation/bits_per_byte"),
    "metric not measured": (dict(select__metric="validation/z_loss"), "select.metric"),
    "no metric": (dict(select__metric=""), "select.metric = ''"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_EFFECT)
def test_what_would_have_no_effect_is_refused_before_anything_is_written(name, text_file, tmp_path):
    changes, message = NO_EFFECT[name]
    with pytest.raises(UserError, match=f"config.{message}"):
        assembly.Run(tiny_config(text_file, **changes), tmp_path / "run", Reporter(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_constant_rate_may_warm_up_to_the_end(text_file, tmp_path):
    constant = dict(optimizer__schedule="constant", optimizer__warmup_steps=12)
    made = tiny_config(text_file, **constant)
    run = assembly.Run(made, tmp_path / "run", Reporter(quiet=True))
    assert float(run.trainer.learning_rate(12)) == pytest.approx(made.optimizer.learning_rate)


def test_metrics_that_are_promised_are_measured(text_file, tmp_path):
    """The names that a run says evaluations will give are those that they give."""
    config = tiny_config(text_file, training__steps=0, optimizer__warmup_steps=0, objective__z_loss=1e-3)
    config.select.metric = "no"
    with pytest.raises(UserError) as caught:
        quiet_train(config, tmp_path / "run")
    promised = str(caught.value).partition(" give ")[2].split(", ")
    config.select.metric = "validation/z_loss"
    quiet_train(config, tmp_path / "run")
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert sorted(promised) == sorted(set(row) - {"step", "kind", "time"})


@pytest.mark.heavy
def test_a_run_that_never_began_may_be_another(text_file, tmp_path, monkeypatch):
    """What it recorded is replaced. One that made a step is continued, or refused."""
    from ptft_jax.training.loop import Loop

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            quiet_train(tiny_config(text_file, tokenizer__kind="bpe", tokenizer__vocab_size=262), tmp_path / "run")
    assert (tmp_path / "run/config.json").exists()
    (tmp_path / "run/tokenizer.model").write_bytes(b"left over")
    with monkeypatch.context() as patched:
        stop_at(1, patched)
        quiet_train(tiny_config(text_file, optimizer__learning_rate=3e-3), tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["tokenizer"]["kind"] == "auto"
    assert not (tmp_path / "run/tokenizer.model").exists()
    with pytest.raises(UserError, match="holds a run with another config:\n  optimizer.learning_rate: 0.003 -> 0.01"):
        quiet_train(tiny_config(text_file), tmp_path / "run")


@pytest.mark.parametrize(
    "options", [dict(temperature=1e-38), dict(temperature=math.inf), dict(temperature=math.nan), dict(top_p=0.0), dict(top_k=-1),
                dict(top_k=1.5), dict(min_p=1.0), dict(top_p=math.nan), dict(temperature="1")],
    ids=str,
)  # fmt: skip
def test_sampling_is_checked(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Sampling(**options)


def test_seeds_above_32_bits_are_seeds_of_their_own():
    keys = {tuple(jax.random.key_data(seeds.key(s)).tolist()) for s in (0, 1, 2**32, 2**32 + 1, 2**40, seeds.MOST)}
    assert len(keys) == 6
    for seed in (0, 7, 2**31, 2**32 - 1):  # as they always were
        np.testing.assert_array_equal(jax.random.key_data(seeds.key(seed)), jax.random.key_data(jax.random.key(seed)))


FLAGS = {
    "generate": ("--temperature=1e-38", "--temperature=inf", "--temperature=nan", "--temperature=-0.1", "--top_p=0", "--top_p=nan",
                 "--top_k=-1", "--min_p=1", "--seed=-1", "--seed=9223372036854775808", "--max_new_tokens=0", "--max_new_tokens=1e3",
                 "--lookup=-1", "--draft_tokens=0"),
    "chat": ("--temperature=inf", "--seed=9223372036854775808", "--top_p=2"),
    "eval": ("--tokens=-1", "--tokens=99999999999999999999", "--batch_size=0", "--length=-1", "--held_out=nan"),
    "train": ("--max_seconds=nan", "--max_seconds=-1", "--process=-1"),
    "combine": ("--density=nan", "--seed=-1", "--alpha=inf", "--budget=nan", "--rank=0"),
    "export": ("--shard_gb=nan", "--shard_gb=0"),
}  # fmt: skip


@pytest.mark.parametrize("verb", FLAGS)
def test_flags_are_checked_as_settings_are(verb, capsys):
    """In this process: absl's flags are set up as the verb does it, each time again."""
    import importlib

    from absl import flags

    module, before = importlib.import_module(f"ptft_jax.{verb}"), set(flags.FLAGS)
    try:
        module.define()
        for word in FLAGS[verb]:
            name = word[2:].partition("=")[0]
            with pytest.raises(flags.Error, match=f"flag --{name}="):
                flags.FLAGS(["ptft", word])
            flags.FLAGS.unparse_flags()
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "words,expected",
    [
        (["generate", "--run=x", "--prompt=a", "--temperature=1e-38"], "flag --temperature=1e-38: expected"),
        pytest.param(["train", "--config=CONFIG", "--workdir=RUN", "--config.seed=9223372036854775808"], "config.seed = 9223372036854775808: expected", marks=pytest.mark.slow),
        pytest.param(["train", "--config=CONFIG", "--workdir=RUN", "--config.optimizer.learning_rate=inf"], "config.optimizer.learning_rate = inf", marks=pytest.mark.slow),
        (["train", "--config=CONFIG:numpy", "--workdir=RUN"], "config.data.mixture[0][1] = np.float32(1.0): expected"),
        pytest.param(["train", "--config=CONFIG:broken", "--workdir=RUN"], "mine.py:10: division by zero", marks=pytest.mark.slow),
        (["train", "--config=CONFIG:nothing", "--workdir=RUN"], "error: "),
    ],
    ids=lambda value: value[1] + value[-1][:30] if isinstance(value, list) else "",
)  # fmt: skip
def test_commands_give_one_message(words, expected, text_file, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom ptft_jax import config\n\n\ndef get_config(arg=''):\n    c = config.default()\n"
        f"    c.data.source = 'text:{text_file}'\n    if arg == 'numpy':\n        c.data.mixture = (('a', np.float32(1)),)\n"
        "    if arg == 'broken': 1 / 0\n    return None if arg == 'nothing' else c\n"
    )
    done = ptft(*[w.replace("CONFIG", str(tmp_path / "mine.py")).replace("RUN", str(tmp_path / "run")) for w in words])
    assert done.returncode == 2 and done.stderr.startswith("error: ") and expected in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
