"""Splits of sources as token ids, by the settings of `config.data`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ptft_jax.data import records, token_folder, tokenize, trained_on
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.formats import Pixels
from ptft_jax.data.formats.layouts import QUESTIONED, SAID, TALKING
from ptft_jax.data.options import DataOptions
from ptft_jax.data.store import Store
from ptft_jax.errors import UserError, few
from ptft_jax.pairing import PICTURED, check_kind


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenized split of a source.

    Attributes:
      reference, split: which.
      store: its ids.
      kind: of `ptft_jax.data.formats.Format`.
      description: its format, for people.
      classes: names of the classes, in the order of their numbers; () where there are none.
      declared: their order was given, see `ptft_jax.data.formats.Format`.
      where: index of an example -> its place, for messages.
      skipped: records that could not be read.
      labels: how labels became the numbers of classes, for people, where not as the source has them by itself.
      opened: its records; None of one that holds tokens.
    """

    reference: str
    split: str
    store: Store
    kind: str
    description: str
    classes: tuple[str, ...]
    declared: bool
    where: Callable[[int], str]
    skipped: records.Skipped
    labels: str = ""
    opened: tokenize.Opened | None = None


def tokenized(
    data: DataOptions,
    reference: str,
    split: str,
    tokenizer: tok.Tokenizer,
    kinds: tuple[str, ...] = (),
    opened: tokenize.Opened | None = None,
    learns: tuple[str, ...] = (),
) -> Tokens:
    """A split of a source as ids, by the settings of `config.data`; `opened` = of these records of it. Raises UserError; for a
    source that is of none of `kinds`, where any are named, before anything is tokenized. `learns`: kinds by which it is read where
    any is taken."""
    parsed = records.parse(reference, data.tables.sources)
    if "retrieve" in parsed.options:
        _refuse_cut(data, parsed)
    if parsed.kind == token_folder.KIND:
        facts = token_folder.manifest(pathlib.Path(parsed.name))
        check_kind(kinds, facts["kind"], reference, facts["format"], data.tables.objectives)
        store, facts = token_folder.load(pathlib.Path(parsed.name), split, tokenizer)
        place = f"{parsed.name}/{split}"
        return Tokens(
            reference,
            split,
            store,
            facts["kind"],
            facts["format"],
            tuple(facts.get("classes", ())),
            facts.get("classes_declared", False),
            lambda i: f"{place}, example {i}",
            records.Skipped(),
        )
    opened = opened or opened_of(data, reference, split, learns or kinds)
    check_kind(kinds, opened.format.kind, reference, opened.format.describe(), data.tables.objectives)
    store = tokenize.tokenized(opened, tokenizer, workers=data.workers, **_rendering(data, opened.format.kind))
    rows = opened.records
    return Tokens(
        reference,
        split,
        store,
        opened.format.kind,
        opened.format.describe(),
        opened.format.classes,
        opened.format.declared,
        lambda example: rows.where(int(store.origins[example])),
        rows.skipped,
        opened=opened,
    )


def _refuse_cut(data: DataOptions, reference: records.Reference) -> None:
    """Raises UserError where a question could be cut off behind its passages, or be learned without them."""
    if data.overlong in ("truncate", "split"):
        raise reference.error(
            f"config.data.overlong = {data.overlong!r}: of what is too long the passages would be kept, and the question behind them cut: "
            "expected 'raise' or 'drop'"
        )
    if data.packing == "concat":
        raise reference.error(
            "config.data.packing = 'concat': rows would be cut anywhere, also between passages and their question"
        )


def kind_of(data: DataOptions, reference: str, split: str, learns: Sequence[str] = ()) -> str:
    """The kind of data that a split of a source is of (`ptft_jax.data.formats.Format.kind`); `learns`: kinds of data. Raises UserError."""
    parsed = records.parse(reference, data.tables.sources)
    if parsed.kind == token_folder.KIND:
        return str(token_folder.manifest(pathlib.Path(parsed.name))["kind"])
    return opened_of(data, reference, split, learns).format.kind


def opened_of(data: Any, reference: str, split: str, learns: Sequence[str] = ()) -> tokenize.Opened:
    """A split of a source, by the settings of `config.data`; `learns`: kinds of data. Raises UserError."""
    options = {"held_out": data.held_out, "broken": data.broken, "kinds": data.tables.sources, "learns": learns}
    return tokenize.Opened.of(reference, split, **options)


