"""The commands as a user types them: fast help, real output, one clear message for bad input."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from tests.processes import PATIENCE, ROOT, ptft, run


@pytest.fixture(scope="module")
def base(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    ptft(*_train(text_file), "--workdir", folder / "base", check=True)
    return folder / "base"


def _train(text_file, *more):
    return [
        "train", f"--config=configs/pretrain/text.py:{text_file}", "--config.model.width=32", "--config.model.layers=1",
        "--config.training.steps=6", "--config.optimizer.warmup_steps=1", "--config.eval.every=3", "--config.eval.tokens=500",
        *more,
    ]  # fmt: skip


def test_help_is_fast_and_names_every_verb():
    done = ptft("--help", check=True)
    from ptft_jax.cli import VERBS

    assert all(verb in done.stdout for verb in VERBS)
    # What makes it fast, on any machine: nothing but the standard library is imported.
    probe = (
        "import sys\nbefore = set(sys.modules)\n"
        "from ptft_jax import cli\nsys.argv = ['ptft', '--help']\ncli.main()\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert run(sys.executable, "-c", probe).stdout.splitlines()[-1] == "['ptft_jax']"


@pytest.mark.parametrize("verb", ["train", "eval", "generate", "chat", "report", "compare", "doctor"])
def test_each_verb_has_help_both_ways(verb):
    command = ptft(verb, "--help", check=True)
    module = run(sys.executable, "-m", f"ptft_jax.{verb}", "--help")
    assert module.returncode == 0 and module.stdout.splitlines()[2:] == command.stdout.splitlines()[2:]
    assert "\n  --" in command.stdout and "python -m ptft_jax" in command.stdout


@pytest.mark.heavy
def test_eval_prints_json_and_generate_text(base, text_file):
    values = json.loads(ptft("eval", f"--run={base}@best", check=True).stdout)
    summary = json.loads((base / "summary.json").read_text())
    assert values["nll"] == pytest.approx(summary["after"]["validation/nll"], abs=0.05)  # that one used 500 tokens
    other = json.loads(ptft("eval", f"--run={base}", "--data=stdlib:prose", "--tokens=300", check=True).stdout)
    assert other["data"] == "stdlib:prose" and other["nll"] > values["nll"]
    words = ["generate", f"--run={base}@best", "--prompt=the cat", "--max_new_tokens=20", "--temperature=0"]
    text = ptft(*words, check=True).stdout
    assert text.startswith("the cat") and len(text) > 10
    row = json.loads(ptft(*words, "--json", check=True).stdout)
    assert row["prompt"] + row["text"] == text.rstrip("\n") and row["tokens"] == 20
    for guessed in ([f"--draft={base}", "--draft_tokens=2"], ["--lookup=3"]):
        assert json.loads(ptft(*words, "--json", *guessed, check=True).stdout) == row
    stop = row["text"][4:6]
    cut = json.loads(ptft(*words, "--json", f"--stop={stop}", check=True).stdout)
    assert cut["reason"] == "stop" and cut["text"] == row["text"][: row["text"].index(stop)]


@pytest.mark.heavy
def test_chat_answers_at_a_terminal_and_of_flags(base):
    words = [f"--run={base}", "--template=chatml", "--temperature=0", "--max_new_tokens=12"]
    row = json.loads(ptft("chat", *words, "--message=hi", "--json", check=True).stdout)
    assert row["user"] == "hi" and row["tokens"] == 12
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ptft_jax.cli", "chat", *words]
    environment = {**os.environ, "XLA_FLAGS": "", "TERM": "dumb"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""  # decoded as a whole: a read may end within a letter

    def until(prompts):
        nonlocal written
        end = time.monotonic() + PATIENCE
        while written.count(b"> ") < prompts:
            assert time.monotonic() < end, written
            if select.select([ours], [], [], 1)[0]:
                written += os.read(ours, 4096)

    try:
        for number, line in enumerate(["/rest", "/system Be kind.", "word " * 30, "/reset", "hi"], 1):
            until(number)
            os.write(ours, line.encode() + b"\n")
        until(6)
        seen = written.decode(errors="replace")
        assert "no command /rest (did you mean '/reset'?)" in seen and "the model sees at most 128" in seen
        assert seen.split("> hi\r\n")[1].split("\r\n> ")[0].replace("\r", "") == row["assistant"]
        os.write(ours, b"\x04")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.heavy
def test_report_of_runs(base, tmp_path):
    out = tmp_path / "report.html"
    done = ptft("report", f"--run={base}", f"--out={out}", check=True)
    assert str(out) in done.stdout
    html = out.read_text()
    assert "<svg" in html and "validation/nll" in html
    assert not re.search(r"(src|href)=.http", html), "the page must need nothing else"
    assert json.loads((tmp_path / "results.json").read_text())["base"]["evals"]


@pytest.mark.heavy
def test_doctor(tmp_path):
    done = ptft("doctor", "--offline", check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and all(line.startswith("ok") for line in lines), done.stdout


@pytest.mark.heavy
def test_a_module_verb_trains_and_continues(text_file, tmp_path):
    words = [*_train(text_file)[1:], f"--workdir={tmp_path}/run"]
    command = [sys.executable, "-m", "ptft_jax.train", *words]
    first = run(*command)
    assert first.returncode == 0, first.stderr
    again = run(*command)
    assert again.returncode == 0 and "finished before" in again.stderr


BAD = {
    "no verb": (["trian"], "no verb 'trian' (did you mean 'train'?)"),
    "no config": (["train", "--workdir=x"], "--config is missing"),
    "no workdir": (["train", "--config=configs/pretrain/shakespeare.py:tiny"], "--workdir is missing"),
    "missing config file": (["train", "--config=configs/nothing.py", "--workdir=x"], "configs/nothing.py"),
    "unknown size": (["train", "--config=configs/pretrain/shakespeare.py:tinny", "--workdir=x"], "did you mean 'tiny'?"),
    "unknown family": (["train", "--config=configs/pretrain/shakespeare.py:tiny,lama", "--workdir=x"], "'llama'"),
    "unknown field": (["train", "--config=configs/pretrain/shakespeare.py:tiny", "--config.optimizer.lr=1", "--workdir=x"], "did you mean"),
    "unknown flag": (["train", "--workdirr=x"], "Unknown command line flag 'workdirr'"),
    "stray word": (["train", "runs/base"], "unexpected argument 'runs/base'"),
    "mistyped": (["train", "--config=configs/pretrain/shakespeare.py:tiny", "--config.training.steps=many", "--workdir=x"], "training.steps"),
    "impossible": (["train", "--config=configs/pretrain/shakespeare.py:tiny", "--config.model.heads=3", "--workdir=x"], "a multiple of model.heads"),
    "unread": (["train", "--config=configs/pretrain/shakespeare.py:tiny", "--config.tune.lora.rank=2", "--workdir=x"], "nothing in this run reads it"),
    "unknown dataset": (["train", "--config=configs/pretrain/shakespeare.py:tiny", "--config.data.source=tfds:tiny_shakespear", "--workdir=x"], "did you mean 'tiny_shakespeare'"),
    "wrong parent": (["train", "--config=configs/finetune/shakespeare.py:full", "--config.init.from=configs", "--workdir=x"], "is not the workdir of a run"),
    "folder that cannot be": (["train", "--config=configs/pretrain/text.py:README.md", "--workdir=README.md/run"], "README.md"),
    "eval without run": (["eval"], "--run is missing"),
    "eval of nothing": (["eval", "--run=nowhere"], "--run = 'nowhere': no such folder"),
    "report of nothing": (["report", "--run=tests"], "no run there"),
    "compare nothing": (["compare"], "which runs?"),
    "compare what is no run": (["compare", "tests", "docs", "--csv"], "no run there"),
    "chat without run": (["chat"], "--run is missing"),
    "generate without prompt": (["generate", "--run=x"], "--prompt is missing"),
}  # fmt: skip


# Those that get far before they fail; and of these some whose words other tests look at without a process.
LATE = ("wrong parent", "folder that cannot be", "chat without run", "compare what is no run")
SAID_ELSEWHERE = ("unread", "impossible", "unknown dataset", "eval of nothing")
TIERS = {**dict.fromkeys(LATE, pytest.mark.heavy), **dict.fromkeys(SAID_ELSEWHERE, pytest.mark.slow)}


@pytest.mark.parametrize("name", [pytest.param(n, marks=TIERS.get(n, ())) for n in BAD])
def test_bad_input_gives_one_message_and_status_2(name, tmp_path):
    words, expected = BAD[name]
    done = ptft(*[w.replace("--workdir=x", f"--workdir={tmp_path}/run") for w in words])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and expected in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_a_mistake_in_a_config_file_is_located(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ptft_jax import config\n\n\ndef get_config():\n    c = config.default()\n    c.modle = 3\n    return c\n"
    )
    done = ptft("train", f"--config={file}", f"--workdir={tmp_path}/run")
    assert done.returncode == 2 and "mine.py:6" in done.stderr and "modle" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.heavy
def test_a_full_disk_loses_nothing(text_file, tmp_path):
    """Files may not grow beyond 40 KiB from the second launch on: saving fails, and what was saved stays."""
    words = _train(text_file, f"--workdir={tmp_path}/run", "--config.log.tensorboard=False")
    ptft(*words, "--max_seconds=0.001", check=True)
    command = f"{sys.executable} -m ptft_jax.cli " + " ".join(map(str, words))
    # By a pipe: what it says would go to a file, too.
    done = run("bash", "-c", f"(ulimit -f 40; exec {command}) 2>&1 | cat; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 2, done.stdout
    assert "saving failed" in done.stdout and "run the same command again" in done.stdout
    ptft(*words, check=True)
    assert json.loads((tmp_path / "run/summary.json").read_text())["step"] == 6


@pytest.mark.slow
@pytest.mark.heavy
def test_a_locale_that_knows_ascii_alone(tmp_path):
    """As in a bare container: accented text is trained on, sampled, exported, and generated."""
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = tmp_path / "text.txt"
    text.write_text("Ça va très bien, naïve élève: 数学 и слово.\n" * 200, encoding="utf-8")
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from ptft_jax import config\n\ndef get_config():\n    c = config.default()\n"
        "    c.model.update(layers=1, width=16, heads=2, max_length=32)\n    c.data.update(length=32, batch_size=4)\n"
        "    c.tokenizer.update(kind='bpe', vocab_size=290)\n    c.samples.update(prompts=('très',), max_new_tokens=8)\n"
        "    c.training.steps = 2\n    c.log.tensorboard = False\n    return c\n",
        encoding="utf-8",
    )
    run, exported = tmp_path / "run", tmp_path / "hf"
    words = ("train", f"--config={recipe}", f"--config.data.source=text:{text}", f"--workdir={run}")
    ptft(*words, cache=tmp_path / "cache", check=True, **bare)
    samples = (run / "samples.jsonl").read_text(encoding="utf-8")
    assert json.loads(samples.splitlines()[0])["prompt"] == "très"
    ptft("export", f"--run={run}", "--to=hf", f"--out={exported}", cache=tmp_path / "cache", check=True, **bare)
    ptft("report", f"--run={run}", cache=tmp_path / "cache", check=True, **bare)
    written = ptft(
        "generate",
        f"--run=hf:{exported}",
        "--prompt=a",
        "--max_new_tokens=8",
        cache=tmp_path / "cache",
        check=True,
        **bare,
    )
    assert written.stdout and not written.stderr.count("Traceback")
