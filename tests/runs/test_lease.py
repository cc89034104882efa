"""One launch at a time writes into a workdir; the dead own nothing."""

import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time

import pytest

from ptft_jax.errors import UserError
from ptft_jax.runs import lease, owner
from ptft_jax.runs.workdir import Workdir
from tests.processes import start

HOLD = """
import sys, time, pathlib
from ptft_jax.runs import lease, owner
with lease.owned(pathlib.Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that owns `tmp_path`/run."""
    one = start(sys.executable, "-c", HOLD, tmp_path / "run")
    while "holds" not in one.written()[0]:
        assert one.process.poll() is None, one.written()
        time.sleep(0.05)
    yield one.process
    one.kill()


def test_a_second_launch_is_refused_and_told_who_is_there(tmp_path, holder):
    with pytest.raises(UserError) as error, lease.owned(tmp_path / "run"):
        raise AssertionError
    for words in (f"process {holder.pid} on {socket.gethostname()}", "One launch at a time", str(tmp_path / "run")):
        assert words in str(error.value)
    assert holder.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_is_none(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    told = []
    with lease.owned(tmp_path / "run", told.append):
        assert json.loads((tmp_path / "run/owner.json").read_bytes())["process"] == os.getpid()
    assert not told, "no waiting on the same machine"


def test_leaving_leaves_nothing(tmp_path):
    with lease.owned(tmp_path / "a/b/run"):
        assert (tmp_path / "a/b/run/owner.json").is_file()
    assert not (tmp_path / "a").exists(), "what was made for nothing is removed"
    with lease.owned(tmp_path / "a/b/run"):
        (tmp_path / "a/b/run/config.json").write_text("{}")
    assert [p.name for p in (tmp_path / "a/b/run").iterdir()] == ["config.json"]
    with pytest.raises(RuntimeError), lease.owned(tmp_path / "a/b/run"):
        raise RuntimeError
    assert [p.name for p in (tmp_path / "a/b/run").iterdir()] == ["config.json"]


def _left(folder, **changes):
    """What a process of another machine leaves behind."""
    folder.mkdir()
    holder = {"host": "other", "machine": "another", "process": 7, "since": "then", "nonce": "n", "beats": 3, **changes}
    Workdir(folder).owner.write_text(json.dumps(holder))
    return holder


def test_of_another_machine_the_heartbeat_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "SILENCE", 0.5)
    _left(tmp_path / "dead")
    told = []
    with lease.owned(tmp_path / "dead", told.append):
        pass
    assert "left by process 7 on other (since then)" in told[0]

    holder, stop = _left(tmp_path / "alive"), threading.Event()

    def beat():
        while not stop.wait(0.02):
            holder["beats"] += 1
            Workdir(tmp_path / "alive").owner.write_text(json.dumps(holder))

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(UserError, match="process 7 on other"), lease.owned(tmp_path / "alive"):
            raise AssertionError
    finally:
        stop.set()
        heart.join()


def test_without_locks_the_heartbeat_decides_on_the_same_machine_too(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(lease, "_BEAT", 0.02)
    monkeypatch.setattr(owner, "SILENCE", 0.5)
    run = tmp_path / "run"
    with lease.owned(run), pytest.raises(UserError, match=f"process {os.getpid()} on"), lease.owned(run):
        raise AssertionError
    _left(tmp_path / "dead", machine=owner.machine())
    with lease.owned(tmp_path / "dead"):
        pass


def test_an_owner_that_leaves_while_another_comes(tmp_path, monkeypatch):
    """The newcomer opened the file that the owner then removes: it must not think that it owns the new one."""
    run = tmp_path / "run"
    first = lease._Lease(run, lambda _: None)
    lock, calls = fcntl.flock, []

    def late(file, how):
        calls.append(file)
        if len(calls) == 1:
            first.release()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = lease._Lease(run, lambda _: None)
    assert len(calls) == 2, "it opened the file again"
    with pytest.raises(UserError):
        lease._Lease(run, lambda _: None)
    second.release()


@pytest.mark.parametrize("make", [lambda p: p.write_text(""), lambda p: p.parent.joinpath("file").write_text("")])
def test_no_folder_can_be_there(tmp_path, make):
    path = tmp_path / "file"
    make(path)
    with pytest.raises(UserError, match="--workdir="), lease.owned(path / "run" if path.is_file() else path):
        raise AssertionError
    with pytest.raises(UserError, match="is a file"), lease.owned(path):
        raise AssertionError
