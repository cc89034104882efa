"""The rooms of the package: no import runs upward, and one room knows the names of a run's files."""

import ast
import pathlib

import pytest

import ptft_jax
from ptft_jax.runs.workdir import Checkpoint, Workdir

PACKAGE = pathlib.Path(ptft_jax.__file__).parent

# From the bottom up. A module belongs to the longest of the prefixes that fit it, and may import its own room and those
# below; `options` are the files of that name in all packages, which declare settings, and which `config` joins.
# docs/architecture.md says why.
ROOMS = (
    "errors",
    "environment",
    "config.seeds",
    "config.spans",
    "params.rules",
    "config.field",
    "config.declare",
    "model.spec",
    "model.tower_settings",
    "options",
    "config",
    "model",
    "params",
    "adapters",
    "pairing",
    "objectives",
    "optim",
    "data",
    "world",
    "parallel",
    "interop",
    "runs",
    "catalog",
    "rewards",
    "tools",
    "retrieval",
    "regularization",
    "reporting",
    "evaluation",
    "feedback",
    "training",
    "run",
    "combining",
    "planning",
    "jobs",
    "experiments",
    "dashboard",
    "verbs",
    "train",
    "cli",
)
# Former names, which go with version 0.3.
ALIASES = {
    "chat", "combine", "compare", "data_tools", "doctor", "eval", "experiment", "export", "generate", "launch", "loading", "report",
}  # fmt: skip


def _room(module):
    if module.endswith(".options"):
        return "options"
    fitting = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(fitting, key=len, default=None)


def _imports(package, file):
    """(line, module) of what a file imports of the package, wherever in it that is done."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package.name:
            for alias in node.names:
                inner = package.joinpath(*node.module.split(".")[1:], alias.name)
                module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield node.lineno, f"{node.module}.{alias.name}" if module else node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] == package.name)


def upward(package):
    """What is imported from a room above, a line each."""
    found = []
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__" or module in ALIASES:
            continue
        mine = _room(module)
        assert mine, f"{module}: of no room; nothing else is at the top but packages"
        for line, target in _imports(package, file):
            theirs = _room(target.partition(".")[2])
            if theirs is not None and ROOMS.index(theirs) > ROOMS.index(mine):
                found.append(f"{module}, line {line}: imports {target}")
            assert theirs or target == package.name or target.partition(".")[2] in ALIASES, (module, target)
    return found


def test_no_import_runs_upward():
    assert not upward(PACKAGE)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("model/decode.py", "from ptft_jax.runs.workdir import Workdir\n", 1),
        ("evaluation/names.py", "import ptft_jax.training.loop\n", 1),
        ("runs/lease.py", "def f():\n    from ptft_jax import train\n", 2),
        ("runs/options.py", "from ptft_jax.runs.workdir import Workdir\n", 1),
    ],
)
def test_an_upward_import_is_found(name, text, line, tmp_path):
    package = tmp_path / "ptft_jax"
    for other in ("runs/workdir.py", "training/loop.py", "train.py", name):
        (package / other).parent.mkdir(parents=True, exist_ok=True)
        (package / other).write_text(text if other == name else "")
    module = name.removesuffix(".py").replace("/", ".")
    [found] = upward(package)
    assert found.startswith(f"{module}, line {line}: imports ptft_jax.")


def test_one_file_knows_the_names_of_a_runs_files():
    """As text of their own, in code; what a docstring or a message says of them is no second home."""
    here, checkpoint = Workdir(pathlib.Path("/w")), Checkpoint(pathlib.Path("/w"))
    names = {
        value.name
        for one in (here, checkpoint)
        for name in dir(type(one))
        if not name.startswith("_") and isinstance(value := getattr(one, name), pathlib.Path)
    }
    names = {name for name in names if "." in name or "-" in name}  # not those that are words
    assert {"config.json", "summary.json", "metrics.jsonl", "checkpoints-damaged", "files.json", "owner.json"} <= names
    # Names of other things too: files of tokenizers and of other libraries' models, columns, settings.
    elsewhere = {"data", "interop", "config"}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0]
        if room in elsewhere or file == PACKAGE / "runs/workdir.py":
            continue
        texts = [n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)]
        assert not [text for text in texts if text in names], file


def _without_encoding(source):
    """Lines of calls that read or write text by the locale's encoding."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        modes = [
            v.value for v in (*call.args, *given.values()) if isinstance(v, ast.Constant) and isinstance(v.value, str)
        ]
        opened = name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile") and any(
            set(mode) <= set("rwax+t") for mode in modes if mode
        )
        decoded = name in ("run", "Popen", "check_output") and ("text" in given or "universal_newlines" in given)
        whole = isinstance(call.func, ast.Attribute) and name in ("read_text", "write_text")
        if "encoding" not in given and (whole or opened or decoded):
            yield call.lineno


def test_text_has_an_encoding():
    """Files are UTF-8 in every locale; that of a bare container knows ASCII alone."""
    seen = [*_without_encoding("p.read_text()\nopen(p, 'w')\np.open('r')\nrun(c, text=True)\nopen(p, 'rb')\np.open()")]
    assert seen == [1, 2, 3, 4]
    bare = {
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in PACKAGE.rglob("*.py")
        for line in _without_encoding(file.read_text(encoding="utf-8"))
    }
    assert not bare, sorted(bare)
