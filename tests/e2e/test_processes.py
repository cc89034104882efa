"""Several JAX processes on one run: the numbers of a single process, one set of files, one decision, one position."""

import json
import os
import shutil
import sys
import time

import numpy as np
import pytest

from ptft_jax.data import batches
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, checkpoint
from tests.e2e import test_rollouts
from tests.e2e.test_data import conversations, resumable
from tests.helpers import TIMED
from tests.processes import ROOT, coordinator, ended, start

pytestmark = pytest.mark.slow  # a dozen processes, each of which starts JAX

STEPS = 12
HUNG = 90  # seconds: many times what the longest compilation takes
CONFIG = """
from tests import helpers
from tests.e2e import test_processes

def get_config(event=""):
    if event:
        helpers.happen(event)
    return test_processes.config({text!r}, {chat!r})
"""


def config(text_file, chat):
    """Packed conversations and text by changing weights, dropout, parameters and average split over pairs of devices."""
    made = resumable(text_file, chat, model__dropout=0.1, parallel__fsdp=2, eval__every=6, data__prefetch=0)
    made.checkpoint.keep_latest = STEPS
    made.training.ema_decay = 0.9
    made.samples.update(prompts=("say 3",), max_new_tokens=8, every=6, temperature=0.8)
    return made


def launched(file, workdir, processes, events=None, words=None):
    """(exit status, what it wrote) of each of `processes` processes of `ptft train` that have four devices together, each
    with an event or none."""
    env = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // processes}"
    with coordinator() as place:
        started = []
        for number in range(processes):
            event = (events or {}).get(number)
            given = [f"--config={file}{':' + event if event else ''}", f"--workdir={workdir}"]
            if processes > 1:
                given += [f"--coordinator={place}", f"--processes={processes}", f"--process={number}"]
            given += (words or {}).get(number, ())
            started.append(start(sys.executable, "-m", "ptft_jax.cli", "train", *given, **env))
        return [(one.returncode, one.stdout + one.stderr) for one in ended(*started)]


@pytest.fixture(scope="module")
def whole(text_file, tmp_path_factory):
    """The same run by one process and by two, never disturbed: a folder with "one", "two", and the config's file."""
    folder = tmp_path_factory.mktemp("processes")
    chat = conversations(folder / "chat.jsonl")
    (folder / "config.py").write_text(CONFIG.format(text=str(text_file), chat=str(chat)))
    for name, count in (("one", 1), ("two", 2)):
        for status, text in launched(folder / "config.py", folder / name, count):
            assert status == 0, text
    return folder


OWN = """
from tests.e2e import test_rollouts

def get_config():
    return test_rollouts.policy_config(
        {folder!r}, {source!r}, **test_rollouts.RANDOM, objective__policy__updates=2, training__steps=4, eval__every=4,
        parallel__fsdp=2, data__prefetch=0,
    )
"""


def test_two_processes_learn_from_answers_as_one(tmp_path):
    """They sample the same answers, one of them scores, and they learn the same of them; what is kept is in one set of files."""
    source = test_rollouts.questions(tmp_path / "questions")
    (tmp_path / "config.py").write_text(OWN.format(folder=str(tmp_path), source=str(source)))
    for name, count in (("one", 1), ("two", 2)):
        for status, text in launched(tmp_path / "config.py", tmp_path / name, count):
            assert status == 0, text
    one, two = (test_rollouts.rollouts(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 2
    assert [[row["ids"] for row in rows] for _, *rows in one] == [[row["ids"] for row in rows] for _, *rows in two]
    for ours, theirs in zip(*(test_rollouts.kept(tmp_path / name) for name in ("two", "one")), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=2e-4, abs=2e-5)
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))


def rows(workdir):
    """{(kind, step): metrics} of a run, each of which it must have written once."""
    found = Workdir(workdir).read_metrics()
    steps = [(row.pop("kind"), row.pop("step")) for row in found]
    assert sorted(s for s in steps if s[0] == "train") == [("train", s) for s in range(1, STEPS + 1)]
    assert len(set(steps)) == len(steps)
    return {key: {k: v for k, v in row.items() if k not in TIMED} for key, row in zip(steps, found)}


