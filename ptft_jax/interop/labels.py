"""Names of classes as transformers keeps them in config.json: `id2label` and `label2id`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptft_jax.data import class_names
from ptft_jax.errors import UserError
from ptft_jax.interop.config_reader import Fields


def read(c: Fields) -> tuple[int, tuple[str, ...]]:
    """(how many classes there are, their names in the order of the scores; () where they have none).

    `id2label` names them; where it holds placeholders (LABEL_0, ...) alone, or is missing, `label2id` does.

    Raises:
      UserError: keys that are not the numbers from 0 on, values that are no names, two tables that contradict each other.
    """
    names = _by_number(c)
    back = c.get("label2id", None) or {}
    numbers = {str(name): _number(c, f"label2id[{name!r}] = {n!r}", n) for name, n in back.items()}
    if not class_names.known(names):
        count = len(names) or c.get("num_labels", 2)
        given = {n: name for name, n in numbers.items()}
        complete = len(given) == len(numbers) and set(given) == set(range(count))
        return count, class_names.known([given[n] for n in range(count)]) if complete else ()
    for name, n in numbers.items():
        if name in names and names[n if n < len(names) else 0] != name:
            raise UserError(
                f"{c.where}: config.json: label2id has {name!r} as {n}, and id2label as {names.index(name)}: correct one "
                "of them"
            )
    return len(names), names


def _by_number(c: Fields) -> tuple[str, ...]:
    table = c.get("id2label", None) or {}
    found: dict[int, str] = {}
    for key, name in table.items():
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise UserError(f"{c.where}: config.json: id2label[{key!r}] = {name!r}: expected a name")
        found[_number(c, f"id2label has the key {key!r}", key)] = str(name)
    if sorted(found) != list(range(len(table))):
        raise UserError(
            f"{c.where}: config.json: id2label has the keys {', '.join(map(str, list(table)[:10]))}: expected the numbers 0 to "
            f"{len(table) - 1}, each once"
        )
    return tuple(found[n] for n in range(len(found)))


def _number(c: Fields, shown: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else -1
    except ValueError:
        number = -1
    if number < 0:
        raise UserError(f"{c.where}: config.json: {shown}: expected the number of a class, from 0")
    return number


def write(names: Sequence[str], count: int) -> dict[str, Any]:
    """The fields that name so many classes: placeholders where they have no names. A head with one number is one for regression."""
    filled = class_names.filled(names, count) or tuple(map(class_names.PLACEHOLDER.format, range(count)))
    return {
        "id2label": {str(n): name for n, name in enumerate(filled)},
        "label2id": {name: n for n, name in enumerate(filled)},
        **({"problem_type": "regression"} if count == 1 else {}),
    }
