"""A self-contained HTML page: text, tables, SVG figures and sample texts, in the order they are added."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from ptft_jax.runs.files import write_bytes, write_text


class Page:
    """Collects the parts of a report and writes them as one file that needs nothing else."""

    def __init__(self, title: str, lead: str):
        self.title, self.lead, self._parts = title, lead, []

    def heading(self, text: str) -> None:
        self._parts.append({"kind": "heading", "text": text})

    def text(self, text: str) -> None:
        self._parts.append({"kind": "text", "text": text})

    def link(self, file: str, text: str) -> None:
        """To a file beside the page."""
        self._parts.append({"kind": "link", "file": file, "text": text})

    def figure(self, svg: str) -> None:
        self._parts.append({"kind": "figure", "svg": svg})

    def pictures(self, pictures: Sequence[tuple[str, str]]) -> None:
        """Images side by side, each (what `ptft_jax.reporting.thumbnails.uri` gives, what is written below it)."""
        self._parts.append({"kind": "pictures", "pictures": list(pictures)})

    def table(self, rows: list[dict[str, Any]], *, prose: bool = False, verbatim: bool = False) -> None:
        """Rows of equal keys. `prose` lets cells wrap, `verbatim` also keeps the line ends of texts. Numbers are formatted here."""
        shown = [{k: _shown(v) for k, v in row.items()} for row in rows]
        style = "text verbatim" if verbatim else "text" if prose else ""
        self._parts.append({"kind": "table", "rows": shown, "style": style})

    def sample(self, title: str, prompt: str, text: str) -> None:
        self._parts.append({"kind": "sample", "title": title, "prompt": prompt, "text": text})

    def write(self, path: pathlib.Path, footer: str, figures: Sequence[str] = ()) -> None:
        """Writes the page, whole or not at all; text is escaped. `figures`: "svg", "png": also each figure of `ptft_jax.reporting.plots` as
        such a file beside it, called PAGE-TITLE."""
        template = templates(parted=_parted).get_template("report.html")
        write_text(path, template.render(title=self.title, lead=self.lead, parts=self._parts, footer=footer))
        for name, drawn in self._named(path.stem):
            for kind in figures:
                write_bytes(path.with_name(f"{name}.{kind}"), drawn.file(kind))

    def _named(self, stem: str) -> list[tuple[str, Any]]:
        """The figures, by names for files."""
        drawn = [part["svg"] for part in self._parts if hasattr(part.get("svg"), "file")]
        named: dict[str, Any] = {}
        for figure in drawn:
            name = f"{stem}-{re.sub(r'[^a-z0-9]+', '-', figure.title.lower()).strip('-') or 'figure'}"
            named[name if name not in named else f"{name}-{len(named) + 1}"] = figure
        return list(named.items())


def templates(**filters: Callable[[Any], Any]) -> Any:
    """The pages' templates, in which text is escaped: a `jinja2.Environment` with these filters."""
    import jinja2

    loader = jinja2.PackageLoader("ptft_jax.reporting")
    found = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters |= filters
    return found


def _parted(text: Any) -> Any:
    """The head of a column, which may be broken behind what parts its words, and nowhere else."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"(?<=[./_=,:])(?=[^\s./_=,:])", "<wbr>", str(markupsafe.escape(text))))


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
    return value
