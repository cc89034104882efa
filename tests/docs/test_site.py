"""The site: what is made of the code when it is built, and what it is built from. `make docs` builds it, with warnings as errors."""

import html
import importlib.util
import re

import pytest

import ptft_jax as pt
from ptft_jax import config as configs
from tests.processes import ROOT


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(text):
    """Setting -> [what it shows as name, default, what is allowed, its meaning], as a browser would show them."""
    found = {}
    for line in text.splitlines():
        if cells := re.match(r'\| (<code id="([\w.]+)">.*) \|$', line):
            shown = [re.sub(r"\\([*_\[\]])", r"\1", cell.replace("`", "")) for cell in cells[1].split(" | ")]
            found[cells[2]] = [html.unescape(re.sub(r"</?code[^>]*>", "", cell)) for cell in shown]
    return found


def test_every_setting_has_its_row(hooks):
    found = rows(hooks.configuration())
    declared = dict(configs.fields())
    assert sorted(found) == sorted(declared) and len(declared) > 150
    for path, (name, default, allowed, meaning) in found.items():
        field = declared[path]
        assert name == path.removesuffix("_") and default == repr(field.default), path
        assert (
            meaning[1:] == " ".join(field.meaning.split())[1:].replace("`", "")
            and meaning[0] == field.meaning[0].upper()
        ), path
        assert allowed == (", ".join(map(repr, field.choices)) or field.expected), path


def test_every_section_has_its_heading(hooks):
    headings = re.findall(r"^## (.*)$", hooks.configuration(), re.MULTILINE)
    sections = {path.rpartition(".")[0] for path, _ in configs.fields()}
    assert set(headings) - {"At the top"} == sections - {""} and len(headings) == len(sections)


def test_every_public_name_has_its_docstring(hooks):
    directives = re.findall(r"^::: (\S+)\.(\w+)$", hooks.public_names(), re.MULTILINE)
    assert {name for _, name in directives} == set(pt.__all__) - {"__version__"}
    assert all(getattr(pt, name).__module__ == module for module, name in directives)


def test_every_recipe_has_its_row(hooks):
    """And what its first line says of it."""
    head, _, *lines = hooks.recipes().splitlines()
    files = {p.relative_to(ROOT / "configs").with_suffix("").as_posix(): p for p in ROOT.glob("configs/*/*.py")}
    files = {name: p for name, p in files.items() if p.stem != "__init__"}
    found = {re.match(r"\| `([\w/]+)` \| (\w+)", line).groups() for line in lines}
    assert len(head.split("|")) == 6 and found == {
        (name, re.match(r'"""(\w+)', p.read_text())[1]) for name, p in files.items()
    }


@pytest.mark.parametrize("mark, page", [("settings", "configuration"), ("public names", "api"), ("recipes", "recipes")])
def test_marks_are_on_their_pages(hooks, mark, page):
    assert (ROOT / f"docs/{page}.md").read_text().count(f"<!-- {mark} -->") == 1
    assert f"<!-- {mark} -->" in hooks.FILLED


def test_every_page_is_in_the_navigation(hooks):
    listed = re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {p.name for p in (ROOT / "docs").glob("*.md")}
    notebooks = {f"examples/{p.stem}.md" for p in (ROOT / "examples").glob("*.ipynb")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | notebooks | set(hooks.TOP.values()) - {"readme.md"}


@pytest.mark.parametrize(
    "page, link, leads",
    [
        ("data.md", "../ptft_jax/cli.py", "files/ptft_jax/cli.py.md"),
        ("data.md", "methods.md#measuring", "methods.md#measuring"),
        ("data.md", "../CONTRIBUTING.md", "contributing.md"),
        ("readme.md", "docs/data.md#sources", "data.md#sources"),
        ("readme.md", "LICENSE", "files/LICENSE.md"),
        ("contributing.md", "tests/helpers.py", "files/tests/helpers.py.md"),
        ("changelog.md", "README.md#use", "readme.md#use"),
    ],
)
def test_links_lead_to_pages(hooks, page, link, leads):
    """As on GitHub, where they are relative to the page's place in the repository; links in code are left alone."""
    at = type("Page", (), {"file": type("File", (), {"src_uri": page})})
    text = f"a [link]({link}) and `[code]({link})`\n\n```text\n[code]({link})\n```\n"
    assert hooks.on_page_markdown(text, at, None, None) == text.replace(f"[link]({link})", f"[link]({leads})")


def test_nothing_is_fetched():
    """Neither fonts nor scripts: what pages load lies in the site."""
    for name in ("mkdocs.yml", "docs/style.css", "docs/hooks.py"):
        assert "//" not in re.sub(r"(?m)#.*$", "", (ROOT / name).read_text()), name
    assert re.search(r"^  font: false", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_warnings_are_errors():
    """MkDocs counts only warnings that it would show, so it may not be told to be quiet."""
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if "mkdocs build" in line]
    assert "--strict" in line and "quiet" not in line and " -q" not in line
    assert "make docs" in (ROOT / ".ci/run").read_text().splitlines()