def assert_same(ours, theirs):
    """Equal up to the order in which float32 numbers are added up."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], rel=2e-5, abs=2e-5), key


def sums(workdir):
    return checkpoint.read_meta(workdir, STEPS)["checksums"]


def test_two_processes_are_as_good_as_one(whole):
    assert_same(rows(whole / "two"), rows(whole / "one"))
    assert Workdir(whole / "two").read_samples() == Workdir(whole / "one").read_samples()
    assert len(Workdir(whole / "two").read_samples()) == 3
    assert sorted(os.listdir(whole / "two")) == sorted(os.listdir(whole / "one"))
    made = [json.loads((whole / name / "environment.json").read_text()) for name in ("one", "two")]
    assert [m["processes"] for m in made] == [1, 2] and [len(m["devices"]) for m in made] == [4, 4]
    ours, theirs = (json.loads((whole / name / "summary.json").read_text()) for name in ("two", "one"))
    for part in ("before", "after", "last"):
        assert ours[part] == pytest.approx(theirs[part], rel=2e-5, abs=2e-5) and ours[part]


def test_sigterm_to_one_stops_all_and_any_number_of_processes_continues(whole, tmp_path):
    file = whole / "config.py"
    (first, told), (second, silent) = launched(file, tmp_path / "two", 2, {1: "sigterm@6"})
    assert (first, second) == (143, 143), told + silent
    [stopped] = Workdir(tmp_path / "two").steps()[-1:]
    assert 6 < stopped < STEPS and f"stopped by sigterm at step {stopped}" in told and "stopped" not in silent
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    for count, name in ((2, "two"), (1, "one")):
        for number, (status, text) in enumerate(launched(file, tmp_path / name, count)):
            assert status == 0 and (f"continuing from step {stopped}" in text) == (number == 0), text
    assert sums(tmp_path / "two") == sums(whole / "two") and rows(tmp_path / "two") == rows(whole / "two")
    assert_same(rows(tmp_path / "one"), rows(whole / "one"))


def test_two_processes_continue_what_one_began(whole, tmp_path):
    """As if it had been killed after step 7, whose checkpoint was damaged since: all go back to the one before."""
    shutil.copytree(whole / "one", tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    for step in range(8, STEPS + 1):
        shutil.rmtree(tmp_path / "run/checkpoints" / str(step))
    files = [p for p in (tmp_path / "run/checkpoints/7/params").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    (first, text), (second, _) = launched(whole / "config.py", tmp_path / "run", 2)
    assert (first, second) == (0, 0) and "continuing from step 6" in text, text
    assert "checkpoint 7 is damaged" in text and os.listdir(tmp_path / "run/checkpoints-damaged") == ["7"]
    assert_same(rows(tmp_path / "run"), rows(whole / "one"))


def test_numbers_that_are_none_in_one_process_stop_all(whole, text_file, tmp_path):
    """Also shows that the batch as a whole is that of a single process, bit for bit."""
    ended = launched(whole / "config.py", tmp_path / "run", 2, {1: "nan@3"})
    for status, text in ended:
        assert status == 2 and "step 4: the loss or its gradient is not finite" in text, text
    run = assembly.Run(config(text_file, whole / "chat.jsonl"), tmp_path / "other", Reporter(quiet=True))
    alone = batches.Batches(run.data.sets, run.data.mixture, batch_size=8, seed=run.config.seed, process=0, processes=1)
    with np.load(tmp_path / "run/nonfinite_step_4.npz") as saved:
        expected = alone[3]
        assert set(saved) == set(expected)
        assert np.isnan(saved["weights"][4:]).all()
        np.testing.assert_array_equal(saved["weights"][:4], expected["weights"][:4])
        for name in set(expected) - {"weights"}:
            np.testing.assert_array_equal(saved[name], expected[name])


def test_a_process_that_fails_takes_the_others_with_it(whole, tmp_path):
    (first, text), (second, failed) = launched(whole / "config.py", tmp_path / "run", 2, {1: "error@3"})
    assert first != 0 and second == 2
    assert "error: the disk of this process is gone" in failed and "Traceback" not in failed.partition("error:")[0]
    assert not (tmp_path / "run/summary.json").exists() and text


def test_processes_that_see_different_folders_are_refused_before_anything_starts(whole, tmp_path):
    began = time.monotonic()
    ended = launched(whole / "config.py", tmp_path / "run", 2, words={1: [f"--workdir={tmp_path / 'other'}"]})
    for status, text in ended:
        assert status == 2 and "process 1 does not see there what process 0 wrote" in text, text
    assert not any(tmp_path.rglob("config.json")) and not any(tmp_path.rglob("checkpoints"))
    assert time.monotonic() - began < 600, "60 seconds of looking, and two processes that start JAX"


def test_processes_with_different_settings_are_refused(whole, tmp_path):
    for status, text in launched(whole / "config.py", tmp_path / "run", 2, words={1: ["--config.seed=5"]}):
        assert status == 2, text
        assert "process 1 was started with something else than process 0:\n  config.seed: 0 -> 5" in text


def test_one_that_hangs_is_named_and_the_same_command_goes_on(whole, tmp_path):
    """On other numbers of processes and another mesh, to the numbers of a single process."""
    file, watched = whole / "config.py", [f"--hung_seconds={HUNG}"]
    ended = launched(file, tmp_path / "run", 2, {1: "hang@6"}, {0: watched, 1: watched})
    assert [status for status, _ in ended] == [143, 143], ended
    text = ended[0][1]
    # The other may be at the same step, where it waits for numbers of this one.
    hangs = text[text.index("process 1 on ") :].splitlines()
    assert any("wait" in line for line in hangs[1:5]), text
    assert sorted(path.name for path in (tmp_path / "run/hung").glob("*.json")) == ["process-0.json", "process-1.json"]
    [saved] = Workdir(tmp_path / "run").steps()[-1:]
    mesh = {number: ["--config.parallel.fsdp=1"] for number in range(4)}
    for number, (status, text) in enumerate(launched(file, tmp_path / "run", 4, words=mesh)):
        assert status == 0 and (f"continuing from step {saved}" in text) == (number == 0), text
    assert_same(rows(tmp_path / "run"), rows(whole / "one"))


def test_one_that_is_killed_ends_all_and_fewer_go_on(whole, tmp_path):
    """By the service that joins them, whose heartbeat it misses."""
    ended = launched(whole / "config.py", tmp_path / "run", 2, {1: "kill@6"})
    assert ended[1][0] == -9 and ended[0][0] not in (0, -9), ended
    assert not (tmp_path / "run/summary.json").exists()
    (status, text) = launched(whole / "config.py", tmp_path / "run", 1, words={0: ["--config.parallel.fsdp=4"]})[0]
    assert status == 0 and "continuing from step" in text, text
    assert_same(rows(tmp_path / "run"), rows(whole / "one"))


def test_each_goes_on_from_the_disk_of_its_own_machine(whole, tmp_path):
    """From the newest step that all have, with the bits of a run that was never disturbed; else from the workdir."""
    disk, run, file = (
        tmp_path / "disk",
        tmp_path / "run",
        whole / "config.py",
    )  # of one machine here, in which each has a folder
    local = [f"--config.checkpoint.local={disk}", "--config.checkpoint.local_every=2", "--config.checkpoint.every=6"]
    words = {number: local for number in range(2)}
    ended = launched(file, run, 2, {0: "kill@11"}, words)
    assert ended[0][0] == -9, ended
    folders = [next(disk.glob(f"*/process-{number}-of-2")) for number in range(2)]
    saved = max(
        set(Workdir(folders[0]).steps()) & set(Workdir(folders[1]).steps())
    )  # 10, or 8 where that was being saved
    assert Workdir(run).steps()[-1] == 6 < saved
    (status, text), _ = launched(file, run, 2, words=words)
    assert status == 0 and "is newer than in the workdir" in text and f"continuing from step {saved}" in text, text
    assert sums(run) == sums(whole / "two")
    assert_same(rows(run), rows(whole / "two"))
    assert not any(folder.exists() for folder in folders)


def test_processes_with_different_versions_or_data_are_refused(whole, text_file, tmp_path):
    """By name, before the first step."""
    text = (whole / "config.py").read_text()
    for name, changed, said in (
        (
            "versions",
            f"from ptft_jax import environment\nreal = environment.versions()\nenvironment.versions = lambda: real | {{'jax': '0.0.1'}}\n{text}",
            "version of jax: ",
        ),
        ("data", text.replace(repr(str(text_file)), repr(str(tmp_path / "data.txt"))), "training data: "),
    ):
        (tmp_path / "data.txt").write_text(text_file.read_text() + "More.\n" * 40)
        (tmp_path / f"{name}.py").write_text(changed)
        for status, heard in launched(
            whole / "config.py", tmp_path / name, 2, words={1: [f"--config={tmp_path / name}.py"]}
        ):
            assert status == 2 and "process 1 was started with something else than process 0:" in heard, heard
            assert said in heard, heard
        assert not (tmp_path / name / "config.json").exists()


IMAGES = """

