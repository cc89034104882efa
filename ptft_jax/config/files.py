"""What --config names: a Python file with `get_config`, a JSON file that a run wrote, or a recipe by its name.

Recipes and experiments lie in configs/ and experiments/ of a checkout, and in ptft_jax/shipped/ of an installed package.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import pathlib
import re
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ptft_jax import config as configs
from ptft_jax.config import other_names, plugins, renamed
from ptft_jax.config.field import shown
from ptft_jax.config.tree import Config
from ptft_jax.errors import UserError, nearest

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def shipped() -> pathlib.Path:
    """The folder that holds configs/ and experiments/."""
    installed = _PACKAGE / "shipped"
    return installed if installed.is_dir() else _PACKAGE.parent


def recipe(name: str) -> Config:
    """The config that a recipe gives, to be changed: `recipe("pretrain/shakespeare:small")`.

    What the recipe sets and your changes leave without effect (`samples.max_new_tokens` once `samples.prompts` is empty) is not
    refused; what you set yourself is. Copy it by `ptft_jax.experiments.graph.with_changes`: of a `copy.deepcopy` all counts as
    yours.

    Args:
      name: NAME[:ARG] of a recipe that comes with the package (`ptft config --list`), or FILE[:ARG] of a Python file with
        `get_config`, or a JSON file such as a run's config.json.

    Raises:
      UserError: no such recipe or file (with the nearest), or one that fails, with file and line.
    """
    return load(name, "")


def load(reference: str, flag: str = "--config=") -> Config:
    """What `recipe` gives, for a flag that is named in messages."""
    whole = (
        reference.endswith(".json") and pathlib.Path(reference).expanduser().is_file()
    )  # whose path may have a colon
    name, colon, arg = (reference, "", "") if whole else reference.partition(":")
    path = _found(name, f"{flag}{reference}")
    if path.suffix == ".json":
        if colon:
            raise UserError(f"{flag}{reference}: a JSON file takes no argument (what follows the colon)")
        # A run's may be somebody else's: no plugin is taken from beside it.
        of_run = path.name == "config.json"  # which may say what an earlier version wrote
        with plugins.never_from(path.parent) if of_run else contextlib.nullcontext():
            values = _read_json(path)
            return configs.suggest(_valid(path, renamed.current(values) if of_run else values), alone=True)
    make_importable(shipped(), path.resolve().parent)
    get_config = function(path, "get_config")
    _check_argument(get_config, colon, f"{flag}{reference}", f"{flag}{name}")
    given = carried_out(path, lambda: get_config(*([arg] if colon else [])))
    if not isinstance(given, (ConfigDict, Mapping)):
        raise UserError(
            f"{path}: get_config returned {shown(given)}: expected a config, such as ptft_jax.config.default() with changes"
        )
    return configs.suggest(_valid(path, given))


def make_importable(*folders: pathlib.Path) -> None:
    """Lets modules of these folders be imported, after all others, by what runs in this process."""
    sys.path.extend(str(folder) for folder in folders if str(folder) not in sys.path)


class Recipe(NamedTuple):
    """A config file that comes with the package."""

    name: str  # FOLDER/STEM
    path: pathlib.Path
    summary: str  # what it is, in a sentence
    argument: str  # what goes after the colon
    default: str  # what it is without one; "" = one is needed


def recipes() -> Iterator[Recipe]:
    """Those that come with the package, by name; none is run."""
    folder = shipped() / "configs"
    for path in sorted(folder.glob("*/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        summary, _, argument = (
            (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ").partition(" ARG: ")
        )
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "get_config":
                default = node.args.defaults[0].value if node.args.defaults else ""
                name = path.relative_to(folder).with_suffix("").as_posix()
                yield Recipe(name, path, summary, argument, str(default))


def _found(name: str, given: str) -> pathlib.Path:
    """The file that a name means: a path, or a recipe of the package. Raises UserError."""
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        return path
    if name and path.with_name(path.name + ".py").is_file():
        return path.with_name(path.name + ".py")
    known = {recipe.name: recipe.path for recipe in recipes()}
    short = name.removeprefix("configs/").removesuffix(".py")
    if short in known:
        return known[short]
    if name and path.is_dir():
        hint = f"{path}/config.json of the run" if (path / "config.json").is_file() else "a file in it"
        raise UserError(f"{given}: {path} is a folder; give {hint}")
    same = [one for one in known if one.rpartition("/")[2] == short]
    near = (
        f" (did you mean {same[0]!r}?)" if same else nearest(str(path), _beside(path)) or nearest(short.lower(), known)
    )
    raise UserError(
        f"{given}: no such file {path}, nor a recipe of that name{near}; ptft config --list shows the recipes"
    )


def _beside(path: pathlib.Path) -> list[str]:
    """Config files where a path could have been meant to be: in its folder, and in those in it."""
    if not path.parent.is_dir():
        return []
    return sorted(str(file) for form in ("*.py", "*/*.py") for file in path.parent.glob(form) if file.is_file())


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as e:
        raise UserError(f"{path}:{e.lineno}: this is not JSON: {e.msg} (column {e.colno})") from None
    except (OSError, UnicodeError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: cannot be read as JSON: {e}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a config, sections of settings by name, got {shown(found)}")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


def _valid(path: pathlib.Path, given: Mapping[str, Any]) -> Config:
    try:
        return configs.of(given)
    except UserError as e:
        raise UserError(f"{path}: {e}") from None


def function(path: pathlib.Path, name: str, *, packaged: bool = False) -> Callable[..., Any]:
    """The function of this name in a Python file, which is run; `packaged`: a file of a package is imported as its module. Raises
    UserError."""
    module = _of_package(path) if packaged and (path.parent / "__init__.py").is_file() else _alone(path)
    found = vars(module).get(name)
    if not callable(found):
        names = [other for other, value in vars(module).items() if isinstance(value, types.FunctionType)]
        wrong = f"has no function {name}" if found is None else f"{name} is no function"
        kind = "a config file" if name == "get_config" else "a file like this"
        raise UserError(f"{path}: {wrong}{nearest(name, names)}; {kind} is Python and defines it")
    return found


def _alone(path: pathlib.Path) -> types.ModuleType:
    module = types.ModuleType("ptft_config_" + re.sub(r"\W", "_", str(path.resolve())))
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses of the file look for it
    carried_out(path, lambda: exec(compile(path.read_bytes(), str(path), "exec"), vars(module)))
    return module


def _of_package(path: pathlib.Path) -> types.ModuleType:
    folder, name = path.resolve().parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    make_importable(folder)
    module = carried_out(path, lambda: importlib.import_module(name))
    if not module.__file__ or not path.samefile(module.__file__):
        raise UserError(f"{path}: it is the module {name}, but another is found first: {module.__file__}")
    return module


def _check_argument(function: Callable[..., Any], colon: str, given: str, name: str) -> None:
    """Raises UserError where a config's function needs an argument, or takes none."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of something else that can be called
        return
    try:
        signature.bind(*([""] if colon else []))
    except TypeError:
        if colon:
            raise UserError(f"{given}: it takes no argument (what follows the colon): {name}") from None
        needed = [p.name.upper() for p in signature.parameters.values() if p.default is p.empty]
        raise UserError(f"{given}: an argument is missing: {name}:{needed[0]}") from None


