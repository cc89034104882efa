"""The package from outside: public names, imported late, and what is shipped with it."""

import ast
import importlib
import importlib.metadata
import inspect
import re
import sys
import types

import pytest

import ptft_jax as pt
from ptft_jax.errors import UserError
from tests.processes import ROOT, run

FUNCTIONS = ("evaluate", "every", "generate", "load", "recipe", "train")


def test_importing_it_imports_nothing_else():
    probe = (
        "import sys\nbefore = set(sys.modules)\n"
        "import ptft_jax as pt\nassert pt.__version__ and issubclass(pt.UserError, Exception) and 'train' in dir(pt)\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = run(sys.executable, "-c", probe)
    assert done.stdout.splitlines() == ["['ptft_jax']"], done.stderr


def test_public_names_are_functions_that_are_there():
    from ptft_jax.config.files import recipe
    from ptft_jax.evaluation import samples, standalone
    from ptft_jax.experiments.nodes import Graph
    from ptft_jax.model.decode import Sampling
    from ptft_jax.runs.loading import load
    from ptft_jax.training.assembly import train
    from ptft_jax.training.hooks import every

    assert (pt.evaluate, pt.generate, pt.load, pt.train) == (standalone.evaluate, samples.generate, load, train)
    assert pt.recipe is recipe
    assert pt.every is every
    assert pt.UserError is UserError and pt.Sampling is Sampling and pt.Graph is Graph
    assert {*FUNCTIONS, "Graph", "Sampling", "Trainer", "UserError", "__version__"} == set(pt.__all__) <= set(dir(pt))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = pt.trian


@pytest.mark.parametrize("name", ["train", "generate"])
def test_a_module_of_the_same_name_does_not_take_a_functions_place(name, monkeypatch):
    """`python -m ptft_jax.train` and `ptft train` need the modules; importing one sets an attribute of the package."""
    monkeypatch.delitem(sys.modules, f"ptft_jax.{name}", raising=False)  # so that it is imported now
    module = importlib.import_module(f"ptft_jax.{name}")
    assert isinstance(module, types.ModuleType) and callable(module.define)
    assert inspect.isfunction(getattr(pt, name))


def test_other_attributes_of_the_package_are_set_as_ever(monkeypatch):
    monkeypatch.setattr(pt, "train", len)
    assert pt.train is len
    assert pt.errors is sys.modules["ptft_jax.errors"]


def test_type_checkers_see_what_is_imported_late():
    tree = ast.parse((ROOT / "ptft_jax/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert shown == pt._MODULES and set(pt._MODULES) == set(pt.__all__) - {"__version__"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_explained(name):
    function = getattr(pt, name)
    text = inspect.getdoc(function)
    assert "Raises:\n  UserError" in text
    for argument in inspect.signature(function).parameters:
        described = re.search(rf"^  {argument}: ", text, re.MULTILINE) or argument == "loaded"
        assert described, f"{name}: {argument}"


ONE = types.SimpleNamespace(model=types.SimpleNamespace(several=False), source=types.SimpleNamespace(name="runs/a@4"))
ADAPT = types.SimpleNamespace(names=("code", "prose"))
MANY = types.SimpleNamespace(model=types.SimpleNamespace(several=True, adapt=ADAPT), source=ONE.source)


@pytest.mark.parametrize(
    "loaded, prompts, options, words",
    [
        (ONE, "a text", {}, r"prompts = 'a text': expected a list of texts, got one: \['a text'\]"),
        (ONE, ["a"], {"stop": "end"}, "stop = 'end': expected a list of texts"),
        (ONE, [], {}, "prompts is empty"),
        (ONE, ["a"], {"use_adapter": ["code"]}, "use_adapter: runs/a@4 is no run with several adapters"),
        (MANY, ["a"], {}, "use_adapter is missing: runs/a@4 has several adapters; give one of code, prose for each"),
        (MANY, ["a"], {"use_adapter": ["code", "prose"]}, "use_adapter: 2 for 1 prompts"),
    ],
)
def test_what_cannot_be_generated(loaded, prompts, options, words):
    with pytest.raises(UserError, match=words):
        pt.generate(loaded, prompts, **options)


# What is shipped


def test_there_is_one_version():
    number = re.compile(r"\b0\.\d+\.\d+\b")
    assert number.fullmatch(pt.__version__) and importlib.metadata.version("ptft_jax") == pt.__version__
    for name in ("setup.py", "pyproject.toml", "CITATION.cff"):
        assert pt.__version__ not in (ROOT / name).read_text(), f"{name} has the version, too"


def test_setup_finds_what_it_reads_and_ships_what_is_no_module():
    text = (ROOT / "setup.py").read_text()
    shipped = (ROOT / "MANIFEST.in").read_text().split()
    by_itself = {"ptft_jax/__init__.py", "README.md", "setup.py", "pyproject.toml", "LICENSE"}  # what setuptools adds
    for name in re.findall(r'HERE / "(.*?)"', text):
        assert (ROOT / name).is_file() and (name in by_itself or name in shipped), name
    assert all((ROOT / name).is_file() for name in shipped[1:])
    data = ast.literal_eval(re.search(r"package_data=(\{.*?\})", text, re.DOTALL)[1])
    patterns = [ROOT / package.replace(".", "/") / pattern for package, names in data.items() for pattern in names]
    found = {file for pattern in patterns for file in pattern.parent.glob(pattern.name)}
    there = {p for p in (ROOT / "ptft_jax").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert found == there, "everything in the package that is no module, and nothing else"


def test_experiments_begin_wherever_they_are_installed():
    """As `python -m ptft_jax.shipped.experiments.NAME`: `experiments` is found once `prepare_experiment` has run, not before."""
    folder, begun = ROOT / "experiments", {path.stem for path in (ROOT / "experiments").glob("*.py")}
    begun = {name for name in begun if "launch(define, main)" in (folder / f"{name}.py").read_text()}
    assert {"safety", "constitution", "transfer", "scaling"} <= begun
    left, seen = sorted(begun), set()
    while left:
        name = left.pop()
        seen.add(name)
        for node in ast.parse((folder / f"{name}.py").read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "experiments" not in {
                    str(getattr(node, "module", "")).split(".")[0],
                    *(a.name for a in node.names),
                }, name
            if isinstance(node, ast.ImportFrom) and node.level:
                beside = [node.module] if node.module else [alias.name for alias in node.names]
                left += [one for one in beside if one not in seen]
    assert {"verdicts", "plays"} <= seen
    for path in (folder / "claims").glob("*.py"):
        assert not re.search(r"^(from|import) experiments", path.read_text(), re.MULTILINE), path.name


def test_the_licence_is_one():
    assert 'license_expression="Apache-2.0"' in (ROOT / "setup.py").read_text()
    licence = (ROOT / "LICENSE").read_text()
    assert licence.split("\n", 2)[1].strip() == "Apache License" and "END OF TERMS AND CONDITIONS" in licence
    assert re.findall(r"^ *Copyright .*", licence, re.MULTILINE) == ["   Copyright [yyyy] [name of copyright owner]"]


def test_the_citation_has_what_its_format_asks_for():
    """The fields that CFF 1.2.0 requires, and an entity as author."""
    import yaml

    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found["cff-version"] == "1.2.0" and found["message"] and found["title"] and found["license"] == "Apache-2.0"
    assert found["authors"] == [{"name": "The ptft_jax authors"}] and found["type"] == "software"


def test_a_release_is_checked_and_published_without_a_password():
    """By tags alone; only the job that publishes may ask for an identity, and it runs nothing of this project."""
    import yaml

    text = (ROOT / ".github/workflows/release.yml").read_text()
    found = yaml.safe_load(text)
    assert found[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` so
    build, publish = found["jobs"]["build"], found["jobs"]["publish"]
    commands = "\n".join(step.get("run", "") for step in build["steps"])
    assert "python -m build" in commands and "twine check --strict" in commands and "permissions" not in build
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert not [step for step in publish["steps"] if "run" in step]
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@") and "password:" not in text
    [rule] = [step["run"] for step in build["steps"] if step.get("name") == "The tag is the version"]
    done = run("bash", "-c", rule, GITHUB_REF_NAME=f"v{pt.__version__}")
    assert done.returncode == 0 and run("bash", "-c", rule, GITHUB_REF_NAME="v9.9.9").returncode
