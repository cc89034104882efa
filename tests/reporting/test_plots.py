"""Figures as people see them."""

import itertools
import re

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
