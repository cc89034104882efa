"""The names of a head's classes, which travel with it, the labels of data by the numbers that its classes have, and the rows
of one head by those of another.

A head has its names from the data that it was trained on, or from the config.json it was imported with. Every model
that can be started from (`ptft_jax.runs.source.Source`, `ptft_jax.interop.pretrained.Pretrained`) gives them as
`classes`; a run keeps them in the `meta` of its checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptft_jax.data import cache
from ptft_jax.data.formats import labels
from ptft_jax.data.formats.layouts import CLASSED
from ptft_jax.errors import UserError, few, listed, nearest

PLACEHOLDER = "LABEL_{}"  # what transformers calls a class that has no name


@dataclasses.dataclass(frozen=True)
class Head:
    """The classes of a head, for `numbered` and `places`.

    Attributes:
      names: in the order of its scores; () where they have none.
      owner: whose head it is, for messages; "" = it is new, and takes the classes of the first data.
      size: how many classes it has; 0 = not known yet.
      of_data: the classes are those of `owner`, a source of data, with which others have to agree.
    """

    names: tuple[str, ...] = ()
    owner: str = ""
    size: int = 0
    of_data: bool = False

    def settled(self) -> Head:
        """The same classes as those of the model that is trained on them."""
        return Head(self.names, "this run") if self.owner else self

    @property
    def by_number(self) -> bool:
        """Whether the names say no more than numbers do: none, or "0", "1", ..."""
        return self.names == _numbers(len(self.names))


NEW = Head()


def of(model: Any) -> Head:
    """The head of a model that can be started from; `NEW` where it scores no classes."""
    return Head(model.classes, model.name, model.fields["classes"]) if model.fields["head"] == "classes" else NEW


def known(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes in their order; () where all of them are placeholders."""
    return () if all(name == PLACEHOLDER.format(n) for n, name in enumerate(names)) else tuple(names)


