"""What decides the content of a prepared folder."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.plugins import tables
from ptft_jax.config.sources import SourceSpec
from ptft_jax.data.prepare import quality
from ptft_jax.data.prepare.minhash import Near
from ptft_jax.errors import UserError

SPLITS = ("train", "validation", "test")
FORM = "prepared-2"  # to be changed with whatever changes what is written


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what is written, but the content of the sources and the tokenizer.

    Attributes:
      sources: references, in the order of their records.
      splits: of "train", "validation" and "test".
      held_out, broken: see `records.open_records`.
      template, train_on: see `formats.encoder`.
      shards: folders that the records of a split are divided among.
      min_tokens, max_tokens: of an example, with what it starts and ends with; of a preference pair, the longer answer.
      min_characters, max_characters: of a record's text; a maximum of 0 is none.
      quality: limits of `quality.RULES`; {} = none.
      deduplicate: "none", "exact" or "near".
      near: what near-duplicates are.
      overlap_with: references of evaluation sets.
      overlap_split: which of their splits; "all" = the three.
      overlap_words: words in a run.
      plugins: modules that have kinds of these sources.
      overlap: "drop" what shares a run with them, or "list".
    """

    sources: tuple[str, ...]
    splits: tuple[str, ...] = SPLITS
    held_out: float = 0.1
    broken: str = "raise"
    template: str = ""
    train_on: str = "assistant"
    shards: int = 1
    min_tokens: int = 0
    max_tokens: int = 0
    min_characters: int = 0
    max_characters: int = 0
    quality: dict[str, float | None] = dataclasses.field(default_factory=dict)
    deduplicate: str = "none"
    near: Near = dataclasses.field(default_factory=Near)
    overlap_with: tuple[str, ...] = ()
    overlap_split: str = "all"
    overlap_words: int = 13
    overlap: str = "drop"
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("--source is missing: KIND:NAME of what to prepare, e.g. --source=jsonl:articles.jsonl.gz")
        for name, values in (("--source", self.sources), ("--exclude_overlap_with", self.overlap_with)):
            twice = [value for n, value in enumerate(values) if value in values[:n]]
            if twice:
                raise UserError(f"{name}={twice[0]}: given twice")
        if not 0 < self.held_out <= 0.4:
            raise UserError(f"--held_out={self.held_out}: expected a share above 0, at most 0.4")
        if self.shards < 1:
            raise UserError(f"--shards={self.shards}: expected at least 1")
        if self.overlap_words < 2:
            raise UserError(f"--overlap_words={self.overlap_words}: expected at least 2")
        for unit in ("tokens", "characters"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if least < 0 or most < 0:
                raise UserError(f"--min_{unit}={least} --max_{unit}={most}: expected counts of at least 0")
            if most and most < least:
                raise UserError(f"--max_{unit}={most}: less than --min_{unit}={least}")

    @property
    def kinds(self) -> Mapping[str, SourceSpec]:
        """Kinds of sources. Raises UserError, see `ptft_jax.config.plugins.tables`."""
        return tables(self.plugins).sources

    def noted(self) -> dict[str, Any]:
        """As the manifest has them; equal for settings that give equal folders from equal sources."""
        out = dataclasses.asdict(self)
        if self.deduplicate != "near":
            del out["near"]
        if not self.overlap_with:
            del out["overlap_split"], out["overlap_words"], out["overlap"]
        del out["plugins"]  # the sources say what is read
        for name in ("sources", "splits", "overlap_with"):
            out[name] = list(out[name])
        out["unicode"] = unicodedata.unidata_version  # decides what a word is
        return out


def quality_limits(level: str, rules: str) -> dict[str, float | None]:
    """`Settings.quality` of --quality and --quality_rules. Raises UserError."""
    if level == "none":
        if rules:
            raise UserError(f"--quality_rules={rules}: needs --quality=basic")
        return {}
    return quality.limits(rules)
