"""What nodes of test graphs call, in this process or in one of their own."""

import os
import pathlib
import signal
import sys
import time


def add(folder, *parts, of=(), number=0, **_):
    """The sum of a number and of what other nodes wrote."""
    found = number + sum(float((pathlib.Path(place) / "sum.txt").read_text()) for place in of)
    (folder / "sum.txt").write_text(repr(found))
    with (folder / "times.txt").open("a") as f:
        f.write("x")
    return {"sum": found}


def fail(folder, unless=""):
    """Fails until there is a file `unless`."""
    if not pathlib.Path(unless).exists():
        raise ValueError("no luck")
    return add(folder)


def kill(folder, times=1, number=0, tries=""):
    """Ends its process the first times that it is called, as a machine that is taken away does; `tries`: where these are counted."""
    tries = pathlib.Path(tries or folder / "tries.txt")
    with tries.open("a") as f:
        f.write("x")
    if len(tries.read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(folder, number=number)


def give(folder, what):
    """Something that a table or JSON has no easy place for, or an end of the whole process."""
    if what == "exit":
        sys.exit(0)
    if what == "end":
        print("this is why", flush=True)
        os._exit(3)
    return {"keys": {("a", 1): 2}, "path": folder, "infinite": {"runs": 7, "loss": float("inf")}}[what]


def memory(folder):
    """Has not enough memory."""
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.\nmore")


def wait(folder, until, number=0):
    """Says that it began, and ends when there is a file `until`."""
    (folder / "began").touch()
    while not pathlib.Path(until).exists():
        time.sleep(0.02)
    return add(folder, number=number)


def measure(folder, **figures):
    """Figures; nothing but a failure where one of them is missing."""
    if None in figures.values():
        raise ValueError("no figure")
    return figures
