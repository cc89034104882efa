"""Programs that answers are: what passes, and what they must not be able to do to the machine."""

import os
import pathlib
import threading
import time

import pytest

from ptft_jax.errors import UserError
from ptft_jax.rewards import lockdown
from ptft_jax.rewards.base import Task
from ptft_jax.rewards.lockdown import Limits
from ptft_jax.rewards.programs import Program, program

SHORT = Limits(seconds=10, cpu_seconds=1, memory=256 << 20, output=4096)
ADD = "def add(a, b):\n    return a + b\n"


def task(*references, **record):
    return Task("def add(a, b):\n", references or ("",), record, "code.jsonl, line 4")


def run(code, limits=SHORT, tests="pass", **options):
    return lockdown.run(code, limits, tests=tests, **options)


def test_a_program_passes_its_tests():
    verifier = Program()
    assert verifier.score(ADD, task("assert add(1, 2) == 3"))[:2] == (1.0, "passed")
    assert verifier.score(f"Here it is:\n```python\n{ADD}```\nDone.", task("assert add(1, 2) == 3")).value == 1
    assert verifier.score(ADD, task("assert add(1, 2) == 4"))[:2] == (0.0, "AssertionError")
    assert "SyntaxError" in verifier.score("def add(", task("add(1, 2)")).reason


def test_tests_of_a_column():
    listed = Program(tests="tests")
    assert listed.score(ADD, task(tests=["assert add(1, 2) == 3", "assert add(0, 0) == 0"])).value == 1
    pairs = [{"input": "1 2\n", "output": "3"}, {"input": "4 5\n", "output": "9\n"}]
    code = "a, b = map(int, input().split())\nif __name__ == '__main__':\n    print(a + b)\n    exit()\n"
    assert listed.score(code, task(tests=pairs)).value == 1
    assert listed.score("print(3)", task(tests=pairs))[:2] == (0.0, "test 1: it wrote '3\\n', not '9\\n'")
    completed = Program(tests="tests", with_prompt=True)
    assert completed.score("    return a + b\n", task(tests="assert add(1, 2) == 3")).value == 1


@pytest.mark.parametrize("tests", [None, [], "", "def (", 3, [{"input": "x"}]])
def test_tests_that_are_none_are_refused(tests):
    with pytest.raises(UserError, match="code.jsonl, line 4: column 'tests'"):
        Program(tests="tests").check(task(tests=tests))
    with pytest.raises(UserError, match="code.jsonl, line 4: the reference: no tests"):
        Program().check(task(""))


def test_the_last_block_is_the_program():
    assert program("```\na\n```\nthen\n```py\nb\n```") == "b\n"
    assert program("a = 1") == "a = 1"
    assert program("```python\nnot closed") == "not closed"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("while True: pass", "out of computing time"),
        ("import time; time.sleep(60)", "out of time"),
        ("x = 'a' * (1 << 30)", "MemoryError"),
        ("while True: print('a' * 1000)", "it wrote too much"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import sys; sys.exit(0)", "left with status 0 before its tests"),
        ("import os; os._exit(0)", "left with status 0 before its tests"),
        ("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", ""),
        ("open('big', 'wb').write(b'a' * 10000)", "File too large"),
        ("raise SystemExit('passed')", "passed"),  # what it says of itself counts for nothing
        ("\ud800", ""),
        ("\0", ""),
    ],
)
def test_whatever_it_does_is_an_outcome(code, reason):
    limits = Limits(seconds=0.6, cpu_seconds=1, memory=256 << 20, output=4096) if "sleep" in code else SHORT
    found = run(code, limits)
    assert not found.passed and reason in found.reason


def processes_of(jail):
    """Those that run it, once what was killed has had time to be gone."""

    def left():
        return [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if bytes(jail) in _read(p)]

    deadline = time.monotonic() + 60
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    return left()


