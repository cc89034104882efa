"""What settings that name a file or folder mean, however they are spelled: a place, seen from the folder in which they were given.

`environment.json` says in which folder a run was begun. So one that was begun with `init.from=runs/base` can be continued from
another folder with the same run's absolute path.
"""

from __future__ import annotations

import glob
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from ptft_jax import config as configs
from ptft_jax.config.field import hashable
from ptft_jax.data import records
from ptft_jax.data.records import remote
from ptft_jax.data.records.reference import SPLITS, Reference
from ptft_jax.errors import UserError
from ptft_jax.runs import bucket
from ptft_jax.runs.lineage import parted, step_parted
from ptft_jax.runs.workdir import Workdir

_WEIGHTS = ("hf:", "gguf:")


def file(text: str, folder: str) -> str:
    """The place of a file or folder."""
    return os.path.realpath(os.path.join(folder, os.path.expanduser(text))) if text else ""


def template(text: str, folder: str) -> str:
    """The place of a template's file; the name of one that is no file."""
    return file(text, folder) if text.endswith(".jinja") else text


def parent(text: str, folder: str) -> tuple[str, ...]:
    """(place, step as it was asked for, adapter) of a run; the place of weights."""
    if bucket.is_url(text):
        place, adapter = parted(text)
        place, which = step_parted(place)
        return place.rstrip("/"), "last" if which == "latest" else which, adapter
    kind = next((kind for kind in _WEIGHTS if text.startswith(kind)), "")
    path = os.path.join(folder, os.path.expanduser(text.removeprefix(kind)))
    if kind == "hf:" and not os.path.isdir(path):
        return kind, text.removeprefix(kind)  # a model of the hub
    if kind or not text:
        return kind, file(path, folder)
    path, adapter = parted(path)
    path, which = step_parted(path)
    return os.path.realpath(path), "last" if which == "latest" else which, adapter


def parents(texts: Any, folder: str) -> tuple[Any, ...]:
    """As `parent`, of each of several."""
    return tuple(parent(text, folder) for text in texts)


def source(text: str, folder: str) -> tuple[Any, ...]:
    """(kind, place, options) of a data source."""
    parsed = _parsed(text)
    if parsed is None:
        return (text,)
    name, options = parsed.name, dict(parsed.options)
    if _is_place(parsed, folder):
        name = file(name, folder)
        # What is relative is so to the source, wherever that is seen from.
        given = [option for option in SPLITS if os.path.isabs(os.path.expanduser(options.get(option, "")))]
        options |= {option: file(options[option], "") for option in given}
    if "dir" in options and not remote.is_url(options["dir"]):
        options["dir"] = file(options["dir"], folder)
    if "retrieve" in options:
        options["retrieve"] = file(options["retrieve"], folder)
    return parsed.kind, name, tuple(sorted(options.items()))


def mixture(entries: Any, folder: str) -> tuple[Any, ...]:
    """As `source`, of each of a mixture's."""
    return tuple((source(name, folder), weight) for name, weight in hashable(entries))


def sources(names: Any, folder: str) -> tuple[Any, ...]:
    """As `source`, of each of several."""
    return tuple(source(name, folder) for name in hashable(names))


# The settings that name files or folders.
SETTINGS: Mapping[str, Callable[[Any, str], Any]] = {
    "init.from_": parent,
    "init.adapter": file,
    "objective.distill.teacher": parent,
    "tokenizer.path": file,
    "data.source": source,
    "data.mixture": mixture,
    "data.template": template,
    "data.neighbors.index": file,
    "eval.source": source,
    "eval.answers.source": source,
    "eval.behavior.source": source,
    "eval.behavior.also": sources,
    "rewards.json_schema.schema": file,
    "rewards.reward_model.run": parent,
    "rewards.ensemble.runs": parents,
    "rewards.ensemble.template": template,
    "rewards.process_reward.run": parent,
    "rewards.judge.run": parent,
    "rewards.judge.rubric_file": file,
    "rewards.judge.template": template,
    "rewards.reward_model.template": template,
}


DATA = (
    "data.source",
    "data.mixture",
    "eval.source",
)  # those of them that a run that starts from this one is measured on


def spelled(workdir: pathlib.Path, config: configs.Section, moved: bool = False) -> configs.Section:
    """`config` with the settings that mean the same as those that the run in a workdir was begun with, spelled as there; `moved`: whoever
    asks knows that all of them do, wherever that lies now."""
    before, now = Workdir(workdir).read_config().as_dict(), config.as_dict()
    for path in SETTINGS:
        *above, last = path.split(".")
        theirs, part = configs.get(before, path), configs.get(now, ".".join(above))
        if theirs != part[last] and ((moved and theirs and part[last]) or _same(path, theirs, part[last], workdir)):
            part[last] = theirs
    answers = now["eval"]["answers"]
    if not answers["verifiers"]:  # nobody reads how long answers are; earlier versions recorded a length
        answers["max_new_tokens"] = before["eval"]["answers"]["max_new_tokens"]
    return configs.check(now, suggested=config.suggested)