def to_measure(data: Any, reference: str, split: str, learns: Sequence[str] = ()) -> tuple[str, tokenize.Opened | None]:
    """What of a source is measured, by the settings of `config.data`: (the split, its records; None = those that training would have).

    Args:
      split: "train", "validation" or "test", of which one that the source lacks is a share of its train split; "" = all that it
        holds where that is a single split ("all" where it has no name), else its validation split.
      learns: kinds of data.

    Raises:
      UserError: several splits, none of them validation, and none chosen.
    """
    kinds = data.tables.sources
    parsed = records.parse(reference, kinds)
    prepared = parsed.kind == token_folder.KIND
    own = tuple(
        token_folder.manifest(pathlib.Path(parsed.name))["splits"]
        if prepared
        else records.open_source(reference, broken=data.broken, trains=False, kinds=kinds).own
    )
    name = measured_split(parsed, own, split)
    as_trained = "train" in own and (split or len(own) > 1)
    if prepared or as_trained or name not in own:
        return name, None
    records_of = tokenize.Formatted.of(reference, data.broken, kinds, trains=False, learns=learns).whole(name)
    return "all" if name == "train" else name, records_of


def measured_split(reference: records.Reference, own: Sequence[str], split: str) -> str:
    """The split that is measured of those that a source has: the one that is asked for, "" = as of `to_measure`. Raises UserError."""
    if not split and len(own) > 1 and "validation" not in own:
        choices = " or ".join(f"--split={name}" for name in own)
        raise reference.error(f"it has {' and '.join(own)}: choose by {choices}")
    return split or ("validation" if len(own) > 1 else own[0])


def _rendering(data: DataOptions, kind: str) -> dict[str, Any]:
    """How conversations, answers and images become ids; not read for data of other kinds, so that a setting that does nothing is
    refused."""
    if kind in PICTURED:
        images = data.images
        pixels = Pixels(images.size, images.channels, images.fit, images.background)
        if kind in SAID:
            expected = ("raise",) if kind == QUESTIONED else ("raise", "truncate")
            if data.overlong not in expected:
                what = "questions and their answers" if kind == QUESTIONED else "captions"
                raise UserError(
                    f"config.data.overlong = {data.overlong!r}: of {what} {' or '.join(map(repr, expected))} is expected"
                )
            pixels = dataclasses.replace(pixels, caption_length=images.caption_length, cut=data.overlong == "truncate")
        return {"template": "", "train_on": "assistant", "pixels": pixels}
    if kind not in TALKING:
        return {"template": "", "train_on": "assistant"}
    if kind != "answers" and data.train_on not in ("assistant", "last"):
        of = "pairs" if kind == "preference" else "rated answers"
        raise UserError(
            f"config.data.train_on = {data.train_on!r}: of {of} the answers alone are learned from: expected 'assistant' or 'last'"
        )
    return {"template": data.template, "train_on": data.train_on}


def training_texts(data: DataOptions, kinds: tuple[str, ...] = ()) -> tok.Texts:
    """All text that is trained on, for training a tokenizer: read whenever it is iterated over. Raises UserError for sources that
    have none, or that are of none of `kinds`, where any are named."""
    sources = []
    for reference, _ in trained_on.weighted(data):
        if records.parted(reference)[0] == token_folder.KIND:
            raise UserError(f"{reference}: tokens already; a tokenizer cannot be trained on them")
        opened = opened_of(data, reference, "train", kinds)
        check_kind(kinds, opened.format.kind, reference, opened.format.describe(), data.tables.objectives)
        if opened.format.kind == "tokens":
            raise UserError(f"{reference}: token ids already; a tokenizer cannot be trained on them")
        sources.append(opened)
    return _Texts(sources)


class _Texts:
    """The texts of sources, one after the other."""

    def __init__(self, sources: Sequence[tokenize.Opened]):
        self._sources = sources
        self.identity = tuple(part for opened in sources for part in opened.identity_of_texts())
        self.origin = few(opened.reference for opened in sources)

    def __iter__(self) -> Iterator[Any]:
        for opened in self._sources:
            yield from opened.texts()
