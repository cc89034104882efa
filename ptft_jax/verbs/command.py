"""What every verb does around its work: parse flags, set up JAX, turn bad input into one clear message."""

from __future__ import annotations

import codecs
import dataclasses
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from ptft_jax.errors import UserError
from ptft_jax.verbs import allocator
from ptft_jax.verbs.output import UNREAD, printed, unread

BAD_INPUT = 2  # exit status for UserError
TERMINATED = 128 + 15  # exit status after SIGTERM, so that a scheduler knows to start the run again


def launch(
    define: Callable[[], None], main: Callable[[], int | None], argv: Sequence[str] | None = None, words: str = ""
) -> None:
    """Runs a verb and exits with its status.

    Args:
      define: defines the verb's absl flags.
      main: does the work; returns an exit status, None for 0.
      argv: program name and arguments, by default the process'.
      words: the flag that takes several values, and that words without a flag belong to; "" = there may be none.
    """
    _begin_in_utf8()
    _speak_utf8()
    argv, command = _parted(sys.argv if argv is None else argv)
    argv = _joined([_spelled(word) for word in argv])
    sys.argv[:] = argv  # where ml_collections looks for overrides
    before = set(flags.FLAGS)
    define()
    if {"--help", "-h", "-help"} & set(argv[1:]):
        printed(_help(argv[0], main, set(flags.FLAGS) - before))
        sys.exit(0)
    argv = sys.argv[:] = [*argv, *command]
    logging.set_verbosity(logging.ERROR)  # libraries warn of things that users cannot change; --verbosity shows them
    try:
        parse(argv, words)
    except flags.UnrecognizedFlagError as e:
        fail(f"{e}{_as_setting(e.flagname)}")
    except (flags.Error, UserError) as e:
        fail(str(e))
    except Exception as e:  # of ml_collections, where a setting is applied
        from ptft_jax.config import files

        fail(files.described(e))

    def run(_: Sequence[str]) -> None:
        try:
            status = main()
        except UserError as e:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            fail(str(e))
        except OSError as e:  # no permission, no space, a vanished mount: the message names the file
            if isinstance(e, BrokenPipeError) and unread():
                _exit(UNREAD)
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            fail(str(e))
        except MemoryError as e:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            fail(f"not enough memory: {e}" if str(e) else "not enough memory")
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except Exception as e:
            if any(words in str(e) for words in ("RESOURCE_EXHAUSTED", "Out of memory")):  # XLA's own
                fail(f"not enough memory: {str(e).splitlines()[0]}")
            if _others() is None:
                raise
            traceback.print_exc()
            _exit(1)
        unread()
        sys.exit(status or 0)

    app.run(run, argv=argv[:1])


def _begin_in_utf8() -> None:
    """Where names of files and the words of a command line are ASCII alone, as PYTHONUTF8=0 has it in a bare container: begins this
    process again in Python's UTF-8 mode, and those that it starts."""
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _speak_utf8() -> None:
    """In a locale that knows ASCII alone, as of a bare container or cron, models still read and write texts of all letters."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None)
        if encoding and codecs.lookup(encoding).name == "ascii" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8")


def parse(argv: Sequence[str], words: str = "") -> None:
    """Reads a verb's flags, which are defined, from its words. Raises UserError, or absl's `flags.Error`."""
    has_config = "config" in flags.FLAGS
    if has_config and "workdir" in flags.FLAGS:
        argv = sys.argv[:] = _with_recorded(argv)
    if has_config:
        _check_config_words(argv)
    flags.FLAGS.set_gnu_getopt(bool(words))
    rest = flags.FLAGS(argv)
    if words:
        setattr(flags.FLAGS, words, [*getattr(flags.FLAGS, words), *rest[1:]])
    elif len(rest) > 1:
        raise UserError(
            f"unexpected argument {rest[1]!r}: settings are given as --config.NAME=VALUE, the rest as --FLAG=VALUE"
        )
    if has_config:
        _settings_are_the_users()


def _help(program: str, main: Callable, names: set[str]) -> str:
    """The verb's own text and flags; absl's help lists everything any library defines."""
    lines = [f"{program} [--flags]", "", (sys.modules[main.__module__].__doc__ or "").strip(), "", "flags:"]
    for name in sorted(names):
        flag = flags.FLAGS[name]
        shown = "" if flag.default in (None, "", []) else f" (default {flag.default_as_str})"
        lines.append(f"  --{name}: {flag.help}{shown}")
    return "\n".join(lines)


def _parted(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for the verb, and `--` with what follows, of which no word is a flag of the verb."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:end]), list(argv[end:])


def _spelled(word: str) -> str:
    # ml_collections parses paths as Python, where `from` is a keyword (see `init.from_` in ptft_jax.config.tree).
    name, equals, value = word.partition("=")
    return re.sub(r"^(--?config\.init\.from)$", r"\1_", name) + equals + value


def _joined(words: Sequence[str]) -> list[str]:
    """The words, with `--config FILE` as one, and before the settings that ml_collections changes in it."""
    made: list[str] = []
    for word in words:
        if made and made[-1] in ("--config", "-config") and not word.startswith("-"):
            made[-1] = f"--config={word}"
        else:
            made.append(word)
    program, rest = made[:1], made[1:]
    return program + sorted(rest, key=lambda word: not re.match(r"--?config=", word))


def fail(message: str, status: int = BAD_INPUT) -> None:
    """Prints one message and exits."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    _exit(status)


