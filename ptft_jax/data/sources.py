"""Where text comes from: `KIND:NAME` to documents, split into train, validation and test without leaks."""

from __future__ import annotations

import pathlib
import zlib
from typing import Any, NamedTuple

from ptft_jax.data import assets
from ptft_jax.errors import UserError, listed, nearest

SPLITS = ("train", "validation", "test")
KINDS = ("shakespeare", "stdlib", "text", "tfds")
_EMBEDDED = {"shakespeare": tuple(assets.HELD_OUT), "stdlib": ("code", "prose")}
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py", ".text")


class Documents(NamedTuple):
    """One split of a source: the texts in order, each with a name for messages."""

    names: list[str]
    texts: list[str]


def load(config: Any, split: str) -> Documents:
    """The documents of `config.data.source` in "train", "validation" or "test".

    Raises:
      UserError: an unknown source, a missing, empty or binary file, or too little text to split.
    """
    kind, _, name = config.source.partition(":")
    if kind not in KINDS:
        raise UserError(
            f"config.data.source = {config.source!r}: expected one of {', '.join(KINDS)}, then ':' and a name{nearest(kind, KINDS)}"
        )
    if kind in _EMBEDDED:
        if name not in _EMBEDDED[kind]:
            raise UserError(
                f"config.data.source = {config.source!r}: {kind} has {', '.join(_EMBEDDED[kind])}{nearest(name, _EMBEDDED[kind])}"
            )
        pairs = (assets.shakespeare if kind == "shakespeare" else assets.stdlib)(name, split)
    elif kind == "text":
        pairs = _divide(_files(name), split, config.held_out, config.source)
    else:
        from ptft_jax.data import tfds_source

        found, own = tfds_source.load(name, split, config.tfds_dir, config.tfds_feature)
        pairs = found if own else _divide(found, split, config.held_out, config.source)
    if not any(text.strip() for _, text in pairs):
        raise UserError(f"config.data.source = {config.source!r}: the {split} split has no text")
    return Documents([n for n, _ in pairs], [t for _, t in pairs])


def _files(name: str) -> list[tuple[str, str]]:
    path = pathlib.Path(name).expanduser()
    if not name or not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if name and path.parent.is_dir() else []
        raise UserError(f"config.data.source = 'text:{name}': no such file or folder{nearest(path.name, beside)}")
    if path.is_file():
        files = [path]
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in TEXT_SUFFIXES)
        if not files:
            raise UserError(f"config.data.source = 'text:{name}': the folder holds no {', '.join(TEXT_SUFFIXES)} file")
    pairs = []
    for file in files:
        data = file.read_bytes()
        if b"\0" in data:
            raise UserError(f"{file}: binary, not text (a zero byte at offset {data.index(0)})")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as e:
            line = data.count(b"\n", 0, e.start) + 1
            raise UserError(f"{file}: not UTF-8 text at byte {e.start} (line {line}); convert it first") from None
        pairs.append((str(file), text))
    empty = [n for n, text in pairs if not text.strip()]
    if empty:
        raise UserError(f"config.data.source = 'text:{name}': empty files:{listed(empty)}")
    return pairs


def _divide(pairs: list[tuple[str, str]], split: str, share: float, source: str) -> list[tuple[str, str]]:
    """Train from the front, then validation, then test: by whole documents where there are enough, else by text."""
    count = len(pairs)
    held = round(count * share)
    if held:
        # In an order made of the texts themselves, so that file names (dates, topics) do not decide what is held out.
        pairs = sorted(pairs, key=lambda pair: zlib.crc32(pair[1].encode()))
        cuts = {
            "train": (0, count - 2 * held),
            "validation": (count - 2 * held, count - held),
            "test": (count - held, count),
        }
        return pairs[slice(*cuts[split])]
    # Few documents: the last part of each. Cut at line ends, so that no line is on both sides.
    out = []
    for name, text in pairs:
        lines = text.splitlines(keepends=True)
        held = max(round(len(lines) * share), 1)
        if len(lines) < 3:  # too short to cut: trained on, unless it is all there is
            if count == 1:
                raise UserError(
                    f"config.data.source = {source!r}: {len(lines)} line(s) cannot be split into train, validation and test"
                )
            out.append((name, text if split == "train" else ""))
            continue
        cuts = {"train": lines[: -2 * held], "validation": lines[-2 * held : -held], "test": lines[-held:]}
        out.append((name, "".join(cuts[split])))
    return out
