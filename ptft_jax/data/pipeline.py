"""From a config's data section to rows: sources opened, tokenized, cut, packed and mixed, and a table of what came of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.config import spans
from ptft_jax.data import batches, cache, class_names, mismatched, packing, records, stepped, token_folder, tokenize
from ptft_jax.data import survey as surveys
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders import Builder
from ptft_jax.data.class_names import Head
from ptft_jax.data.formats.layouts import TALKING
from ptft_jax.data.mixture import Mixture, most_rows
from ptft_jax.data.options import DataOptions
from ptft_jax.data.rows import RowSet
from ptft_jax.data.source_weights import FIELD, weight_at
from ptft_jax.data.store import Store
from ptft_jax.errors import UserError, few
from ptft_jax.pairing import check_kind

_SHOWN = 5  # places of empty answers
PARENT = "parent"  # in a mixture: what the parent was trained on
FORM = "data-2"  # part of every run's data key: changes with what decides which records are trained on, and their order


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
    if not split and len(own) > 1 and "validation" not in own:
        choices = " or ".join(f"--split={name}" for name in own)
        raise parsed.error(f"it has {' and '.join(own)}: choose by {choices}")
    name = split or ("validation" if len(own) > 1 else own[0])
    as_trained = "train" in own and (split or len(own) > 1)
    if prepared or as_trained or name not in own:
        return name, None
    records_of = tokenize.Formatted.of(reference, data.broken, kinds, trains=False, learns=learns).whole(name)
    return "all" if name == "train" else name, records_of


def _rendering(data: DataOptions, kind: str) -> dict[str, str]:
    """How conversations and answers become ids; not read for data of other kinds, so that a setting that does nothing is
    refused."""
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
    for reference, _ in weighted(data):
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


def weighted(data: DataOptions) -> tuple[tuple[str, Any], ...]:
    """The sources that are trained on, each with its weight or the schedule of its weight."""
    return data.mixture or ((data.source, 1.0),)


def with_parent(
    mixture: Sequence[tuple[str, Any]], theirs: Any, parent: str, step: int = 0, steps: int = 0
) -> tuple[tuple[str, Any], ...]:
    """A mixture with 'parent' replaced by what the parent was trained on (replay): its source, or the sources of its
    mixture, which share the entry's weight as they did in the parent's last step.

    Args:
      theirs: the parent's `config.data`, or None where it is not known.
      parent: its name, for messages; '' = there is none.
      step: how many steps it was trained.
      steps: how many its run was to have, of which its weights' shares are.

    Raises:
      UserError: there is no parent, nobody knows what it was trained on, or what should be a weight is none.
    """
    out: list[tuple[str, Any]] = []
    for source, weight in mixture:
        if source != PARENT:
            out.append((source, weight))
            continue
        if theirs is None:
            reason = f"what {parent} was trained on is not known" if parent else "init.from names no parent"
            raise UserError(f"config.data.mixture: {PARENT!r}: {reason}; name its sources")
        weight_at(source, weight, 0)  # well-formed?
        last = [(s, weight_at(s, w, max(step - 1, 0), steps or step)) for s, w in weighted(theirs)]
        twice = [s for s, _ in last if s in dict(mixture)]
        if twice:
            raise UserError(
                f"config.data.mixture: {twice[0]} is named, and is among what {parent} was trained on, which {PARENT!r} "
                "stands for: name the parent's sources one by one instead"
            )
        total = sum(w for _, w in last)
        out += [(s, _scaled(weight, w / total)) for s, w in last if w]
    return tuple(out)


def _scaled(weight: Any, factor: float) -> Any:
    if isinstance(weight, (list, tuple)):
        return tuple((step, value * factor) for step, value in weight)
    return weight * factor


@dataclasses.dataclass(frozen=True)
class Filled:
    """A source as rows, and what was lost on the way."""

    tokens: Tokens
    rows: RowSet

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """For tables and data.json: "examples" and "tokens" that there are, and what became of them. "trained" is the sum of
        the rows' weights, what one pass over them learns: where chance decides it, as in the first pass of a run with this
        seed and no other source. "left_out" names the first of the records that were skipped, "empty_at" the first of those
        with empty answers that are learned."""
        store, report = self.tokens.store, self.rows.plan.report
        learned = self.rows.learned()
        return {
            "source": self.tokens.reference,
            "split": self.tokens.split,
            "format": "; ".join(filter(None, (self.tokens.description, self.tokens.labels))),
            "classes": list(self.tokens.classes),
            "examples": len(store),
            "tokens": len(store.ids),
            "trained": batches.learned(self.rows, seed) if learned is None else learned,
            **self.empty(),
            "skipped": self.tokens.skipped.count,
            "left_out": self.tokens.skipped.first,
            **{("split_up" if k == "split" else k): v for k, v in dataclasses.asdict(report).items()},
            "efficiency": report.efficiency,
        }

    def lost(self) -> dict[str, int]:
        """What of the source is in no row or only in part, by how it came to that; {} = nothing. The few tokens that a
        stream ends with are no loss."""
        report = self.rows.plan.report
        names = ("empty", "dropped", "truncated", "untrainable", "equal")
        counts = {"skipped": self.tokens.skipped.count, **{name: getattr(report, name) for name in names}}
        found = {name: count for name, count in counts.items() if count}
        return {**found, "tokens_lost": report.tokens_lost} if found else {}

    def empty(self) -> dict[str, Any]:
        """How many empty answers are learned, and the first examples that have some: {"empty_answers", "empty_at"}."""
        return empty_of(self.tokens, self.rows.empty())


def empty_of(tokens: Tokens, which: np.ndarray | slice = slice(None)) -> dict[str, Any]:
    """As `Filled.empty`, of some of a source's empty answers by their numbers."""
    store = tokens.store
    places = store.empty[which]
    examples = np.unique((np.searchsorted(store.offsets, places, side="right") - 1) // store.per_example)
    return {"empty_answers": len(places), "empty_at": [tokens.where(int(example)) for example in examples[:_SHOWN]]}


def packed_how(setting: str, tokens: Tokens, builder: Builder) -> str:
    """How `config.data.packing` has a source fill rows. Raises UserError where the objective wants it otherwise."""
    if builder.labelled or builder.sampled:
        if setting not in ("auto", "none"):
            has = "one prompt that is answered" if builder.sampled else "one class, and holds one text"
            raise UserError(f"config.data.packing = {setting!r}: a row has {has}; leave it at 'auto'")
        return "none"
    if setting != "auto":
        return setting
    whole = tokens.kind in ("text", "rated-text") or (tokens.kind == "tokens" and tokens.store.trained is None)
    return "concat" if whole else "best_fit"


def filled(data: DataOptions, tokens: Tokens, builder: Builder, *, partial: bool, seed: int = 0) -> Filled:
    """Cuts and packs a tokenized source into rows of `config.data.length`, by the settings of `config.data`.

    Args:
      partial: where rows are windows of a stream, also have the last one, which is short.
      seed: order in which examples are packed.

    Raises:
      UserError: examples that are too long or have nothing to learn, where the settings do not say what to do with
        them; too little data for a row; data of a kind that the objective does not learn from.
    """
    builder.check(data.length)
    check_kind(builder.kinds, tokens.kind, tokens.reference, tokens.description, data.tables.objectives)
    if builder.rated:
        tokens = dataclasses.replace(tokens, store=mismatched.of(tokens.store, tokens.where, data.length))
    store, how = tokens.store, packed_how(data.packing, tokens, builder)
    if store.trained is not None and not builder.partly:
        raise UserError(
            f"{tokens.reference}: {tokens.description}: it says which tokens to learn, and the objective learns whole texts; "
            "objective.name='prefix_lm' reads the rest in both directions"
        )
    if builder.scored and data.overlong == "truncate":
        raise UserError(
            "config.data.overlong = 'truncate': an answer is scored at its end, which is cut off: expected 'raise' or 'drop'"
        )
    if builder.sampled and data.overlong not in ("raise", "drop"):
        raise UserError(
            f"config.data.overlong = {data.overlong!r}: a record is a prompt that is answered, and is not cut: expected 'raise' or 'drop'"
        )
    if builder.stepped:
        stepped.refuse_cut(how, data.overlong)
    sequential = bool(builder.overlap)  # ids are predicted from those before them
    plan = packing.plan(
        store.offsets,
        data.length,
        how=how,
        overlong=data.overlong,
        slots=builder.slots,
        overlap=builder.overlap,
        seed=seed,
        where=lambda sequence: tokens.where(sequence // store.per_example),
        learned=None if store.trained is None else functools.partial(store.learned, first=not sequential),
        untrainable=data.untrainable,
        partial=partial,
        units=np.arange(0, len(store.offsets), 2) if builder.paired else None,
        seconds=builder.rated,
        same=store.same if builder.paired and not builder.rated else None,
    )
    segmented = how != "concat" or builder.looks_ahead
    pairs = int(np.diff(plan.rows).max()) // 2 if builder.paired and isinstance(plan, packing.Plan) else 0
    return Filled(tokens, RowSet(store, plan, builder, data.length, segmented, pairs))


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a run is trained on.

    Attributes:
      sets: the rows of each source; all segmented, or none.
      mixture: which row of which set a batch has.
      key: digest that names the data in checkpoints.
      tokens: how many ids are in rows.
      table: a row a source: what it holds, what was lost, its share of the run.
      head: the classes that all of it agrees with.
      steps: of the run: as given, or as many as its epochs make.
      updates: steps that learn from the same rows.
    """

    sets: tuple[RowSet, ...]
    mixture: Mixture
    key: str
    tokens: int
    table: list[dict[str, Any]]
    head: Head
    steps: int
    updates: int = 1

    def drawn(self, steps: int) -> list[dict[str, Any]]:
        """What the first so many steps read: {"source", "rows", "share", "epochs"} of each source."""
        if not steps:
            return []
        return [
            {"source": x.name, "rows": x.drawn, "share": x.share, "epochs": x.epochs}
            for x in self.mixture.table(-(-steps // self.updates))
        ]


@dataclasses.dataclass(frozen=True)
class Draws:
    """How rows are drawn whose records the model itself answers.

    Attributes:
      rows: of a batch; each has several answers.
      updates: steps that learn from the same answers.
      chosen: gives those rows of a source that can be answered.
      again: how often rows may be drawn in the place of some of a batch.
    """

    rows: int
    updates: int
    chosen: Callable[[Filled], Filled]
    again: int = 0


def training(
    data: DataOptions,
    tokenizer: tok.Tokenizer,
    builder: Builder,
    *,
    steps: int,
    seed: int,
    head: Head = class_names.NEW,
    epochs: float = 0.0,
    draws: Draws | None = None,
) -> TrainingData:
    """The training data of `config.data` for a run of `steps` steps, labels as `head` numbers its classes; `epochs`: where not 0,
    so many passes over all rows are the steps; `draws`: where the model answers them. Raises UserError."""
    sources = weighted(data)
    per_batch, updates = (data.batch_size, 1) if draws is None else (draws.rows, draws.updates)
    again = draws is not None and bool(draws.again)
    if again and data.max_epochs:
        raise UserError(
            f"config.data.max_epochs = {data.max_epochs:g}: how often prompts are asked is not known before some are drawn again "
            "(objective.policy.resample): leave one of them at 0"
        )
    for reference, weight in sources:
        weight_at(reference, weight, 0)  # well-formed, before anything takes time?
        if (updates > 1 or again) and isinstance(weight, (list, tuple)):
            why = "prompts are drawn again (objective.policy.resample)"
            if updates > 1:
                why = "several steps learn from the same rows (objective.policy.updates)"
            raise UserError(
                f"{FIELD}: {reference}: a weight that changes with the steps: expected a number where {why}"
            )
    _refuse_twice([reference for reference, _ in sources], data.tables.sources)
    found = surveyed(data, builder.kinds)
    parts = [
        tokenized(data, reference, "train", tokenizer, builder.kinds, found[reference].train)
        for reference, _ in sources
    ]
    if data.train_tokens:
        if len(parts) > 1:
            raise UserError("config.data.train_tokens is for a single source; a mixture's take the option ?examples=N")
        parts = [
            dataclasses.replace(parts[0], store=parts[0].store.first(data.train_tokens, cut=parts[0].kind == "text"))
        ]
    for n, part in enumerate(parts if builder.labelled else ()):
        parts[n], head = class_names.numbered(part, head)
    sets = [filled(data, part, builder, partial=False, seed=seed) for part in parts]
    sets = sets if draws is None else list(map(draws.chosen, sets))
    if builder.stepped:
        stepped.refuse_alike([s.rows for s in sets], FIELD if data.mixture else "config.data.source")
    segmented, pairs = any(s.rows.segmented for s in sets), max(s.rows.pairs for s in sets)
    names, sizes = [reference for reference, _ in sources], [len(s.rows) for s in sets]
    if epochs:
        spans.check_epochs(epochs, None, 0, data.max_epochs)
        limit = sum(most_rows(data.max_epochs, size) for size in sizes) if data.max_epochs else None
        steps = spans.steps_of_epochs(epochs, sum(sizes), per_batch, limit=limit) * updates
    mixture = Mixture(
        names,
        [weight for _, weight in sources],
        sizes,
        batch_size=per_batch,
        temperature=data.temperature if data.mixture else 0.0,
        max_epochs=data.max_epochs,
        steps=-(-steps // updates),
        field=FIELD if data.mixture else "config.data.source",
    )
    shares = mixture.table(max(-(-steps // updates), 1))
    table = [
        {
            **s.summary(seed),
            **{k: getattr(x, k) for k in ("asked", "drawn", "share", "epochs")},
            **found[s.tokens.reference].facts,
        }
        for s, x in zip(sets, shares)
    ]
    keys = [part.store.key for part in parts]
    return TrainingData(
        tuple(dataclasses.replace(s.rows, segmented=segmented, pairs=pairs) for s in sets),
        mixture,
        f"{FORM}:{keys[0] if len(keys) == 1 else cache.digest(*keys)}",
        sum(s.rows.plan.report.tokens - s.rows.plan.report.tokens_lost for s in sets),
        table,
        head,
        steps,
        updates,
    )


def _refuse_twice(references: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """Raises UserError where a source is named twice, however its path is spelled; `kinds`: those that there are."""
    seen: dict[Any, str] = {}
    for reference in references:
        other = seen.setdefault(records.identity(reference, kinds), reference)
        if other is not reference:
            twice = other if other == reference else f"{other} and {reference}"
            raise UserError(f"{FIELD} names a source more than once: {twice}; give it one weight")


def refuse_other(was: str, now: str, workdir: pathlib.Path) -> None:
    """Raises UserError where a run, started on the data with the key `was`, cannot go on with those of the key `now`."""
    if was == now:
        return
    if was.partition(":")[0] != FORM:
        raise UserError(
            f"{workdir}: the run was started by an earlier release, which divides sources and orders data in another way: "
            "finish it with that release, or start a new run, which may start from this one (init.from)"
        )
    raise UserError(f"{workdir}: the training data are not those the run was started with (files changed?)")


def surveyed(data: DataOptions, learns: Sequence[str] = ()) -> dict[str, surveys.Surveyed]:
    """What is to be known of the sources of `config.data`, and what of train is left out of it; `learns`: kinds of data. Raises
    UserError."""
    return surveys.survey(
        [reference for reference, _ in weighted(data)], [data.source] if data.source else [], data, learns
    )


def labels(data: DataOptions) -> dict[str, str]:
    """A short name for every source of a mixture, for metrics."""
    found: dict[str, str] = {}
    for reference, _ in weighted(data):
        kind, name, _ = records.parted(reference)
        stem = re.sub(r"\W+", "_", name.rstrip("/").rsplit("/", 1)[-1].partition(".")[0]).strip("_")
        numbered = (f"{stem}_{k}" for k in itertools.count(2))
        name = next(n for n in itertools.chain((stem, f"{kind}_{stem}"), numbered) if n not in found)
        found[name] = reference
    return found


def numbered(data: DataOptions, adapters: Sequence[str]) -> dict[str, int]:
    """The number of the adapter of each source of `config.data`, where each has one of `config.tune.adapters`; {} where
    these are (). Raises UserError where they are not as many, or a source that is evaluated has none."""
    if not adapters:
        return {}
    references = [reference for reference, _ in data.mixture]
    if len(references) != len(adapters):
        raise UserError(
            f"config.tune.adapters names {len(adapters)} adapters ({', '.join(adapters)}), and data.mixture has "
            f"{len(references)} sources: give one for each"
        )
    if data.source not in references:
        raise UserError(
            f"config.data.source = {data.source!r}: it has none of config.tune.adapters, as it is no source of data.mixture; "
            "leave it at '', or name one"
        )
    return {reference: number for number, reference in enumerate(references)}


def announced(table: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of each source, with its number in `shown`: its format, splits, what lies beside them, leaks, empty answers."""
    found = []
    for n, row in enumerate(table, 1):
        found.append(f"  {n}  {row['source']}: {row['format']}")
        found += [f"     {line}" for line in (*surveys.lines(row), *filter(None, [empty_answers(row)]))]
    return found


def empty_answers(row: dict[str, Any]) -> str:
    """A line on the empty answers of a source, by `Filled.summary`; "" where it has none."""
    count, places = row.get("empty_answers", 0), row.get("empty_at", [])
    if not count:
        return ""
    shown = [*places, "..."] if count > len(places) else places
    where = f": {'; '.join(shown)}" if places else ""
    return f"{count:,} of the answers {'is' if count == 1 else 'are'} empty, and trained on as such{where}"


def shown(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The columns of `TrainingData.table` that fit on a screen, a row a source; what is zero everywhere is left out."""
    counts = {
        "examples": "examples", "tokens": "tokens", "trained": "tokens with loss", "empty_answers": "empty answers",
        "skipped": "skipped", "dropped": "dropped",
        "truncated": "truncated", "split_up": "split", "empty": "empty", "untrainable": "untrainable",
        "incomplete": "incomplete", "equal": "equal pairs",
        "tokens_lost": "tokens lost", "rows": "rows",
    }  # fmt: skip
    some = {name: words for name, words in counts.items() if any(row.get(name) for row in table)}
    return [
        {
            "": n,
            **{words: row.get(name, 0) for name, words in some.items()},
            "full": f"{row['efficiency']:.1%}",
            "share": f"{row['share']:.1%}",
            "epochs": round(row["epochs"], 2),
        }
        for n, row in enumerate(table, 1)
    ]
