"""Every command of the README, docs/data.md, docs/methods.md and docs/runs.md, every config and every experiment runs."""

import json
import os
import re
import shlex
import sys

import pytest

from experiments.methods_runs import LADDER
from ptft_jax.config import files
from ptft_jax.evaluation.samples import continue_texts
from ptft_jax.model.decode import Sampling
from ptft_jax.reporting.clock import PARTS
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training import assembly
from tests.processes import HURRY, ROOT, run

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _commands(language=""):
    blocks = [text for found, text in BLOCK.findall((ROOT / "README.md").read_text()) if found == language]
    return [line for block in blocks for line in block.splitlines() if line.startswith("ptft ")]


def _run_all(commands, folder):
    """In order, in an empty folder with only the configs and the README in it; what each printed."""
    for name in ("configs", "README.md"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    env = {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    printed = []
    for command in commands:
        words = [sys.executable, "-m", "ptft_jax.cli", *shlex.split(command)[1:]]
        done = run(*words, cwd=folder, **env)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        printed.append(done.stdout)
    return printed


@pytest.mark.heavy
def test_readme_commands(tmp_path):
    commands = _commands()
    assert len(commands) >= 7
    _run_all(commands, tmp_path)
    assert (tmp_path / "runs/report.html").exists() and (tmp_path / "runs/mine/summary.json").exists()
    # What the page says of the first fine-tune, for machines that sum in different orders.
    transfer = json.loads((tmp_path / "runs/lora/summary.json").read_text())["transfer"]
    said = re.search(
        r"code falls by ([\d.]+) to ([\d.]+) .* rises by ([\d.]+) to ([\d.]+)", (ROOT / "README.md").read_text()
    )
    low, high, least, most = map(float, said.groups())
    assert low <= transfer["target"]["gain"] <= high and least <= transfer["source"]["forgetting"] <= most
    assert high - low < 0.21 and most - least < 0.16


@pytest.mark.heavy
def test_readme_from_python(tmp_path, monkeypatch, capsys):
    """The block, in this process: it trains, what it measures is what the run measured, and it writes as its parts do."""
    [block] = [text for language, text in BLOCK.findall((ROOT / "README.md").read_text()) if language == "python"]
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    summary, loaded = names["summary"], names["loaded"]
    assert summary == json.loads((tmp_path / "runs/python/summary.json").read_text()) and summary["finished"]
    numbers, *texts = capsys.readouterr().out.splitlines()
    before, after = map(float, numbers.split())
    assert before == summary["before"]["validation/nll"]
    assert after == pytest.approx(summary["after"]["validation/nll"], abs=1e-4) and after < before - 1
    options = {"sampling": Sampling(temperature=0.8), "max_new_tokens": 20}
    [row] = continue_texts(loaded.model, loaded.params, loaded.tokenizer, ["A run is "], **options)
    assert row.tokens and "\n".join(texts) == (row.prompt + row.text).rstrip("\n")


def _run_section(title, folder, page="methods"):
    """The shell blocks of a section of a page of docs/, one after the other in an empty folder with only the configs in it."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", (ROOT / f"docs/{page}.md").read_text(), re.S | re.M)[1]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.S | re.M)
    assert blocks
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / ".bin").mkdir()
    (folder / ".bin/ptft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptft_jax.cli "$@"\n')
    (folder / ".bin/ptft").chmod(0o755)
    env = {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "PATH": f"{folder / '.bin'}:{os.environ['PATH']}"}
    for block in blocks:
        words = ["bash", "-euo", "pipefail", "-c", block]
        done = run(*words, cwd=folder, **env)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Changing little", "Full fine-tuning and regularization"])
def test_commands_that_change(title, tmp_path):
    _run_section(title, tmp_path)
    runs_made = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/summary.json")]
    assert len(runs_made) >= 2 and all(summary["finished"] for summary in runs_made)


@pytest.mark.heavy
def test_commands_that_go_on(tmp_path):
    _run_section("Going on under other settings", tmp_path, "runs")
    chain = json.loads((tmp_path / "runs/second/lineage.json").read_text())
    assert chain[0]["step"] == 40 and chain[0]["optimizer"]


@pytest.mark.slow
@pytest.mark.heavy
def test_watching_a_run(tmp_path, monkeypatch, capsys):
    _run_section("Watching a run", tmp_path, "runs")
    assert list((tmp_path / "runs/watched/profile").rglob("*.trace.json.gz"))
    seconds = json.loads((tmp_path / "runs/watched/summary.json").read_text())["seconds_by"]
    assert all(seconds[part] > 0 for part in ("import", "data", "compile", "steps", "evaluation", "saving"))
    assert "Where the time went" in (tmp_path / "runs/watched/report.html").read_text()
    page = (ROOT / "docs/runs.md").read_text()
    assert all(f"`{part}`" in page for part in PARTS)
    [block] = [text for language, text in BLOCK.findall(page) if language == "python"]
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    rows = [json.loads(line) for line in (tmp_path / "runs/hooked/metrics.jsonl").read_text().splitlines()]
    hooked = {row["step"]: row["largest"] for row in rows if row["kind"] == "hook"}
    assert hooked and all(step % 100 == 0 and value > 0 for step, value in hooked.items())
    assert [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()] == list(hooked)


@pytest.mark.slow
@pytest.mark.heavy
def test_commands_after_training(tmp_path):
    _run_section("After training", tmp_path)
    made = json.loads((tmp_path / "runs/between/combine.json").read_text())
    assert len(made["curve"]) == 6 and {"validation/nll", "source/nll"} <= made["curve"][0].keys()
    assert (tmp_path / "runs/between/report.html").read_text().count("<svg") >= 2


@pytest.mark.heavy
def test_commands_that_measure(tmp_path):
    _run_section("Measuring", tmp_path)
    groups = json.loads((tmp_path / "runs/compare.json").read_text())
    assert {g["name"]: g["seeds"] for g in groups} == {"full": [0], "lora": [0, 1]}
    cost = {g["name"]: g["figures"] for g in groups}
    assert cost["lora"]["flops"]["mean"] < 0.9 * cost["full"]["flops"]["mean"]
    found = json.loads((tmp_path / "runs/full/sequence.json").read_text())
    assert found["nll"]["matrix"][2][1] < found["nll"]["matrix"][1][1], "the second task is learned"


@pytest.mark.slow
def test_readme_commands_on_an_open_model(tmp_path):
    """SmolLM2, fine-tuned: what it is trained on gains, the export is the run, the chat knows its capital."""
    commands = _commands("sh")
    assert [c.split()[1] for c in commands] == ["train", "generate", "chat", "export", "export", "eval"]
    _, _, answer, folder, file, measured = _run_all(commands, tmp_path)
    summary = json.loads((tmp_path / "runs/smollm2/summary.json").read_text())
    assert summary["after"]["validation/nll"] < summary["before"]["validation/nll"] - 0.3
    assert summary["after"]["test/nll"] < summary["before"]["test/nll"] - 0.2
    assert "Paris" in answer
    assert json.loads(folder)["logit_difference"] == 0.0 and 0 < json.loads(file)["logit_difference"] < 0.05
    command = "ptft eval --run=runs/smollm2 --data=shakespeare:roses --tokens=1000"
    [again] = _run_all([command], tmp_path)
    assert json.loads(measured)["nll"] == pytest.approx(json.loads(again)["nll"], abs=1e-4)
    samples = [json.loads(line) for line in (tmp_path / "runs/smollm2/samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in samples} >= {0} and len(samples) >= 4


@pytest.mark.slow
def test_full_fine_tuning_of_an_open_model(tmp_path):
    """Some steps of the config's other method: every parameter of SmolLM2 moves, and the held-out loss falls."""
    command = "train --config=configs/finetune/smollm2_shakespeare.py:full --config.training.steps=8"
    command += (
        " --config.eval.every=0 --config.eval.tokens=1024 --config.eval.test=False --config.samples.max_new_tokens=16"
    )
    words = [sys.executable, "-m", "ptft_jax.cli", *command.split(), f"--workdir={tmp_path}/run"]
    done = run(*words, XLA_FLAGS="")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["parameters"] == {"trainable": 134_515_008, "frozen": 0}
    assert summary["last"]["validation/nll"] < summary["before"]["validation/nll"] - 0.1


@pytest.mark.heavy
def test_the_demos_experiment(tmp_path):
    """All runs of the demo at toy size; a second launch runs nothing again."""
    command = [sys.executable, "-m", "experiments.transfer", f"--out={tmp_path}/demo", "--size=tiny"]
    done = run(*command, XLA_FLAGS=HURRY)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path}/demo/report.html" in done.stdout
    results = json.loads((tmp_path / "demo/results.json").read_text())
    assert set(results["targets"]) == {"roses", "code"} and len(results["claims"]) > 10
    assert all(len(f["forgetting"]) == 3 for f in results["targets"]["roses"] if f["method"] != "scratch")
    html = (tmp_path / "demo/report.html").read_text()
    assert html.count("<svg") >= 8 and "±" in html
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "demo/runs").glob("*/summary.json")}
    again = run(*command, XLA_FLAGS=HURRY)
    assert again.returncode == 0 and len(before) == 27
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.slow
@pytest.mark.heavy
def test_the_experiment_of_methods(tmp_path):
    """Some ways at toy size: a rate is chosen for each, seeds are grouped, and claims are held against what was run."""
    command = [sys.executable, "-m", "experiments.methods", f"--out={tmp_path}/methods", "--size=tiny", "--seeds=2"]
    command += ["--ways=biases,full,replay 25%"]
    done = run(*command, XLA_FLAGS=HURRY)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "methods/results.json").read_text())
    assert set(results["groups"]) == set(results["best_rate"]) == {"biases", "full", "replay 25%"}
    for way, best in results["best_rate"].items():
        at = LADDER.index(best)
        beside = {f"{rate:g}" for rate in LADDER[max(at - 1, 0) : at + 2]}
        assert beside <= set(results["rates"][way]) and len(results["rates"][way]) >= 3, "the best lies between others"
    assert {"replay forgets less", "the learning rate decides"} <= {claim["said"] for claim in results["claims"]}
    assert len(results["averages"]["wise"]) == 11 and len(results["averages"]["members"]) == 2
    assert (tmp_path / "methods/report.html").read_text().count("<svg") >= 3


