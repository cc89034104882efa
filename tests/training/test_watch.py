"""A run that does not go on any more says where it is. Whole processes are in tests/e2e/test_processes.py."""

import json
import threading
import time

import jax
import pytest

from ptft_jax.training import watch as watches
from ptft_jax.training.watch import Watch


def stuck_in_here(event):
    assert event.wait(60)


def test_where_it_hangs_is_said(tmp_path):
    said, ended = [], threading.Event()
    watch = Watch(tmp_path, 0.1, said.append, ended.set)
    with watch.watching():
        watch.moved("step 7")
        watch.moved()  # a part of it
        stuck_in_here(ended)
    [text] = said
    assert "nothing has moved for 0.1 s" in text and "process 0 on " in text and " is at step 7:" in text
    assert "behind" not in text and "stuck_in_here" in text
    found = json.loads((tmp_path / "hung/process-0.json").read_text())
    assert found["moves"] == 2 and any("stuck_in_here" in line for line in found["stack"])
    assert "stuck_in_here" in (tmp_path / "hung/process-0.txt").read_text()


def test_it_is_silent_while_something_moves_and_without_a_limit(tmp_path):
    ended = threading.Event()
    for seconds in (0.0, 3600.0):
        with Watch(tmp_path, seconds, pytest.fail, ended.set).watching():
            pass
    watch = Watch(tmp_path, 1.0, pytest.fail, ended.set)
    with watch.watching():
        for _ in range(15):  # longer than the limit, all together
            watch.moved()
            time.sleep(0.1)
    assert not ended.is_set() and not (tmp_path / "hung").exists()


def test_the_one_that_is_behind_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(watches, "_COLLECT", 0.0)
    (tmp_path / "hung").mkdir()
    for process, moves in ((1, 5), (3, 1)):
        found = {"host": f"host-{process}", "moves": moves, "at": f"step {moves}", "stack": ["a.py:1 f", "b.py:2 g"]}
        (tmp_path / f"hung/process-{process}.json").write_text(json.dumps(found))
    said, ended = [], threading.Event()
    watch = Watch(tmp_path, 0.1, said.append, ended.set)
    with watch.watching():
        for step in range(5):
            watch.moved(f"step {step + 1}")
        stuck_in_here(ended)
    lines = [line for line in said[0].splitlines() if line.startswith("  process")]
    assert lines[0] == "  process 2 says nothing: its machine, or the way to its folder, may be gone"
    assert lines[1] == "  process 3 on host-3 is at step 1, behind the others:"
    assert [line.split(" on ")[0] for line in lines[2:]] == ["  process 0", "  process 1"]
    assert not any("behind" in line for line in lines[2:])