def _others() -> Any:
    """`ptft_jax.parallel.processes` where this process has joined others, else None."""
    module = sys.modules.get("ptft_jax.parallel.processes")
    return module if module is not None and module.joined() else None


def _exit(status: int) -> None:
    others = _others()
    if others is not None:
        others.abandon(status)
    sys.exit(status)


def _with_recorded(argv: Sequence[str]) -> list[str]:
    """The words, with the config that the run in --workdir recorded where none is given: the workdir alone continues a run."""
    from ptft_jax.runs import bucket
    from ptft_jax.runs.workdir import Workdir

    given = [re.match(r"--?(config|workdir)(?:=(.*))?$", word) for word in argv]
    named = {found[1]: found[2] or following for found, following in zip(given, [*argv[1:], ""]) if found}
    if "config" in named or not named.get("workdir"):
        return list(argv)
    if bucket.is_url(named["workdir"]):  # as the machine knows it, or as it is there
        here = Workdir(bucket.copied(named["workdir"], f"--workdir={named['workdir']}", new=True))
    else:
        here = Workdir(pathlib.Path(named["workdir"]).expanduser())
    if not here.is_run:
        return list(argv)
    from ptft_jax import config
    from ptft_jax.config.field import hashable
    from ptft_jax.runs import meant

    # What was named as seen from the folder in which the run was begun is so named that it is found from here.
    recorded = here.read_config()
    there, now = (
        {path: hashable(config.get(values, path)) for path in meant.SETTINGS}
        for values in (recorded.as_dict(), meant.from_here(here.path, recorded))
    )
    found = [f"--config.{path}={value}" for path, value in now.items() if value != there[path]]
    return [argv[0], f"--config={here.config}", *found, *argv[1:]]


def _check_config_words(argv: Sequence[str]) -> None:
    """Answers a mistyped --config.NAME where no config is given; else that is done when its plugins are known."""
    if not any(re.match(r"--?config(=|$)", word) for word in argv[1:]):
        _check_settings(argv, _plugins_of(argv))


def _check_settings(argv: Sequence[str], plugins: Sequence[str]) -> None:
    """Answers a mistyped --config.NAME with the nearest valid one, which ml_collections does not."""
    from ptft_jax import config
    from ptft_jax.config import other_names, renamed

    valid = [path for path, _ in config.fields(config.tree_of(tuple(plugins)))]
    for word in argv[1:]:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name.startswith("config.") and name[len("config.") :] not in valid:
            if now := renamed.said(name[len("config.") :], "--config."):
                raise UserError(now)
            raise UserError(f"--{name} is not a setting{other_names.advice(name[len('config.') :], valid)}")


def _as_setting(flag: str) -> str:
    """What to say of a flag that is none, where it is the name of a setting, or of one in another tool."""
    if "config" not in flags.FLAGS:
        return "; flags of the command follow --" if "command" in flags.FLAGS else ""
    from ptft_jax import config
    from ptft_jax.config import other_names

    found = other_names.advice(flag, [path for path, _ in config.fields()])
    return f"{found}; settings are given as --config.SECTION.NAME=VALUE" if found else ""


def _plugins_of(argv: Sequence[str]) -> tuple[str, ...]:
    """The modules of --config.plugins=..., read as ml_collections reads a tuple."""
    from ml_collections.config_flags import tuple_parser

    given = []
    for word, following in zip(argv[1:], [*argv[2:], ""]):
        name, equals, value = word.partition("=")
        if name in ("--config.plugins", "-config.plugins"):
            given.append(value if equals else following)
    return tuple(name for text in given for name in tuple_parser.TupleParser().parse(text))


def _settings_are_the_users() -> None:
    """Tells the config which of its settings the command line gave."""
    from ml_collections import config_flags

    from ptft_jax import config

    if flags.FLAGS.config is not None:
        config.own(flags.FLAGS.config, config_flags.get_override_values(flags.FLAGS["config"]))


