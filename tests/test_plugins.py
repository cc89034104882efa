"""Plugins: what their tables may hold, what is refused and how, and that nothing is left behind."""

import dataclasses
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from ptft_jax import adapters, objectives
from ptft_jax import config as configs
from ptft_jax.adapters import MethodSpec
from ptft_jax.config import files, metrics, plugins
from ptft_jax.config.computed import changes, computed
from ptft_jax.config.field import natural, positive
from ptft_jax.config.tree import TREE
from ptft_jax.errors import UserError
from ptft_jax.objectives.token_loss import sums_of
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training import assembly, completion
from tests.helpers import tiny_config
from tests.processes import ROOT


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes a module `NAME` of an importable folder of its own, and gives its name."""
    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(name, text):
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()  # folders that changed within a tick of the clock
        return name

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in sys.modules[name].__file__:
            del sys.modules[name]
    plugins.tables.cache_clear()
    configs.tree_of.cache_clear()


HEAD = """
import dataclasses
from ptft_jax.objectives import OBJECTIVES as OWN
from ptft_jax.adapters import MethodSpec
from ptft_jax.config.computed import changes, computed
from ptft_jax.config.field import natural, positive
from ptft_jax.config.tree import TREE
from ptft_jax.config.metrics import MetricSpec
from ptft_jax.config.sources import SourceSpec
def causal(**changes):
    return dataclasses.replace(OWN["causal_lm"], **changes)
"""
FOCAL = HEAD + "OBJECTIVES = {'focal': causal(fields={'focus': natural(2.0, 'of focal')})}\n"
METRIC = """
import jax.numpy as jnp
from ptft_jax.config.metrics import MetricSpec
def misses(logits, targets, weights):
    return jnp.sum((jnp.argmax(logits, -1) != targets) * weights), jnp.sum(weights)
