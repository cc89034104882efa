"""What the site has beside the pages of this folder: the tables of settings and of public names, notebooks, and files of the
repository that pages link to. MkDocs calls the functions at the end (`hooks` in mkdocs.yml)."""

from __future__ import annotations

import html
import json
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s#:]*)((?:#[^)\s]*)?\))")  # no "https:"
CODE = re.compile(r"^( *)(```+).*?^\1\2$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# Files of the repository that are pages of their own; others that pages link to are shown as they are.
TOP = {"README.md": "readme.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml", ".ipynb": "json"}


# Settings


def configuration() -> str:
    """The tables of all settings: a section per section of the tree, a row per field."""
    from ptft_jax import config

    sections: dict[str, list[str]] = {}
    for path, field in config.fields():
        section = path.rpartition(".")[0]
        allowed = ", ".join(f"`{choice!r}`" for choice in field.choices) or field.expected
        meaning = field.meaning[:1].upper() + field.meaning[1:]
        cells = (f'<code id="{path}">{path.rstrip("_")}</code>', _code(field.default), _cell(allowed), _cell(meaning))
        sections.setdefault(section, []).append(f"| {' | '.join(cells)} |")
    return "\n".join(line for section, rows in sections.items() for line in _section(section, rows))


def _section(section: str, rows: list[str]) -> Iterator[str]:
    yield f"\n## {section or 'At the top'}\n"
    yield "| setting | default | allowed | meaning |\n|---|---|---|---|"
    yield from rows


def _code(value: Any) -> str:
    return f"<code>{_cell(repr(value))}</code>"


def _cell(text: str) -> str:
    """A text as what a cell of a table shows, letter by letter but for code between backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    parts = [p if p.startswith("`") else re.sub(r"([*_\[\]])", r"\\\1", html.escape(p, quote=False)) for p in parts]
    return "".join(parts).replace("|", "&#124;")


# Recipes


def recipes() -> str:
    """The table of the config files that come with the package."""
    from ptft_jax.config import files

    rows = ["| recipe | what it is | argument | without one |", "|---|---|---|---|"]
    for recipe in files.recipes():
        rows.append(
            f"| `{recipe.name}` | {_cell(recipe.summary)} | {_cell(recipe.argument)} | {_cell(recipe.default)} |"
        )
    return "\n".join(rows)


# Public names


def public_names() -> str:
    """Directives for the docstrings of the names of `import ptft_jax as pt`."""
    import ptft_jax

    return "\n\n".join(f"::: {module}.{name}" for name, module in sorted(ptft_jax._MODULES.items()))


FILLED = {"<!-- settings -->": configuration, "<!-- public names -->": public_names, "<!-- recipes -->": recipes}


# Notebooks and other files


def notebook(path: pathlib.Path) -> str:
    """A notebook as Markdown: texts, code, and outputs that are texts."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts)


def shown(path: str) -> str:
    """A file of the repository as a page."""
    file = ROOT / path
    language = LANGUAGES.get(file.suffix, "text")
    text = file.read_text().replace("~~~~", "~~~")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n~~~~{language}\n{text}\n~~~~\n"


def on_files(files, config):
    """Adds the pages that are made here."""
    from mkdocs.structure.files import File

    made = {page: (ROOT / name).read_text() for name, page in TOP.items()}
    made |= {f"examples/{path.stem}.md": notebook(path) for path in sorted((ROOT / "examples").glob("*.ipynb"))}
    pages = {file.src_uri: file.content_string for file in files if file.is_documentation_page()} | made
    for page, text in pages.items():
        for _, link, _ in LINK.findall(CODE.sub("", text)):
            path = _file(page, link)
            if path and path not in TOP and not path.startswith(("docs/", "examples/")):
                made.setdefault(f"files/{path}.md", shown(path))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills tables in, and leads links to files of the repository to their pages."""
    for mark, make in FILLED.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    uri = page.file.src_uri
    if uri == "contributing.md":  # Python-Markdown wants 4 columns where CommonMark is content with 3
        markdown = re.sub(r"^ {3}", "    ", markdown, flags=re.MULTILINE)

    def led(match: re.Match) -> str:
        path = _file(uri, match[2])
        if not path:
            return match[0]
        target = TOP.get(path) or path.removeprefix("docs/")
        if target == path:
            target = f"{path.removesuffix('.ipynb')}.md" if path.startswith("examples/") else f"files/{path}.md"
        return f"{match[1]}{posixpath.relpath(target, posixpath.dirname(uri) or '.')}{match[3]}"

    kept = [match.span() for match in CODE.finditer(markdown)]
    inside = lambda match: any(start <= match.start() < end for start, end in kept)  # noqa: E731
    return LINK.sub(lambda match: match[0] if inside(match) else led(match), markdown)


def _file(page: str, link: str) -> str:
    """The file of the repository that a link of a page leads to; "" = none."""
    origin = {made: name for name, made in TOP.items()}.get(
        page, page if page.startswith("examples/") else f"docs/{page}"
    )
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link)) if link else ""
    return path if link and (ROOT / path).is_file() else ""