def carried_out(path: pathlib.Path, work: Callable[[], Any]) -> Any:
    """What `work` gives, which runs a user's file. Raises UserError for whatever goes wrong in it, with the place."""
    try:
        return work()
    except UserError:
        raise
    except (Exception, SystemExit) as e:
        raise UserError(described(e, path)) from e


def described(error: BaseException, path: pathlib.Path | None = None) -> str:
    """An error of a user's Python file, in one message that begins with the place: the last line of the user's own that ran."""
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    last = next((line for line in reversed(lines) if _is_users(line[0])), [path] if path else [])
    return f"{''.join(f'{part}:' for part in last)} {_text(error)}".lstrip()


def _is_users(file: str) -> bool:
    """Whether a file is a config or a module beside it: not of Python, of an installed package, or of this one."""
    if file.startswith("<"):
        return False
    path = pathlib.Path(file).resolve()
    if path.is_relative_to(shipped() / "configs"):
        return True
    library = path.is_relative_to(_PACKAGE) or path.is_relative_to(sysconfig.get_path("stdlib"))
    return not library and not {"site-packages", "dist-packages"} & set(path.parts)


def _text(error: BaseException) -> str:
    """The message of an error; of a misspelled setting, the nearest one."""
    cause = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
    text = str(cause.args[0]) if isinstance(cause, KeyError) and cause.args else str(cause)
    # ml_collections lists all fields of the section.
    if found := re.match(r"(?:Key \"(\w+)\" does not exist|'(\w+)'\n)", text):
        name = found[1] or found[2]
        if now := renamed.said_of_last(name):
            return now
        near = re.search(r'Did you mean "(\w+)"', text)
        known = f" (did you mean {near[1]!r}?)" if near else ""
        if not known or other_names.of_others(name):
            known = other_names.advice(name, [path for path, _ in configs.fields()]) or known
        return f"{name} is not a setting{known}"
    if isinstance(error, SystemExit):
        return f"the file ends the program ({text})"
    return f"{type(error).__name__}: {text}".removesuffix(": ") if isinstance(error, KeyError) or not text else text
