"""Figures as people see them."""

import itertools
import re

import pytest

from ptft_jax.reporting import plots


def test_names_of_points_lie_on_no_other():
    crowd = {f"way {n}": (1.0 + 0.001 * n, 2.0 + 0.0005 * n, 0.0, 0.0) for n in range(12)}
    crowd |= {"far right": (5.0, 2.5, 0.1, 0.0), "top left": (0.0, 4.0, 0.0, 0.1)}
    svg = plots.front(crowd, ["top left", "way 0"], title="t", x="x", y="y")
    names = r'<text style="[^"]*text-anchor: (\w+)" x="([\d.]+)" y="([\d.]+)"[^>]*>(way \d+|far right|top left)</text>'
    boxes = []
    for anchor, x, y, name in re.findall(names, svg):
        start = float(x) - (4.0 * len(name) if anchor == "end" else 0)
        boxes.append((start, start + 4.0 * len(name), float(y)))
    assert len(boxes) == len(crowd)
    for (s, e, y), (t, f, z) in itertools.combinations(boxes, 2):
        assert e <= t or f <= s or abs(y - z) > 8, "letters are eight points high"
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert all(s > 0 and e < width and 0 < y < height for s, e, y in boxes)


@pytest.mark.parametrize("values, plain", [((2.0, 3.1), True), ((0.02, 3.1), False)])
def test_a_short_logarithmic_axis_has_plain_numbers(values, plain):
    _, axes = plots.framed(4, 3, "", "x", "y")
    axes.plot([1, 100], values)
    plots.logarithmic(axes)
    axes.figure.canvas.draw()
    labels = [
        label.get_text() for label in (*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)) if label.get_text()
    ]
    assert labels and all(label.replace(".", "").isdigit() for label in labels) == plain