def _same(path: str, theirs: Any, mine: Any, workdir: pathlib.Path) -> bool:
    if not theirs or not mine:
        return False
    here, there = os.getcwd(), begun_in(workdir)
    if there is None:
        return False
    means = SETTINGS[path]
    first, second = means(theirs, there), means(mine, here)
    if first == second or path != "init.from_":
        return first == second
    place = bucket.folder_of(second[0], path) if bucket.is_url(second[0]) else pathlib.Path(second[0])
    chain, found = Workdir(workdir).read_lineage(), Workdir(place)
    # A run's name alone is its best or its last checkpoint, and may be spelled so.
    bare = chain[0].get("checkpoint", "") if chain else ""
    first, second = ((one[0], one[1] or bare, *one[2:]) if len(one) == 3 else one for one in (first, second))
    if first == second:
        return True
    # A run that was moved is the same one.
    known = chain[0].get("run_id") if chain else ""
    return first[1:] == second[1:] and bool(known) and found.is_run and found.run_id == known


def begun_in(workdir: pathlib.Path) -> str | None:
    """The folder in which the run in a workdir was begun; None where nobody knows. Of earlier versions its parent's place tells."""
    here = Workdir(workdir)
    if folder := here.begun_in:
        return folder
    if not here.is_run or not (chain := here.read_lineage()):
        return None
    place = chain[0].get("workdir") or chain[0].get("reference", "").partition(":")[2]
    given = configs.get(here.recorded_config(), "init.from_", "")
    name = next((given.removeprefix(kind) for kind in _WEIGHTS if given.startswith(kind)), given)
    for end in (name, name.rpartition("#")[0], name.rpartition("@")[0], name.rpartition("#")[0].rpartition("@")[0]):
        if end and place.endswith(f"/{(relative := str(pathlib.Path(end)))}"):
            return place.removesuffix(relative)
    return None


def from_here(workdir: pathlib.Path, config: configs.Section) -> dict[str, Any]:
    """The config of the run in a workdir, as plain values: what it names by a path that is relative to where the run was begun is
    named so that it is found from here."""
    values, folder = config.as_dict(), begun_in(workdir)
    moved = Workdir(workdir).read_moved()  # of data that an experiment knows elsewhere
    for path, value in moved.get("settings", {}).items():
        section, name = path.split(".")
        values[section][name] = _data_from_here(value, moved["folder"])
    if folder is None or os.path.realpath(folder) == os.path.realpath(os.getcwd()):
        return values
    found: dict[Any, Callable[[Any, str], Any]] = {
        file: _file_from_here,
        parent: _run_from_here,
        parents: lambda given, folder: tuple(_run_from_here(one, folder) for one in given),
        source: _data_from_here,
        mixture: _data_from_here,
        sources: lambda given, folder: tuple(_from_here(one, folder) for one in given),
        template: lambda given, folder: template_of(workdir, given),
    }
    for path, kind in SETTINGS.items():
        *above, name = path.split(".")
        part = configs.get(values, ".".join(above))
        part[name] = found[kind](part[name], folder)
    return values


def _data_from_here(given: Any, folder: str) -> Any:
    """As `_from_here`, of a source or of those of a mixture."""
    if isinstance(given, str):
        return _from_here(given, folder)
    return tuple((_from_here(source, folder), weight) for source, weight in given)


def of_source(source: Any) -> dict[str, Any]:
    """As `from_here`, of a run or imported weights (`ptft_jax.runs.source.find`); of weights nothing is relative."""
    workdir = getattr(source, "workdir", None)
    return source.config.as_dict() if workdir is None else from_here(workdir, source.config)


def _file_from_here(given: str, folder: str) -> str:
    there = file(given, folder)
    return there if os.path.exists(there) else given


def _run_from_here(given: str, folder: str) -> str:
    kind = next((kind for kind in _WEIGHTS if given.startswith(kind)), "")
    there = os.path.join(folder, os.path.expanduser(given.removeprefix(kind)))
    if given and not bucket.is_url(given) and os.path.exists(parent(given, folder)[1 if kind else 0]):
        return f"{kind}{os.path.normpath(there)}"
    return given


def template_of(workdir: pathlib.Path, text: str) -> str:
    """`config.data.template` of the run in a workdir, so that it is found from here."""
    there = template(text, begun_in(workdir) or "")
    return there if there != text and os.path.isfile(there) and not os.path.isabs(os.path.expanduser(text)) else text


def _from_here(text: str, folder: str) -> str:
    parsed = _parsed(text)
    if parsed is not None and "retrieve" in parsed.options:  # an index is a folder, too
        there = _file_from_here(parsed.options["retrieve"], folder)
        found = re.search(r"(?<=[?&]retrieve=)[^&]*", text)
        assert found is not None
        text = f"{text[: found.start()]}{urllib.parse.quote(there)}{text[found.end() :]}"
        parsed = _parsed(text)
    if parsed is None or not _is_place(parsed, folder) or os.path.isabs(os.path.expanduser(parsed.name)):
        return text
    there = os.path.normpath(os.path.join(folder, parsed.name))
    if not os.path.exists(there) and not any(glob.iglob(there, recursive=True)):
        return text
    rest = text[len(parsed.kind) + 1 :].removeprefix("file://")
    return f"{parsed.kind}:{there}{rest[len(parsed.name) :]}"


def _parsed(text: str) -> Reference | None:
    try:
        return records.parse(text)
    except UserError:  # no source: "parent", or nothing
        return None


def _is_place(parsed: Reference, folder: str) -> bool:
    """Whether a source is named by a path."""
    if remote.is_url(parsed.name):
        return False
    local = parsed.name.startswith((".", "/", "~")) or os.path.exists(os.path.join(folder, parsed.name))
    return bool(parsed.spec.suffixes) or parsed.kind == "tokens" or (parsed.kind == "hf" and local)