class _ConfigParser(flags.ArgumentParser):
    """Reads what --config names (`ptft_jax.config.files`); settings of the plugins that it or the command line names can then be
    given."""

    def parse(self, argument: str) -> Any:
        from ptft_jax import config as configs
        from ptft_jax.config import files

        config = files.load(argument)
        configs.extended(config, _plugins_of(sys.argv))
        _check_settings(sys.argv, config.plugins)
        return config

    def flag_type(self) -> str:
        return "config object"


def define_config() -> None:
    """--config=FILE[:ARG] or NAME[:ARG] with --config.NAME=VALUE overrides."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config",
        None,
        "A recipe, e.g. pretrain/shakespeare:small (ptft config --list), a Python file with get_config, or a run's config.json.",
        lock_config=True,
    )
    flags.FLAGS["config"].parser = _ConfigParser()


def define_number(name: str, default: float | None, field: Any, meaning: str) -> None:
    """A flag that holds a number, checked as the settings of a config are; `field`: a `ptft_jax.config.field.Field`."""

    def check(value: Any) -> bool:
        _, wrong = (None, "") if value is None else dataclasses.replace(field, meaning="").read(value)
        if wrong:
            raise flags.ValidationError(wrong.partition(": ")[2])
        return True

    define = flags.DEFINE_float if isinstance(field.default, float) else flags.DEFINE_integer
    define(name, default, meaning)
    flags.register_validator(name, check, flag_values=flags.FLAGS)


SOURCES = (
    "WORKDIR[@best|@last|@STEP][#ADAPTER] of a run (its best checkpoint where nothing is said), hf:FOLDER, hf:NAME[@REVISION], or "
    "gguf:FILE."
)

IGNORE = "Pattern of tensors of hf: and gguf: weights that may be left out; may be given more than once."


def define_plugins() -> None:
    """--plugins."""
    flags.DEFINE_list(
        "plugins",
        [],
        "Modules with further kinds of sources and families of models, joined by commas (docs/plugins.md).",
    )


def define_weights() -> None:
    """--ignore and --dtype, of weights of hf: and gguf:."""
    flags.DEFINE_multi_string("ignore", [], IGNORE)
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16"], "What hf: and gguf: weights are kept and computed in."
    )


def define_compared() -> None:
    """What is measured: --run, of several, with --adapter and --parent for one."""
    flags.DEFINE_multi_string("run", [], f"{SOURCES} May be given more than once.")
    flags.DEFINE_string("adapter", "", "A folder in PEFT's format, put onto the model of the one --run.")
    define_weights()
    flags.DEFINE_bool("parent", True, "Measure one --run beside what it was started from, where that is there.")


def define_source() -> None:
    """The flags of verbs that use a model that is there: --run, --adapter, --ignore, --dtype, --plugins."""
    define_plugins()
    flags.DEFINE_string("run", None, SOURCES)
    flags.DEFINE_string("adapter", "", "A folder in PEFT's format, put onto the model.")
    define_weights()


def load_source(together: bool = False) -> Any:
    """The model that the flags of `define_source` name (`ptft_jax.runs.loading.Loaded`); `together` as for `loading.load`. Raises
    UserError."""
    args = flags.FLAGS
    if not args.run:
        raise UserError("--run is missing: a workdir, e.g. --run=runs/base@best, or hf:FOLDER, or gguf:FILE")
    prepare_jax()
    from ptft_jax.runs import loading

    options = {"dtype": args.dtype, "adapter": args.adapter, "ignore": args.ignore, "plugins": args.plugins}
    return loading.load(args.run, field="--run", together=together, **options)


def say(text: str) -> None:
    """Tells people something that is no part of what is printed."""
    print(text, file=sys.stderr, flush=True)


def say_chosen(source: Any) -> None:
    """Says which checkpoint a run's name alone stands for: when all went well, as an error is one message."""
    from ptft_jax.runs import source as restore

    if said := restore.said(source):
        say(said)


def prepare_experiment() -> None:
    """For a fresh process of an experiment, in whatever folder: its configs may be `ptft_jax.recipe("NAME")`, and modules of the
    working folder, of configs/ and of experiments/ can be imported."""
    from ptft_jax.config import files

    files.make_importable(pathlib.Path.cwd(), files.shipped())
    prepare_jax()


def prepare_jax() -> None:
    """Settings for a fresh process, before anything is compiled: a persistent compilation cache, so that the second
    launch of a program skips the compiler ($JAX_COMPILATION_CACHE_DIR wins; PTFT_NO_COMPILE_CACHE=1 turns it off). What earlier
    processes compiled counts towards the cache's bound. Raises UserError where that is none."""
    import jax

    if not allocator.accelerator(jax.config.jax_platforms):
        allocator.keep_freed_memory()

    from ptft_jax.data import cache, cache_entries

    if most := cache.bound():
        cache_entries.shrink(cache.root(), most)
    if os.environ.get("PTFT_NO_COMPILE_CACHE") or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache.root() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home only costs compile time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
