"""The data that a command is to look at: of a config, a run, or a source named on the command line."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from ptft_jax.data import source_splits
from ptft_jax.errors import UserError
from ptft_jax.verbs import reading
from ptft_jax.verbs.command import SOURCES, define_config, define_plugins


class Selected(NamedTuple):
    """A config's data settings, with what reads them."""

    config: Any
    tokenizer: Any
    builder: Any
    longest: int  # rows of the run's model, 0 = there is none yet
    head: Any  # the classes that labels are numbered by, see `ptft_jax.data.class_names`
    workdir: pathlib.Path | None = None  # of the run, where one is named


def define() -> None:
    """--config, --run, --data, --tokenizer, and the settings of `config.data` that say what examples and rows become."""
    define_config()
    flags.DEFINE_string("run", None, f"Look at its data, or at --data as it reads them: {SOURCES}")
    flags.DEFINE_string("data", "", "A source, KIND:NAME[?OPTION=VALUE&...]; '' = that of the config or run.")
    flags.DEFINE_string(
        "tokenizer",
        "",
        "For --data alone: byte, or a tokenizer's file or folder (a run's workdir, say); '' = byte, or "
        "what the folder of tokens:FOLDER was made with.",
    )
    reading.define()
    define_plugins()


# What a source of images is shown for where no model is named.
_IMAGES = {"image_size": 64, "patch_size": 32, "max_length": 5, "causal": False, "head": "classes"}


class _Run(NamedTuple):
    values: dict[str, Any]  # of its config
    tokenizer: Any
    head: Any
    workdir: pathlib.Path | None


def _of_run(reference: str, has_data: bool, plugins: Sequence[str]) -> _Run:
    """What --run names: of a run that has made no step yet, too, by its folder alone. Raises UserError."""
    from ptft_jax.data import class_names
    from ptft_jax.data import tokenizers as tok
    from ptft_jax.runs.workdir import Workdir

    workdir = pathlib.Path(reference).expanduser()
    if workdir.is_dir() and not any(workdir.glob("*.safetensors*")):
        here = Workdir(workdir)
        here.check("--run")
        names = class_names.recorded(here.read_data())
        head = class_names.Head(names, reference) if names else class_names.NEW
        return _Run(here.read_config().as_dict(), tok.from_file(workdir), head, workdir)
    from ptft_jax.runs import source as restore  # loads JAX, which data alone need not

    found = (
        restore.find(reference, "--run", plugins=plugins)
        if restore.is_reference(reference)
        else restore.find_run(reference, "--run", together=True)
    )
    if found.data is None and not has_data:
        raise UserError(f"--data is missing: what {found.name} was trained on is not known")
    return _Run(found.config.as_dict(), found.tokenizer, class_names.of(found), getattr(found, "workdir", None))


def load() -> Selected:
    """What the flags of `define` select. Raises UserError."""
    from ptft_jax import config as configs
    from ptft_jax.data import builders, class_names, records, token_folder
    from ptft_jax.data import tokenizers as tok
    from ptft_jax.data.pictures import settled as pictures
    from ptft_jax.model.spec import wordless

    args = flags.FLAGS
    if args.config is not None and args.run:
        raise UserError("--config and --run: give one of them")
    if args.tokenizer and (args.config is not None or args.run):
        raise UserError("--tokenizer is for --data alone; a config's is config.tokenizer, a run has its own")
    parent, run, head = None, None, class_names.NEW
    if args.run:
        run = _of_run(args.run, bool(args.data), args.plugins)
        values, head = run.values, run.head
    elif args.config is not None:
        from ptft_jax.training import completion  # loads JAX, which data alone need not

        section, parent = completion.resolve(args.config)
        values, head = section.as_dict(), completion.head_of(parent, section.init.fresh)
    elif args.data:
        values = configs.default().to_dict()
    else:
        raise UserError("what to look at is missing: --config=FILE, --run=WORKDIR or --data=SOURCE")
    longest = values["model"]["max_length"] if args.run else 0
    values["data"].update(reading.changes())
    values["plugins"] = tuple(dict.fromkeys((*values["plugins"], *args.plugins)))
    if args.data:
        values["data"].update(source=args.data, mixture=())
    if records.parted(values["data"]["source"])[0] == "images" and args.config is None and not args.run:
        values["model"].update(_IMAGES)
        values["objective"]["name"] = "classification"
    pictures.complete_anew(values)
    values["model"]["max_length"] = max(values["model"]["max_length"], values["data"]["length"])
    config = configs.check(values)
    if wordless(config.model):
        tokenizer = tok.ByteTokenizer()
    elif run is not None:
        tokenizer = run.tokenizer
    elif args.tokenizer and args.tokenizer != "byte":
        tokenizer = tok.from_file(pathlib.Path(args.tokenizer).expanduser())
    elif not args.tokenizer and args.config is None and records.parted(args.data)[0] == token_folder.KIND:
        tokenizer = tok.from_file(pathlib.Path(records.parted(args.data)[1]))
    else:
        texts = functools.partial(source_splits.training_texts, config.data)
        tokenizer = tok.build(config.tokenizer, texts, parent.tokenizer if parent else None)
    builder = builders.for_model(config.objective, tokenizer, config.model, config.data)
    return Selected(config, tokenizer, builder, longest, head, run.workdir if run else None)
