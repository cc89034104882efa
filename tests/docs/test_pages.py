"""What pages say of the code: settings, defaults and verbs that are there, and no block of commands that no test runs."""

import ast
import dataclasses
import re

import pytest

from ptft_jax import config as configs
from ptft_jax.cli import VERBS
from tests.processes import ROOT
from tests.test_architecture import ROOMS

PAGES = sorted(ROOT.glob("docs/*.md"))
FIELDS = dict(configs.fields())
SECTIONS = {path.rpartition(".")[0] for path in FIELDS} - {""}
# Pages whose blocks of commands and of Python are run by tests/e2e/test_documented.py and tests/e2e/test_pages.py, whole or by
# section. What only shows something is a block of "text".
RUN = {
    "data": None,
    "getting_started": None,
    "answers": None,
    "behavior": None,
    "retrieval": None,
    "chatbot": None,
    "feedback": None,
    "principles": None,
    "tools": None,
    "debugging": None,
    "extending": None,
    "plugins": None,  # tests/e2e/test_plugins.py
    "performance": None,  # tests/e2e/test_gpu_benchmark.py
    "images": None,  # tests/e2e/test_pages.py
    "experiments": None,  # tests/e2e/test_experiments.py
    "scaling": None,  # tests/e2e/test_pages.py
    "launching": None,  # tests/e2e/test_pages.py
    "benchmarks": None,  # tests/benchmarks/test_bench.py
    "methods": {"Changing little", "Full fine-tuning and regularization", "After training", "Measuring"},
    "runs": {"Going on under other settings", "Watching a run"},
}


def prose(page):
    """A page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def named(text):
    """Settings that a text names in code, as they are declared: `init.from`, `data.packing="none"`, `config.model.scan`."""
    top = "|".join({section.partition(".")[0] for section in SECTIONS})
    for code in re.findall(r"`([^`\n]+)`", text):
        for name in re.findall(rf"(?<![\w./])(?:--)?(?:config\.)?((?:{top})(?:\.[a-z]\w*)+)(?=[=\s,)]|$)", code):
            yield "init.from_" if name == "init.from" else name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_are_declared(page):
    files = {name for name in named(prose(page)) if name.endswith((".json", ".jsonl", ".py"))}  # data.json
    assert {name for name in named(prose(page)) if name not in FIELDS and name not in SECTIONS} - files == set()


def test_settings_are_found_in_pages():
    found = {name for page in PAGES for name in named(prose(page))}
    assert len(found) > 100 and {"init.from_", "data.packing", "tune.lora.rank"} <= found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_are_there(page):
    said = set(re.findall(r"\bptft ([a-z]+(?:-[a-z]+)*)\b", page.read_text()))
    assert said <= {*VERBS, "lib"}, said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_are_run(page):
    sections = re.split(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    titles = ["", *sections[1::2]]
    for title, text in zip(titles, sections[::2]):
        blocks = [language for language in re.findall(r"^ *```(\w*)\n.*?^ *```$", text, re.DOTALL | re.MULTILINE)]
        shown = [language for language in blocks if language in ("", "sh", "python", "bash")]
        covered = page.stem in RUN and (RUN[page.stem] is None or title in RUN[page.stem])
        assert not shown or covered, f"{page.name}, {title!r}: no test runs its blocks"


# docs/coming_from.md


def rows(section):
    """Rows of the tables with four columns below a heading: (theirs, their default, ours, our default), code only."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", (ROOT / "docs/coming_from.md").read_text(), re.S | re.M)[1]
    code = lambda cell: re.match(r"`([^`]*)`", cell.strip())  # noqa: E731
    for line in text.splitlines():
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        if len(cells) == 4 and not set(line) <= set("|- "):
            yield tuple(found[1] if (found := code(cell)) else "" for cell in cells)


PEERS = ("Trainer", "PEFT", "TRL", "nanoGPT")


@pytest.mark.parametrize("peer", PEERS)
def test_our_defaults_are_those_of_the_code(peer):
    compared = 0
    for _, _, ours, default in rows(peer):
        path = "init.from_" if ours == "init.from" else ours
        if path in FIELDS and default:
            assert ast.literal_eval(default) == FIELDS[path].default, ours
            compared += 1
    assert compared >= 8


@pytest.mark.live
@pytest.mark.parametrize("peer", ["Trainer", "PEFT", "TRL"])
def test_their_defaults_are_those_of_the_libraries(peer):
    import peft
    import transformers
    import trl

    theirs = {"Trainer": transformers.TrainingArguments, "PEFT": peft.LoraConfig, "TRL": trl.SFTConfig}[peer]
    declared = {field.name: field.default for field in dataclasses.fields(theirs)}
    compared = [(name, default) for name, default, *_ in rows(peer) if default]
    assert len(compared) >= 8
    for name, default in compared:
        assert declared[name] == ast.literal_eval(default), name


# docs/architecture.md


def rooms():
    """(names of a row, files to begin with) of the table, from the top down."""
    for names, _, files in re.findall(
        r"^\| (`.*?`) \| (.*) \| (`.*?`) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE
    ):
        yield re.findall(r"`([\w.]+)`", names), re.findall(r"`([\w./]+)`", files)


def test_every_room_is_described_in_the_order_of_imports():
    named = [name for names, _ in rooms() for name in names]
    there = {p.stem for p in (ROOT / "ptft_jax").iterdir() if (p / "__init__.py").exists()}
    assert there - set(named) - {"shipped"} == set() and len(named) == len(set(named))
    order = [room for room in ROOMS if "." not in room and room in named]
    assert [name for name in named if name in order] == order
    assert set(named) - set(order) == set()


def test_files_to_begin_with_are_there():
    files = [file for _, files in rooms() for file in files]
    assert len(files) > 15 and not [file for file in files if not (ROOT / "ptft_jax" / file).exists()]


def test_files_that_are_named_are_there():
    """In all pages: `training/step.py` is below ptft_jax/, or in the repository."""
    for page in PAGES:
        for file in re.findall(r"`([a-z_]+(?:/[\w]+)+\.(?:py|md|ipynb))(?::\w+)?`", prose(page)):
            mine = file.startswith("mypkg/")  # of the reader
            assert mine or (ROOT / file).exists() or (ROOT / "ptft_jax" / file).exists(), f"{page.name}: {file}"