METRICS = {
    "misses": MetricSpec(misses, "min"),
    "means": MetricSpec(lambda logits, targets, weights: jnp.mean(logits), "min"),
    "each": MetricSpec(lambda logits, targets, weights: (targets * weights, weights), "min"),
}
"""
GAIN = HEAD + "METHODS = {'gain': MethodSpec('builtins:object', {'start': positive(1.0, 'at first')})}\n"


def test_tables_are_joined(package):
    names = package("one.focal", FOCAL), package("gain_of_mine", GAIN)
    tables = plugins.tables(names)
    assert [*tables.objectives] == [*objectives.OBJECTIVES, "focal"] and [*tables.methods] == [
        *adapters.METHODS,
        "gain",
    ]
    tree = configs.tree_of(names)
    assert tree["objective"]["focus"].default == 2.0 and tree["tune"]["gain"]["start"].default == 1.0
    assert tree["objective"]["name"].choices == (*objectives.OBJECTIVES, "focal")
    section = configs.check({"plugins": list(names), "objective": {"name": "focal", "focus": 3}})
    assert section.objective.focus == 3.0 and section.plugins == names
    assert configs.check(section.as_dict()).as_dict() == section.as_dict()  # as a run writes it
    # The package's own are as they were.
    assert "focal" not in plugins.tables().objectives and "focus" not in TREE["objective"]
    assert dict(configs.fields()).keys() == dict(configs.check({}).fields()).keys()


def test_their_settings_are_settings(package):
    name = package("focal_alone", FOCAL)
    config = configs.default(plugins=(name,))
    config.objective.focus = 1.0
    assert configs.check(config).objective.focus == 1.0
    with pytest.raises(UserError, match="config.objective.focus = -1.0: expected a value of 0 or more"):
        configs.check({"plugins": (name,), "objective": {"focus": -1.0}})
    with pytest.raises(UserError, match="config.objective.focsu is not a setting .did you mean 'objective.focus'"):
        configs.check({"plugins": (name,), "objective": {"focsu": 1.0}})
    with pytest.raises(UserError, match="config.objective.focus is not a setting"):
        configs.check({"objective": {"focus": 1.0}})
    with pytest.raises(UserError, match="config.objective.focus = 1.0 is set, but nothing in this run reads it"):
        configs.check(config).refuse_unread()


def test_a_config_is_extended(package):
    """As for --config.plugins beside a config file that knows nothing of them; what the file set stays."""
    names = package("focal_late", FOCAL), package("gain_late", GAIN)
    config = configs.default()
    config.objective.z_loss = 0.5
    configs.extended(config, names[:1])
    configs.extended(config, names)
    assert config.plugins == names and (config.objective.focus, config.tune.gain.start) == (2.0, 1.0)
    assert config.objective.z_loss == 0.5 and config.is_locked
    # One that has but a few settings gets those of the plugins alone.
    part = ConfigDict({"init": {"from": "runs/base"}})
    configs.extended(part, names)
    assert part.to_dict() == {
        "init": {"from": "runs/base"}, "objective": {"focus": 2.0}, "tune": {"gain": {"start": 1.0}}, "plugins": names
    }  # fmt: skip
    configs.extended(part, ())
    assert configs.check(part).init.from_ == "runs/base"
    with pytest.raises(AttributeError):
        config.objective.focsu = 1.0


@pytest.mark.parametrize(
    "text, words",
    [
        ("X = 1", "'bad' has no table: none of OBJECTIVES, METHODS"),
        ("METHOD = {}", "'bad' has no table: none of OBJECTIVES, METHODS, .*TOOLS .did you mean 'METHODS'"),
        ("OBJECTIVES = ['focal']", "'bad': OBJECTIVES: expected a mapping of names to ObjectiveSpec, got list"),
        (
            "OBJECTIVES = {'focal': object}",
            "'bad': OBJECTIVES.'focal'.: expected a ObjectiveSpec, got <class 'object'>",
        ),
        ("METHODS = {'a+b': 1}", "'bad': METHODS: 'a.b': expected the name of a setting"),
        ("METHODS = {3: 1}", "'bad': METHODS: 3: expected the name of a setting"),
        ("METHODS = {'class': 1}", "'bad': METHODS: 'class': expected the name of a setting"),
        (
            HEAD + "METHODS = {'gain': MethodSpec(object, {'start': 1.0})}",
            "fields: 'start': expected names and `Field`s",
        ),
        (HEAD + "METHODS = {'gain': MethodSpec(object, {'as_dict': natural(0, '')})}", "'as_dict'.*expected names"),
        (HEAD + "OBJECTIVES = {'causal_lm': causal()}", "OBJECTIVES.'causal_lm'. is one of the package's own already"),
        (HEAD + "METHODS = {'lora': MethodSpec(object, {})}", "METHODS.'lora'. is one of the package's own already"),
        (HEAD + "METHODS = {'full': MethodSpec(object, {})}", "METHODS.'full'. is one of the package's own already"),
        (HEAD + "METHODS = {'rates': MethodSpec(object, {})}", "config.tune.rates is another setting"),
        (
            HEAD + "OBJECTIVES = {'focal': causal(fields={'chunk': natural(0, 'mine')})}",
            "OBJECTIVES.'focal'. has a setting 'chunk', and config.objective.chunk is another's",
        ),
        (HEAD + "METRICS = {'nll': MetricSpec(max, 'min')}", "METRICS.'nll'. is one of the package's own already"),
        (HEAD + "METRICS = {'raw_x': MetricSpec(max, 'min')}", "METRICS.'raw_x'. is one of the package's own already"),
        (
            HEAD + "METRICS = {'x': MetricSpec(max, 'up')}",
            "ValueError: MetricSpec: mode = 'up': expected 'min' or 'max'",
        ),
        (HEAD + "SOURCES = {'x-y': SourceSpec(max)}", "SOURCES: 'x-y': expected the name of a setting"),
        (HEAD + "SOURCES = {'jsonl': SourceSpec(max)}", "SOURCES.'jsonl'. is one of the package's own already"),
        (HEAD + "SOURCES = {'x': SourceSpec(max, 'id')}", "TypeError: SourceSpec: options = 'id': expected a tuple"),
        (HEAD + "FAMILIES = {'x-y': object}", "FAMILIES.'x-y'.: expected a FamilySpec, got <class 'object'>"),
        ("import no_such_thing", "'bad' cannot be imported: .*bad.py:1: ModuleNotFoundError: No module named 'no_such"),
        ("\n\nx = 1 / 0", "'bad' cannot be imported: .*bad.py:3: ZeroDivisionError: division by zero"),
        ("x = (\n", "'bad' cannot be imported: .*bad.py:1: SyntaxError: "),
        ("raise SystemExit('bye')", "'bad' cannot be imported: .*bad.py:1: SystemExit: bye"),
        ("import os\nos.environ['NO_SUCH_VARIABLE']", "'bad' cannot be imported: .*bad.py:2: KeyError: 'NO_SUCH"),
    ],
    ids=lambda v: v[-40:] if len(v) < 60 else "",
)
def test_what_is_no_plugin_is_one_message(text, words, package):
    with pytest.raises(UserError, match=f"^config.plugins: .*{words}") as caught:
        configs.check({"plugins": (package("bad", text),)})
    assert "\n" not in str(caught.value)


def test_names_that_meet(package):
    one, two = package("first", FOCAL), package("second", FOCAL)
    with pytest.raises(UserError, match="'second': OBJECTIVES.'focal'. is that of 'first' already"):
        configs.check({"plugins": (one, two)})
    with pytest.raises(UserError, match="config.plugins: 'first' is there twice"):
        configs.check({"plugins": (one, one)})
    # A setting that an objective has from the one that it is made of is the same setting.
    text = HEAD + "OBJECTIVES = {'mine': dataclasses.replace(OWN['masked_lm'], reads_prompt=True)}"
    assert (
        configs.check({"plugins": (package("third", text),), "objective": {"name": "mine"}}).objective.mask_rate == 0.15
    )


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "not_there.focal",
            "there is no module 'not_there.focal' .*install what has it, or put its folder on PYTHONPATH",
        ),
        ("first_of.none", "there is no module 'first_of.none' .No module named 'first_of.none'"),
        ("mypkg/focal.py", "'mypkg/focal.py': expected the name of a module, such as 'mypkg.focal'"),
        (".focal", "'.focal': expected the name of a module"),
    ],
)
def test_a_module_that_is_not_there(name, words, package):
    package("first_of.other", FOCAL)
    with pytest.raises(UserError, match=f"^config.plugins: {words}"):
        configs.check({"plugins": (name,)})


def test_entry_points(package, tmp_path):
    """A short name for a module, of a distribution that is installed."""
    package("installed_one", FOCAL)
    package("installed_two", FOCAL)

    def installed(name, *lines):
        info = tmp_path / "installed" / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[ptft_jax.plugins]", *lines]) + "\n")

    installed("one", "focal = installed_one", "twice = installed_one")
    installed("two", "twice = installed_two")
    section = configs.check({"plugins": ("focal",), "objective": {"name": "focal"}})
    assert section.plugins == ("focal",) and section.objective.focus == 2.0
    with pytest.raises(
        UserError, match="'twice' is an entry point of installed_one and of installed_two: name the mod"
    ):
        configs.check({"plugins": ("twice",)})
    with pytest.raises(UserError, match="there is no module 'focl' .*did you mean 'focal'"):
        configs.check({"plugins": ("focl",)})


def test_never_from_the_folder_of_a_run(package, tmp_path, monkeypatch):
    """Also where the verb is called there, with the working folder on the path as `python -m` has it."""
    run = tmp_path / "run"
    (run / "code").mkdir(parents=True)
    for path in (run / "of_the_run.py", run / "code/deeper.py"):
        path.write_text("raise AssertionError('executed')")
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "path", ["", str(run / "code"), *sys.path])
    for name in ("of_the_run", "deeper"):
        with plugins.never_from(run), pytest.raises(UserError, match=f"there is no module {name!r}"):
            configs.check({"plugins": (name,)})
    (run / "config.json").write_text(json.dumps({"plugins": ["of_the_run"]}))
    with pytest.raises(UserError, match="config.json: config.plugins: there is no module 'of_the_run'"):
        files.load(str(run / "config.json"))
    assert sys.path[:2] == ["", str(run / "code")]
    # From the folder above, a dotted name leads into it.
    monkeypatch.chdir(tmp_path)
    for name in ("run.of_the_run", "run.code.deeper"):
        (run / "config.json").write_text(json.dumps({"plugins": [name]}))
        with pytest.raises(UserError, match=f"config.plugins: there is no module {name!r} .*lies in .*not executed"):
            files.load(str(run / "config.json"))
    with plugins.never_from(run):
        assert configs.check({"plugins": (package("elsewhere", FOCAL),)}).plugins == ("elsewhere",)


def test_a_spec_with_less(package):
    """Of its class' fields, those that are settings are given; settings of others are not read."""

    @dataclasses.dataclass(frozen=True)
    class Loss:
        z_loss: float
        own: int = 7

    spec = dataclasses.replace(objectives.OBJECTIVES["causal_lm"], loss=Loss)
    section = configs.check({"objective": {"z_loss": 0.5, "chunk": 4}})
    assert spec.build(section.objective) == Loss(0.5, 7)
    with pytest.raises(UserError, match="config.objective.chunk = 4 is set, but nothing"):
        section.refuse_unread()
    assert MethodSpec("builtins:object", {}).fields == {} and natural(1, "").default == positive(1, "").default


