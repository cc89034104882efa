"""CONTRIBUTING.md is true: what it names is there, and its steps work as they are written."""

import ast
import re
import shutil
import sys

import pytest

from tests.processes import ROOT, run

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`([\w.]+/[\w./]+\.\w+)`")


def edits():
    """(language, path, text) of the blocks of the steps; a block is of the last file before it that a colon follows."""
    for block in BLOCK.finditer(GUIDE):
        indent, language, text = block.groups()
        if language != "sh":
            path = re.findall(FILE.pattern + ":\n", GUIDE[: block.start()])[-1]
            lines = [line.removeprefix(indent) for line in text.splitlines()]
            yield language, path, "\n".join(lines) + "\n"


def edited():
    """Path -> text of every file that the steps make or change, after all of them."""
    files = {}
    for language, path, text in edits():
        if language == "python":
            assert path not in files and not (ROOT / path).exists() and (ROOT / path).parent.is_dir(), path
            files[path] = text
            continue
        assert language == "diff", path
        lines = text.splitlines(keepends=True)
        assert all(line[0] in " +-" for line in lines), text
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        old = files.get(path) or (ROOT / path).read_text()
        assert ("\n" + old).count("\n" + before) == 1, f"{path}: these lines are there once:\n{before}"
        files[path] = ("\n" + old).replace("\n" + before, "\n" + after)[1:]
    return files


def defined(path):
    """Names that a module defines, and those of its classes as CLASS.NAME."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_file_is_there():
    made = {path for language, path, _ in edits() if language == "python"}
    named = set(FILE.findall(GUIDE)) | set(re.findall(r"\]\((.*?)\)", GUIDE)) | set(re.findall(r"docs/\w+\.md", GUIDE))
    assert len(made) == 4 and len(named) > 40
    assert {path for path in named - made if not (ROOT / path).exists()} == set()


def test_every_name_is_defined_where_it_says():
    named = re.findall(r"`([\w.]+)`\s+in\s+`([\w/.]+\.py)`", GUIDE)
    assert len(named) > 30
    assert {(name, path) for name, path in named if name not in defined(path)} == set()


def test_every_target_and_marker_is_there():
    makefile, settings = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", GUIDE, re.MULTILINE))
    assert targets == {
        "install",
        "test",
        "lint",
        "docs",
        "test-heavy",
        "live",
        "beam",
        "buckets",
        "clusters",
        "browser",
        "test-full",
        "models-table",
    }
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all(f'"{marker}: ' in settings for marker in re.findall(r"marked `(\w+)`", GUIDE))
    assert {f"make {t}" for t in targets} >= set(re.findall(r"^make .*$", (ROOT / ".ci/run").read_text(), re.MULTILINE))


@pytest.mark.parametrize("what", ["an objective", "an adapter", "a data source", "a model family"])
def test_steps_are_counted(what):
    count, section = re.search(
        rf"^## Add {what} in (\d) steps\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE
    ).groups()
    assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == [str(n + 1) for n in range(int(count))]


def test_the_steps_fit_the_files():
    files = edited()
    assert len(files) == 9
    for path, text in files.items():
        ast.parse(text, path)


@pytest.mark.slow
def test_the_steps_work(tmp_path):
    """In a copy: what they make is well formed, its own tests pass, and so do those that hold for all of its kind."""
    for name in ("ptft_jax", "tests", "configs", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = edited()
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    options = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    for words in (["check"], ["format", "--check"]):
        done = run(sys.executable, "-m", "ruff", *words, "--no-cache", *files, **options)
        assert done.returncode == 0, done.stdout + done.stderr
    made = [path for path in files if not (ROOT / path).exists() and path.startswith("tests/")]
    tests = [
        *made,
        "tests/test_pairing.py",
        "tests/test_config.py::test_every_declared_field_is_read_by_some_run",
        "tests/e2e/test_methods.py::test_a_run[gain]",
    ]
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "focal or gain or whole or declared"]
    done = run(sys.executable, *words, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    # of the formula 1; of pairings those that go together (3), those that do not (1), the table (1); merge, start, training;
    # settings; a run.
    assert passed and int(passed[1]) == 11, done.stdout