def filled(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Names for all of so many classes: placeholders for those that have none; () where none has one."""
    return (*names, *map(PLACEHOLDER.format, range(len(names), count))) if names else ()


def recorded(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes that the data of a run have, as it recorded them, a row per source (`TrainingData.table`); () where they have no
    names."""
    return next((tuple(row["classes"]) for row in rows if row.get("classes")), ())


def places(of: Head, among: Head) -> tuple[int, ...] | None:
    """For each class of the one head its number in the other; None where all have the same numbers in both.

    Raises:
      ValueError: they are not the same classes, or several share a name, so that it does not tell their number.
    """
    # What is told by numbers alone has the names "0", "1", ...
    one, other = of.names or _numbers(len(among.names)), among.names or _numbers(len(of.names))
    if one == other:
        return None
    if set(one) != set(other) or len(set(one)) < max(len(one), len(other)):
        raise ValueError("other names")
    return tuple(map(other.index, one))


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def differences(one: Head, other: Head) -> str:
    """A sentence of what both have, and lines of the names that only one of them has."""
    named = not (one.by_number or other.by_number)
    only = [
        f"{name}: only in {mine.owner}"
        for mine, theirs in ((one, other), (other, one))
        for name in mine.names
        if named and name not in theirs.names
    ]
    has = "numbers for classes" if one.by_number else f"the classes {few(one.names)}"
    trained = "numbers" if other.by_number else few(other.names)
    return f"{one.owner} has {has}, and {other.owner} was trained on {trained}{listed(only)}"


def numbered(tokens: Any, head: Head) -> tuple[Any, Head]:
    """Data of classification with labels as a head numbers its classes, and the head, which may have got names from them.

    Names go by the names of the head. Numbers stay what they are, unless the head's names are numbers too: then they go
    by these. Data of other kinds are returned as they are.

    Args:
      tokens: of `ptft_jax.data.source_splits.Tokens`.

    Raises:
      UserError: a name or number that the head has not; names for a head that has none, in an order that nobody gave.
    """
    if tokens.kind not in CLASSED:
        return tokens, head
    theirs = tokens.classes
    if not head.owner:
        return tokens, Head(theirs, tokens.reference, of_data=True)
    if head.of_data and theirs != head.names and not (theirs and head.names):
        raise _disagree(tokens, head)
    if theirs and not head.names and tokens.declared:
        head = dataclasses.replace(head, names=theirs)
    used = np.unique(tokens.store.labels)
    table = {n: n for n in used.tolist()} if theirs == head.names else _table(tokens, head, used)
    size = head.size or len(head.names)
    beyond = [n for n, number in table.items() if size and number >= size]
    if beyond:
        place = _first(tokens, beyond[0])
        raise UserError(f"{place}: the label {beyond[0]}, and {head.owner} has {size} classes, 0 to {size - 1}")
    if all(n == number for n, number in table.items()):
        note = "" if theirs or not head.names else f"numbers are those of {head.owner}: {_listed(head.names)}"
        return dataclasses.replace(tokens, classes=head.names, labels=note), head
    order = np.asarray([table[n] for n in used.tolist()], np.int32)
    store = dataclasses.replace(
        tokens.store,
        labels=order[np.searchsorted(used, tokens.store.labels)],
        key=cache.digest(tokens.store.key, "classes", *(f"{n} {number}" for n, number in table.items())),
    )
    note = f"numbered as {head.owner} has them: {_listed(head.names) or 'by number'}"
    return dataclasses.replace(tokens, store=store, classes=head.names, labels=note), head


def _table(tokens: Any, head: Head, used: np.ndarray) -> dict[int, int]:
    """Number of a class in the data -> its number in the head, for those that are used."""
    theirs = tokens.classes
    if not theirs:
        values = labels.values_of(head.names)
        missing = [n for n in used.tolist() if values and n not in values]
        if missing:
            raise UserError(
                f"{_first(tokens, missing[0])}: the label {missing[0]}, and {head.owner} has {few(head.names)}"
            )
        return {n: values.get(n, n) for n in used.tolist()}
    if not head.names:
        values = {n: value for value, n in labels.values_of(theirs).items()}
        if not values:
            raise UserError(
                f"{tokens.reference} has the classes {few(theirs)}, and those of {head.owner} have no names: say which "
                "number each has by the option classes=A,B,... of the source (A is number 0); a run may also re-initialize the head "
                "(init.fresh=('head/.*',))"
            )
        return {n: values[n] for n in used.tolist()}
    wanted = used.tolist() if tokens.declared else range(len(theirs))  # a source may declare more than it has
    unknown = [theirs[n] for n in wanted if theirs[n] not in head.names]
    if unknown:
        raise _disagree(tokens, head) if head.of_data else _unknown(tokens, head, unknown)
    twice = [theirs[n] for n in wanted if head.names.count(theirs[n]) > 1]
    if twice:
        numbers = few(str(n) for n, name in enumerate(head.names) if name == twice[0])
        raise UserError(
            f"{tokens.reference}: the class {twice[0]!r} is more than one of {head.owner}, {numbers}: give labels as numbers"
        )
    return {n: head.names.index(theirs[n]) for n in used.tolist()}


def _disagree(tokens: Any, head: Head) -> UserError:
    return UserError(
        f"config.data.mixture: {head.owner} has the classes {few(head.names) or 'numbers'}, and {tokens.reference} "
        f"{few(tokens.classes) or 'numbers'}, so their numbers differ: name the same in both with the option classes=A,B,..."
    )


def _unknown(tokens: Any, head: Head, names: Sequence[str]) -> UserError:
    plain = {labels.plain(name): name for name in head.names}
    near = nearest(names[0], head.names)
    if labels.plain(names[0]) in plain:
        near = f" (its {plain[labels.plain(names[0])]!a} differs in white space, case or Unicode form)"
    return UserError(
        f"{tokens.reference} has the classes {few(tokens.classes)}, and {head.owner} was trained on {few(head.names)}: it "
        f"has no class {names[0]!a}{near}; spell them as it does. Only a head that is re-initialized (init.fresh=('head/.*',)) "
        "takes others"
    )


def _first(tokens: Any, label: int) -> str:
    """The place of the first example of a label."""
    return tokens.where(int(np.argmax(tokens.store.labels == label)))


def _listed(names: Sequence[str]) -> str:
    return few(f"{n} = {name}" for n, name in enumerate(names))