def test_what_a_run_is_continued_with(package):
    """Only what it computes has to stay: not a plugin whose entries it does not name, nor one that has only trackers."""
    diary = package(
        "diary", "from ptft_jax.config.trackers import TrackerSpec\nTRACKERS = {'diary': TrackerSpec(object)}"
    )
    focal, other, gain = package("focal_a", FOCAL), package("focal_b", FOCAL), package("gain_a", GAIN)

    def config(*plugins, **sections):
        return json.loads(json.dumps(configs.check({"plugins": plugins, **sections}, complete=False).as_dict()))

    plain = config(log={"every": 3})
    told = config(diary, log={"trackers": ("diary",)})
    assert changes(plain, told) == changes(told, plain) == [] and computed(told) == {}
    assert changes(plain, config(focal, gain)) == changes(config(gain, focal), plain) == []
    mine = config(diary, focal, objective={"name": "focal", "focus": 3.0})
    assert changes(mine, config(focal, gain, objective={"name": "focal", "focus": 3.0})) == []
    assert changes(mine, config(other, objective={"name": "focal", "focus": 3.0})) == [
        "plugins: ['focal_a'] -> ['focal_b']"
    ]
    assert changes(plain, mine) == [
        "plugins: () -> ['focal_a']", "objective.name: 'causal_lm' -> 'focal'", "objective.focus: 2.0 -> 3.0"
    ]  # fmt: skip
    assert changes(config(gain, tune={"method": "gain"}), plain) == [
        "plugins: ['gain_a'] -> ()", "tune.method: 'gain' -> 'full'"
    ]  # fmt: skip
    metric = package("metric_a", METRIC)
    assert changes(config(metric, eval={"metrics": ("misses",)}), plain) == []
    selects = {"select": {"metric": "validation/raw_misses"}}
    assert changes(config(metric, **selects), config(package("metric_b", METRIC), **selects)) == [
        "plugins: ['metric_a'] -> ['metric_b']"
    ]
    earlier = {**plain, "optimizer": {"learning_rate": 0.1}}  # a version that had fewer settings
    del earlier["plugins"], earlier["eval"]
    assert changes(earlier, plain) == ["optimizer.learning_rate: 0.1 -> 0.0"]


