"""Folders that appear when all that belongs in them is there."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from ptft_jax.errors import UserError


@contextlib.contextmanager
def partial(out: pathlib.Path, doing: str) -> Iterator[pathlib.Path]:
    """A folder beside `out`, deleted if anything fails: empty, or what a killed process left there. A lock, which ends with its
    process, tells that one is at work.

    Args:
      doing: what a process does with it, for messages.

    Raises:
      UserError: another process is at it.
    """
    import fcntl

    out.parent.mkdir(parents=True, exist_ok=True)
    folder, lock = (out.parent / f".{out.name}.{suffix}" for suffix in ("partial", "lock"))
    with lock.open("w", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or not os.path.samestat(os.fstat(held.fileno()), lock.stat()):
                raise BlockingIOError  # its last holder deleted the file, and another made a new one
        except BlockingIOError:
            raise UserError(f"--out={out}: another process is {doing} it") from None
        try:
            folder.mkdir(exist_ok=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """How what a folder was made of differs from what it would be made of, "NAME: OLD there, NEW now" each; settings first."""
    old, new = _flat({name: there.get(name) for name in here}), _flat(here)
    return [
        f"{name}: {old.get(name)} there, {new.get(name)} now"
        for name in sorted({*old, *new}, key=lambda name: (not name.startswith("settings."), name))
        if old.get(name) != new.get(name)
    ]


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {name: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{name}.{key}".strip(".")).items()}