def _every_config():
    from configs.finetune import shakespeare as finetune
    from configs.pretrain import characters, objectives
    from configs.pretrain import shakespeare as pretrain
    from ptft_jax.model.presets import FAMILIES

    for size in pretrain.SIZES:
        yield f"pretrain/shakespeare:{size}", lambda a=size: pretrain.get_config(a)
    for size in ["tiny"]:
        for family in (name for name in FAMILIES if FAMILIES[name].get("causal", True)):
            yield f"pretrain/shakespeare:{size},{family}", lambda a=f"{size},{family}": pretrain.get_config(a)
    for objective in objectives.TOKENS:
        yield f"pretrain/objectives:{objective}", lambda a=objective: objectives.get_config(a)
    for recipe in characters.RECIPES:

        def of_16(
            arg=f"{recipe},stdlib:prose",
        ):  # in place of 12 rows a step, which do not divide into the tests' 8 devices
            config = characters.get_config(arg)
            config.data.batch_size = 16
            return config

        yield f"pretrain/characters:{recipe}", of_16
    for method in finetune.METHODS:
        yield f"finetune/shakespeare:{method}", lambda m=method: finetune.get_config(m)


@pytest.mark.heavy
def test_every_config_assembles(tmp_path, monkeypatch):
    for name, make in _every_config():
        config = make()
        if name.startswith("finetune"):
            parent = tmp_path / "parent"
            if not parent.exists():
                tiny = files.recipe("pretrain/shakespeare:tiny")
                tiny.training.steps, tiny.samples.prompts = 0, ()
                tiny.model.max_length = 128
                assembly.train(tiny, parent, reporter=Reporter(quiet=True))
            config.init.from_ = str(parent)
        run = assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
        assert run.trainer.partition.count(True) > 0, name