def test_metrics_that_are_none(package, text_file, tmp_path):
    """Before anything is compiled or written."""
    name = package("metric_c", METRIC)
    known, array = plugins.tables((name,)).metrics, np.zeros((2, 3), np.float32)
    for names, words in (
        (("mises",), "no metric 'mises': expected of misses, means, each .did you mean 'misses'"),
        (("misses", "misses"), "'misses' is named twice"),
        (("each",), r"'each': expected .total, weight., two numbers, got shapes \[2, 3\] and \[2, 3\]"),
    ):
        with pytest.raises(UserError, match=f"^config.eval.metrics: {words}"):
            sums_of(metrics.chosen(names, known), np.zeros((2, 3, 5)), array, array)
    for place, words in (
        ("ptft_jax.errors:no_such", "'ptft_jax.errors:no_such'.* cannot be loaded: .*has no attribute 'no_such'"),
        ("no_such_1:f", "'no_such_1:f'.* cannot be loaded: No module named 'no_such_1'"),
    ):
        with pytest.raises(UserError, match=f"^config.plugins: {words}"):
            metrics.chosen(("x",), {"x": metrics.MetricSpec(place, "min")})
    with pytest.raises(UserError, match="no metric 'misses': the config names no plugin that has any"):
        metrics.chosen(("misses",), plugins.tables().metrics)
    config = tiny_config(text_file, plugins=(name,), eval__metrics=("means",))
    words = r"'means' fails with logits \[8, 32, 257\], targets and weights \[8, 32\]: TypeError: "
    with pytest.raises(UserError, match=f"^config.eval.metrics: {words}"):
        assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_metric_that_selects(package, text_file, tmp_path):
    """Known by its name, and so is which values are better; one that is not measured does not select."""
    changes = {"plugins": (package("metric_d", METRIC),), "select__metric": "validation/raw_misses"}
    config = tiny_config(text_file, **changes, eval__metrics=("misses",), training__ema_decay=0.5)
    run = assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    assert (run.selection.metric, run.selection.mode) == ("validation/raw_misses", "min")
    with pytest.raises(
        UserError, match="config.select.mode = 'max': smaller values of validation/raw_misses are better"
    ):
        completion.resolve(tiny_config(text_file, **changes, select__mode="max"))
    with pytest.raises(UserError, match="config.select.metric = 'validation/raw_misses': evaluations of this run give"):
        assembly.Run(tiny_config(text_file, **changes), tmp_path / "run", Reporter(quiet=True))


def test_settings_need_no_jax():
    code = "import sys; from ptft_jax import config; config.default(); config.check({}); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