def test_nothing_is_left(tmp_path, monkeypatch):
    jail = tmp_path.with_name(f"{tmp_path.name} jail.py")  # its own, as other tests run programs meanwhile
    jail.write_text(lockdown._JAIL.read_text())
    monkeypatch.setattr(lockdown, "_JAIL", jail)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(lockdown.tempfile, "tempdir", None)
    before = set(os.listdir("/proc/self/fd"))
    deep = "import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    assert run(deep).passed
    forks = "import os\nfor _ in range(50):\n    if os.fork() == 0:\n        os.setsid()\n        while True: pass\n"
    marked = f"mark = {str(tmp_path)!r}\n{forks}"
    assert not run(marked).passed
    assert not list(tmp_path.iterdir())
    assert set(os.listdir("/proc/self/fd")) == before
    stats = [_read(p) for p in pathlib.Path("/proc").glob("[0-9]*/stat")]
    children = [stat.rpartition(b") ")[2].split()[:2] for stat in stats]
    assert [b"Z", b"%d" % os.getpid()] not in children
    assert not processes_of(jail)


def _read(path):
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_it_sees_nothing_of_ours(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    found = run("import os\nassert 'SECRET_TOKEN' not in os.environ\nassert sorted(os.environ)[0] == 'HOME'")
    assert found.passed, found.reason
    # Open are its three streams, where it tells that it has ended, and the folder that is listed.
    assert run(
        "import fcntl\ndef ok(n):\n    try: fcntl.fcntl(n, 1); return True\n    except OSError: return False\nassert sum(map(ok, range(64))) <= 4"
    ).passed
    assert run("import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')").passed
    assert run("assert input() == 'given'", given="given\n").passed


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.kill(-1, 0)",
        "import os; os.setsid()",
        "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
        "import os; os.listdir(os.path.expanduser('~root'))",
        "open('/proc/%d/environ' % __import__('os').getppid()).read()",
        "import os; os.unlink(PLACE)",
        "open(PLACE, 'w')",
        "import os; os.chmod(PLACE, 0)",
    ],
)
def test_it_is_shut_in(code, tmp_path):
    if lockdown.open_ways(lockdown.Limits()):
        pytest.skip("the kernel cannot shut programs in")
    place = tmp_path / "ours"
    place.write_text("ours")
    found = run(code.replace("PLACE", repr(str(place))))
    assert not found.passed and ("PermissionError" in found.reason or "FileNotFound" in found.reason), found
    assert place.read_text() == "ours" and place.stat().st_mode & 0o400


def test_where_the_kernel_cannot_shut_it_in_that_is_said_and_its_processes_are_ended(tmp_path, monkeypatch):
    jail = tmp_path / "jail.py"
    jail.write_text(lockdown._JAIL.read_text().replace("shut_calls(library)", "False"))
    monkeypatch.setattr(lockdown, "_JAIL", jail)
    code = "import os\nfor _ in range(5):\n    if os.fork() == 0:\n        while True: pass\n"
    found = run(code)  # of a user who may have more processes they are started, and hold what it writes to
    assert found.open_ways[-2:] == ("the network", "other processes")
    assert not processes_of(jail)


def test_threads_may_be_started():
    code = "import threading\nt = threading.Thread(target=lambda: None)\nt.start()\nt.join()"
    assert run(code).passed


def test_programs_run_beside_each_other():
    found = []
    threads = [threading.Thread(target=lambda: found.append(run("x = 1").passed)) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4 and time.monotonic() - began < 10


@pytest.mark.parametrize(
    "tests",
    [
        "def add(a, b):\n    return a + b\n",  # a solution
        "def check(candidate):\n    assert candidate(1, 2) == 3\n",  # HumanEval's, which somebody has to call
        "['assert add(1, 2) == 3']",  # a list in a text, and no JSON
    ],
)
def test_tests_that_check_nothing_are_refused(tests):
    with pytest.raises(UserError, match="code.jsonl, line 4: the tests of a program pass without any program"):
        Program().check(task(tests))


def test_tests_of_tables_are_lists_in_texts():
    verifier = Program(tests="test")
    known = task(test='["assert add(1, 2) == 3", "assert add(0, 0) == 0"]')
    verifier.check(known)
    assert verifier.score(ADD, known).value == 1 and verifier.score("def add(a, b): return 3", known).value == 0


def test_a_program_is_run_as_it_would_be_elsewhere():
    """Its annotations are evaluated: a name that nobody has imported is an error."""
    assert not run("def f(x: List[int]):\n    return x\n").passed


def test_where_no_program_can_be_run_that_is_said():
    with pytest.raises(UserError, match="not even an empty program can be run here"):
        lockdown.open_ways(lockdown.Limits(memory=1 << 20))
