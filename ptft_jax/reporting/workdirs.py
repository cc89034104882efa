"""The workdirs that a report is of: whether they hold a run, and names that tell them apart."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ptft_jax.errors import UserError, nearest


def check(workdir: pathlib.Path, field: str = "") -> None:
    """Raises UserError for a folder that holds no run, with the nearest beside it that does; `field` is what it was given as."""
    if not (workdir / "config.json").is_file():
        beside = [str(p.parent) for p in workdir.parent.glob("*/config.json")] if workdir.parent.is_dir() else []
        given = f"{field}={workdir}" if field else str(workdir)
        raise UserError(f"{given}: no run there (no config.json){nearest(str(workdir), beside)}")


def load(path: pathlib.Path) -> Any:
    """The content of a JSON file that `metrics.write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def names(short: Sequence[str], references: Sequence[str]) -> list[str]:
    """The short names, such as those of folders, where no two are the same; else the references, which never are."""
    return list(short if len(set(short)) == len(short) else references)
