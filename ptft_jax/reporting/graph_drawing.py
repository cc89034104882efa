"""A graph of runs as an SVG: layers from left to right, each node behind those that it uses; nodes that are many are drawn by what they have
in common."""

from __future__ import annotations

import collections
import dataclasses
import html
import re
import statistics
from collections.abc import Callable, Mapping, Sequence

MOST = 60  # boxes of a drawing
_WIDTH, _HEIGHT, _GAP, _BETWEEN, _EDGE = 190, 40, 14, 60, 8  # in points
_LETTERS = 25  # of a line in a box
# Border of a status, whose word is in the box, too; of several as one that of the last which one of them has.
_COLORS = {
    "finished": "#007a4d", "pruned": "#8250a0", "running": "#0072B2", "waiting": "#777777", "interrupted": "#777777",
    "skipped": "#999999", "diverged": "#b36b00", "refused": "#b36b00", "killed": "#b3261e", "out_of_memory": "#b3261e",
    "failed": "#b3261e",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Box:
    """A node, or several as one.

    Attributes:
      statuses: status -> how many nodes have it.
      parents: names of boxes.
    """

    name: str
    kind: str
    statuses: Mapping[str, int]
    parents: tuple[str, ...]

    @property
    def count(self) -> int:
        return sum(self.statuses.values())

    @property
    def says(self) -> str:
        """The second line."""
        if self.count == 1:
            return f"{self.kind}, {next(iter(self.statuses))}"
        return f"{self.count:,} × {self.kind}: {', '.join(f'{n:,} {status}' for status, n in self.statuses.items())}"


def boxes(nodes: Sequence[Mapping[str, object]], most: int = MOST) -> list[Box]:
    """The nodes, {"name", "kind", "status", "group", "parents"}, each behind its parents; of more than `most` those of one group as one, of
    more groups those of names that differ in numbers, else those of a kind."""
    ways: tuple[Callable[[Mapping[str, object]], str], ...] = (
        lambda node: str(node["name"]),
        lambda node: str(node["group"]),
        lambda node: re.sub(r"\d+", "#", str(node["group"])),
        lambda node: f"every {node['kind']}",
    )
    key = next((way for way in ways if len({way(node) for node in nodes}) <= most), ways[-1])
    of = {str(node["name"]): key(node) for node in nodes}
    together: dict[str, list[Mapping[str, object]]] = {}
    for node in nodes:
        together.setdefault(of[str(node["name"])], []).append(node)
    made = []
    for name, same in together.items():
        parents = dict.fromkeys(of[p] for node in same for p in node["parents"] if p in of)  # type: ignore[attr-defined]
        kinds = dict.fromkeys(str(node["kind"]) for node in same)
        statuses = collections.Counter(str(node["status"]) for node in same)
        made.append(
            Box(name, " or ".join(kinds), dict(sorted(statuses.items())), tuple(p for p in parents if p != name))
        )
    return made


def svg(nodes: Sequence[Mapping[str, object]], most: int = MOST) -> str:
    """The drawing; the same bytes for the same nodes."""
    there = boxes(nodes, most)
    places = _places(there)
    width = max(x for x, _ in places.values()) + _WIDTH + _EDGE
    height = max(y for _, y in places.values()) + _HEIGHT + _EDGE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}" viewBox="0 0 {width} {height:g}" role="img" '
        'aria-label="graph of runs" font-family="system-ui, sans-serif" font-size="11">'
    ]
    for box in there:
        lines += [_edge(places[parent], places[box.name]) for parent in box.parents]
    lines += [_drawn(box, *places[box.name]) for box in there]
    return "\n".join([*lines, "</svg>\n"])


def _places(there: Sequence[Box]) -> dict[str, tuple[int, float]]:
    """The left upper corner of each box: layers by the longest way from a box without parents, within a layer where its parents are."""
    depths: dict[str, int] = {}
    for box in there:  # parents come first, but where boxes are many nodes that use each other
        depths[box.name] = max((depths[p] + 1 for p in box.parents if p in depths), default=0)
    layers: dict[int, list[Box]] = {}
    for box in there:
        layers.setdefault(depths[box.name], []).append(box)
    tallest = max(map(len, layers.values())) * (_HEIGHT + _GAP)
    heights: dict[str, float] = {}
    for depth in sorted(layers):
        above = {
            box.name: statistics.mean([heights[p] for p in box.parents if p in heights] or [0.0])
            for box in layers[depth]
        }
        row = sorted(layers[depth], key=lambda box: above[box.name])  # which keeps the order of those alike
        start = (tallest - len(row) * (_HEIGHT + _GAP)) / 2
        for number, box in enumerate(row):
            heights[box.name] = _EDGE + start + number * (_HEIGHT + _GAP)
    return {box.name: (_EDGE + depths[box.name] * (_WIDTH + _BETWEEN), heights[box.name]) for box in there}


def _edge(start: tuple[int, float], end: tuple[int, float]) -> str:
    (x, y), (u, v) = start, end
    x, y, v = x + _WIDTH, y + _HEIGHT / 2, v + _HEIGHT / 2
    bend = max((u - x) / 2, 20)
    return f'<path d="M{x} {y:g} C{x + bend:g} {y:g} {u - bend:g} {v:g} {u} {v:g}" fill="none" stroke="#999" stroke-width="1.2"/>'


def _drawn(box: Box, x: int, y: float) -> str:
    worst = next(
        (status for status in reversed(_COLORS) if status in box.statuses and status != "finished"), "finished"
    )
    color = _COLORS.get(next(iter(box.statuses)) if box.count == 1 else worst, "#777777")
    stack = f'<rect x="{x + 4}" y="{y + 4:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="#fff" stroke="{color}"/>'
    return (
        f"<g><title>{html.escape(f'{box.name}: {box.says}')}</title>{stack if box.count > 1 else ''}"
        f'<rect x="{x}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="#fff" stroke="{color}" stroke-width="1.6"/>'
        f'<text x="{x + 8}" y="{y + 16:g}" font-weight="600" fill="#222">{html.escape(_cut(box.name))}</text>'
        f'<text x="{x + 8}" y="{y + 31:g}" fill="{color}">{html.escape(_cut(box.says, _LETTERS + 4))}</text></g>'
    )


def _cut(text: str, letters: int = _LETTERS) -> str:
    """A text that fits, by its beginning and, above all, its end, which tells names of one group apart."""
    return text if len(text) <= letters else f"{text[:4]}…{text[5 - letters :]}"