import ptft_jax as pt

def get_config():
    config = pt.recipe("images/vit:images:{arrays}")
    config.model.update(layers=1, width=16, heads=2, image_size=8, patch_size=4, max_length=5, classes=2, dropout=0.0)
    config.data.augment.shift = 0
    config.data.batch_size = 8
    config.optimizer.warmup_steps = 0
    config.training.steps = 2
    config.eval.every = 2
    config.parallel.fsdp = 2
    return config
"""


def test_images_beside_what_is_made_of_them_are_those_of_one_process(tmp_path):
    """All processes look, and one writes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "arrays.npz", images=images, labels=(images.mean((1, 2, 3)) > 127).astype(np.int64))
    file, shown = tmp_path / "config.py", []
    file.write_text(IMAGES.format(arrays=tmp_path / "arrays.npz"))
    for count in (1, 2):
        for status, text in launched(file, tmp_path / f"run{count}", count):
            assert status == 0, text
        lines = (tmp_path / f"run{count}/pictures.jsonl").read_text().splitlines()
        shown.append([json.loads(line) for line in lines])
    assert {row["kind"] for row in shown[0]} == {"example", "mistake"}
    for one, two in zip(*shown, strict=True):
        for name in ("probability", "attention", "rollout"):
            np.testing.assert_allclose(two.pop(name), one.pop(name), rtol=1e-4)
        assert one == two
