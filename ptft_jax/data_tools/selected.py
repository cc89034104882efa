"""The data that a command is to look at: of a config, a run, or a source named on the command line."""

from __future__ import annotations

import functools
import pathlib
from typing import Any, NamedTuple

from absl import flags

from ptft_jax import reading
from ptft_jax.errors import UserError
from ptft_jax.launch import define_config


class Selected(NamedTuple):
    """A config's data settings, with what reads them, and the names that classes are numbered by (None = the source's own)."""

    config: Any
    tokenizer: Any
    builder: Any
    classes: Any = None


def define() -> None:
    """--config, --run, --data, --tokenizer, and the settings of `config.data` that say what examples and rows become."""
    define_config()
    flags.DEFINE_string("run", None, "A run's workdir: look at its data.")
    flags.DEFINE_string("data", "", "A source, KIND:NAME[?OPTION=VALUE&...]; '' = that of the config or run.")
    flags.DEFINE_string(
        "tokenizer",
        "",
        "For --data alone: byte, or a tokenizer's file or folder (a run's workdir, say); '' = byte, or "
        "what the folder of tokens:FOLDER was made with.",
    )
    reading.define()


def load() -> Selected:
    """What the flags of `define` select. Raises UserError."""
    from ptft_jax import config as configs
    from ptft_jax.data import builders, pipeline, prepared, records
    from ptft_jax.data import tokenizers as tok

    args = flags.FLAGS
    if args.config is not None and args.run:
        raise UserError("--config and --run: give one of them")
    if args.tokenizer and (args.config is not None or args.run):
        raise UserError("--tokenizer is for --data alone; a config's is config.tokenizer, a run has its own")
    parent, workdir = None, None
    if args.run:
        from ptft_jax.training import restore

        workdir = pathlib.Path(args.run.partition("@")[0])
        if not (workdir / "config.json").is_file():
            raise UserError(f"--run={args.run}: no run there (no config.json)")
        values = restore.read_config(workdir).as_dict()
    elif args.config is not None:
        from ptft_jax import loading  # loads JAX, which data alone need not

        section, parent = loading.resolve(args.config)
        values = section.as_dict()
    elif args.data:
        values = configs.default().to_dict()
    else:
        raise UserError("what to look at is missing: --config=FILE, --run=WORKDIR or --data=SOURCE")
    values["data"].update(reading.changes())
    if args.data:
        values["data"].update(source=args.data, mixture=())
    values["model"]["max_length"] = max(values["model"]["max_length"], values["data"]["length"])
    config = configs.check(values)
    if workdir is not None:
        tokenizer = tok.from_file(workdir)
    elif args.tokenizer and args.tokenizer != "byte":
        tokenizer = tok.from_file(pathlib.Path(args.tokenizer).expanduser())
    elif not args.tokenizer and args.config is None and (source := records.parse(args.data)).kind == prepared.KIND:
        tokenizer = tok.from_file(pathlib.Path(source.name))
    else:
        texts = functools.partial(pipeline.training_texts, config.data)
        tokenizer = tok.build(config.tokenizer, texts, parent.tokenizer if parent else None)
    builder = builders.build(config.objective, tokenizer)
    return Selected(config, tokenizer, builder, _classes(config, parent, workdir) if builder.labelled else None)


def _classes(config: Any, parent: Any, workdir: pathlib.Path | None) -> Any:
    from ptft_jax import identity
    from ptft_jax.data import class_names

    if workdir is None:
        return identity.classes_of(parent, config.init.fresh)
    found = class_names.recorded(identity.table(workdir))
    return None if found is None else class_names.Named(found, str(workdir), trained=True)
