"""Path rules: one ordered, first-match way to say something about parameters by name.

A path is the keys of the nested parameter dict joined by "/", such as `blocks/attention/query/kernel`. A rule is a
pair (pattern, value). The pattern is a regular expression that must match the whole path; `blocks[2:]/.*` addresses
only some layers of the stacked blocks, with Python's slice notation (`blocks[-1]`, `blocks[:3]`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.errors import UserError, listed, nearest

STACK = "blocks"
_SLICE = re.compile(rf"^{STACK}\[(-?\d*)(:?)(-?\d*)\]")
_UNSET = object()
_EMBEDDING = "embed/tokens/embedding"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as {path: leaf}, in the order of the dict."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def path_of(key_path: Sequence[Any]) -> str:
    """A JAX key path (`jax.tree_util.tree_leaves_with_path`) in the same notation."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in key_path)


def layers_of(path: str, shape: Sequence[int]) -> int | None:
    """How many stacked layers the leaf holds, or None where it is not part of the stack."""
    return shape[0] if path.startswith(STACK + "/") else None


def compiled(pattern: str, field: str) -> tuple[re.Pattern[str], slice]:
    """A rule's pattern as a regular expression, and the layers it addresses. Raises UserError where it is none."""
    layers = slice(None)
    found = _SLICE.match(pattern)
    if found:
        first, colon, last = found.groups()
        if colon:
            layers = slice(int(first) if first else None, int(last) if last else None)
        elif first:
            layers = slice(int(first), int(first) + 1 or None)
        pattern = STACK + pattern[found.end() :]
    return regex(pattern, field), layers


def regex(pattern: str, field: str) -> re.Pattern[str]:
    """The compiled pattern. Raises UserError that names `field` where it is no regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as e:
        raise UserError(f"{field}: {pattern!r} is not a regular expression: {e}") from e


def matches(patterns: Sequence[str], path: str) -> bool:
    """Whether one of the regular expressions matches the whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def refuse_idle(patterns: Sequence[str], names: Mapping[str, Any], field: str, what: str) -> None:
    """Raises UserError for a pattern that is no regular expression, or that matches none of the names."""
    for pattern in patterns:
        expression = regex(pattern, field)
        if not any(expression.fullmatch(name) for name in names):
            raise UserError(f"{field}: {pattern!r} matches no {what}{_tied(expression, names)}:{listed(names, 40)}")


def assign(
    rules: Sequence[tuple[str, Any]], shapes: Mapping[str, Sequence[int]], field: str, *, strict: bool = True
) -> dict[str, list[Any]]:
    """Gives every leaf the value of the first rule that matches it.

    Args:
      rules: ordered (pattern, value) pairs.
      shapes: shape of every leaf by path; leaves under `blocks/` are stacked on axis 0.
      field: the config field the rules come from, for error messages.
      strict: also refuse rules that match nothing, and those whose leaves earlier rules have all taken with other values (a
        last ".*" may be such).

    Returns:
      For every path the list of its values: one a layer for stacked leaves, else a single one.

    Raises:
      UserError: a leaf that no rule covers, a rule that says nothing, layers that are not there (where strict), or a
        pattern that does not compile.
    """
    values = {path: [_UNSET] * (layers_of(path, shape) or 1) for path, shape in shapes.items()}
    depth = next((found for p, shape in shapes.items() if (found := layers_of(p, shape))), None)
    for number, (pattern, value) in enumerate(rules, 1):
        expression, layers = compiled(pattern, field)
        matched = applied = hidden = False
        for path, row in values.items():
            if not expression.fullmatch(path):
                continue
            if layers != slice(None) and layers_of(path, shapes[path]) is None:
                continue
            for i in range(len(row))[layers]:
                matched = True
                if row[i] is _UNSET:
                    row[i], applied = value, True
                hidden |= row[i] != value
        ends = [end for end in (layers.start, layers.stop) if end is not None]
        if strict and matched and depth and not all(-depth <= end <= depth for end in ends):
            raise UserError(f"{field}: rule {number} {pattern!r}: the model has {depth} layers")
        if strict and not matched:
            raise UserError(_says_nothing(field, number, pattern, layers, shapes))
        if strict and hidden and not applied and pattern != ".*":
            raise UserError(f"{field}: rule {number} {pattern!r} never applies, earlier rules already take its leaves")
    bare = [path for path, row in values.items() if any(v is _UNSET for v in row)]
    if bare:
        raise UserError(f"{field}: no rule covers these parameters (end with a '.*' rule):{listed(bare)}")
    return values


def _says_nothing(field: str, number: int, pattern: str, layers: slice, shapes: Mapping[str, Sequence[int]]) -> str:
    depth = next((layers_of(p, s) for p, s in shapes.items() if layers_of(p, s)), None)
    hint = nearest(pattern, shapes)
    if layers != slice(None) and depth is not None and not range(depth)[layers]:
        hint = f" (the model has {depth} layers)"
    hint = _tied(compiled(pattern, field)[0], shapes) or hint
    return f"{field}: rule {number} {pattern!r} matches no parameter{hint}; parameters:{listed(shapes, 40)}"


def _tied(expression: re.Pattern[str], names: Mapping[str, Any]) -> str:
    """A hint for a pattern that is meant for the head of a model whose head is its embedding table."""
    own = (
        "head/kernel",
        "head/scores/kernel",
        "head/classes/kernel",
    )  # of an untied head, of masked tokens, of classes
    if not expression.fullmatch(own[0]) or _EMBEDDING not in names or any(name in names for name in own):
        return ""
    return f" (the head is tied, model.tied: it is {_EMBEDDING})"