def test_every_config_file_is_covered():
    files = {str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py"}
    assert files == {
        "pretrain/shakespeare.py",
        "finetune/shakespeare.py",
        "pretrain/text.py",
        "pretrain/objectives.py",
        "pretrain/characters.py",
        "finetune/smollm2_shakespeare.py",
        "finetune/chat.py",  # tests/e2e/test_data.py
        "feedback/reward.py",  # tests/e2e/test_pages.py
        "feedback/process_reward.py",  # tests/e2e/test_process_reward.py
        "feedback/dpo.py",  # tests/e2e/test_pages.py
        "feedback/grpo.py",  # tests/e2e/test_pages.py
        "feedback/ppo.py",  # tests/e2e/test_pages.py
        "feedback/distill.py",  # tests/e2e/test_pages.py
        "feedback/expert_iteration.py",  # tests/e2e/test_pages.py
        "feedback/online_dpo.py",  # tests/e2e/test_own_answers.py
        "feedback/gkd.py",  # tests/e2e/test_pages.py
        "world/pretrain.py",  # tests/world/test_recipes.py
        "world/questions.py",  # tests/world/test_recipes.py
        "images/vit.py",  # tests/e2e/test_pages.py
        "images/mae.py",  # tests/e2e/test_pages.py
        "images/contrast.py",  # tests/e2e/test_pages.py
        "images/transfer.py",  # tests/e2e/test_pages.py
        "images/mnist.py",  # tests/e2e/test_images.py
        "images/describe.py",  # tests/e2e/test_describe.py
        "world/reading.py",  # tests/world/test_recipes.py
    }, "test the new one"


@pytest.mark.parametrize(
    "target",
    ["demo", "test", "test-heavy", "test-full", "live", "buckets", "bench", "beam", "lint", "docs", "install", "clean"],
)
def test_make_knows_its_targets(target):
    done = run("make", "-n", target)
    assert done.returncode == 0, done.stderr


def _anchors(text):
    """Of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = (ROOT / page).parent / file if file else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target.read_text()), link


# docs/data.md

SLOW = "sh"


def _guide(slow):
    """(language, text, what it prints or None) of the blocks that run: Python, and shell commands ("sh" are slow)."""
    found = BLOCK.findall((ROOT / "docs/data.md").read_text())
    for (language, text), after in zip(found, [*found[1:], ("", "")]):
        if language != "text" and (slow or language != SLOW):
            yield language, text, after[1] if after[0] == "text" else None


def _run_block(language, text, folder, **more):
    """Standard output of a block; `more` of its environment."""
    bin = folder / ".bin"
    if not bin.exists():
        bin.mkdir()
        (folder / "configs").symlink_to(ROOT / "configs")
        (bin / "ptft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptft_jax.cli "$@"\n')
        (bin / "ptft").chmod(0o755)
    env = {
        "XLA_FLAGS": "",
        "COLUMNS": "80",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{bin}:{os.environ['PATH']}",
        **more,
    }
    words = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    done = run(*words, cwd=folder, **env)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def _assert_prints(printed, expected):
    """Line by line; in what is expected, "..." stands for anything within a line, or for any lines."""
    pattern = re.escape(expected).replace(re.escape("...") + "\\\n", r"(?:.*\n)*?").replace(re.escape("..."), ".*?")
    assert re.fullmatch(pattern, printed), f"expected:\n{expected}\nprinted:\n{printed}"


@pytest.mark.heavy
def test_the_guide_of_data(tmp_path):
    blocks = list(_guide(slow=False))
    assert len(blocks) >= 7 and sum(expected is not None for *_, expected in blocks) >= 4
    for language, text, expected in blocks:
        printed = _run_block(language, text, tmp_path)
        if expected is not None:
            _assert_prints(printed, expected)
    manifest = json.loads((tmp_path / "prepared/manifest.json").read_text())
    first, notes = manifest["splits"]["train"]["sources"]
    assert first["records"] == first["kept"]["records"] + sum(x["records"] for x in first["lost"].values())
    assert first["lost"] and notes["kept"]["records"]


@pytest.mark.slow
def test_the_guide_of_data_with_its_runs(tmp_path):
    """The blocks that take longer too: runs on mixtures, classes and prepared tokens, one continued."""
    for language, text, expected in _guide(slow=True):
        printed = _run_block(language, text, tmp_path)
        if expected is not None:
            _assert_prints(printed, expected)
    table = json.loads((tmp_path / "runs/met/data.json").read_text())
    assert [row["source"] for row in table] == ["jsonl:chat.jsonl", "jsonl:pairs.jsonl", "text:notes"]
    assert table[1]["drawn"] < table[1]["asked"] * 160 + 2 and sum(row["drawn"] for row in table) == 20 * 8
    summaries = {
        name: json.loads((tmp_path / f"runs/{name}/summary.json").read_text()) for name in ("met", "moods", "part")
    }
    assert {"validation_pairs/nll", "source/nll"} <= set(summaries["met"]["after"])
    assert summaries["part"]["step"] == 12 and "validation/accuracy" in summaries["moods"]["after"]
    assert (tmp_path / "masked.html").read_text().count("<span") > 50
