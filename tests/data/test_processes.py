"""Processes that share work end with the one that started them, and say so when they are ended."""

import os
import signal
import sys
import time

import pytest

from ptft_jax.data import processes
from ptft_jax.errors import UserError
from tests.processes import PATIENCE, start


def double(number):
    return 2 * number


def end(number):
    os.kill(os.getpid(), signal.SIGKILL)


def wait(path):
    with open(path, "a", encoding="utf-8") as f:
        f.write(f"{os.getpid()}\n")
    time.sleep(2 * PATIENCE)


def fail_or_write(path, fails):
    started, written = path / "started", path / "written"
    if fails:
        while not started.exists():
            time.sleep(0.01)
        raise ValueError("this one fails")
    started.touch()
    time.sleep(1)
    written.touch()


def test_when_one_fails_no_other_goes_on_writing(tmp_path):
    with pytest.raises(ValueError, match="this one fails"):
        list(processes.mapped(fail_or_write, [tmp_path] * 2, [True, False], count=2, setting="x"))
    assert (tmp_path / "written").exists()


def test_results_come_in_order():
    assert list(processes.mapped(double, range(9), count=2, setting="x")) == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_a_process_that_is_ended_is_told():
    with pytest.raises(UserError, match="a worker process was ended, .* try fewer with data.workers"):
        list(processes.mapped(end, range(2), count=2, setting="data.workers"))


def test_they_end_when_their_parent_is_killed(tmp_path):
    noted = tmp_path / "pids"
    program = (
        "from ptft_jax.data import processes\nfrom tests.data.test_processes import wait\n"
        f"if __name__ == '__main__':\n    list(processes.mapped(wait, [{str(noted)!r}], count=1, setting='x'))\n"
    )
    until, worker = time.monotonic() + PATIENCE, None
    parent = start(sys.executable, "-c", program)
    try:
        while not (noted.exists() and noted.read_text().endswith("\n")):
            assert parent.process.poll() is None and time.monotonic() < until, parent.written()
            time.sleep(0.05)
        worker = int(noted.read_text())
        parent.process.kill()  # alone: not what it started
        parent.process.wait()
        while _lives(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _lives(worker)
    finally:
        parent.kill()
        if worker is not None and _lives(worker):
            os.kill(worker, signal.SIGKILL)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:  # a zombie, where nobody collects orphans
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
