"""Printing to whoever reads, or no longer does. Imports nothing but the standard library: `ptft --help` needs it."""

from __future__ import annotations

import contextlib
import os
import select
import sys

UNREAD = 128 + 13  # exit status where nobody reads standard output any more, as a shell has it after SIGPIPE


def printed(text: str) -> None:
    """Prints a text, whether or not anybody reads all of it."""
    with contextlib.suppress(BrokenPipeError):
        print(text)
    unread()


def unread() -> bool:
    """Whether nobody reads standard output any more, as after `| head`; what is left of it then goes nowhere."""
    try:
        sys.stdout.flush()
        closed = _has_no_reader(sys.stdout.fileno())
    except BrokenPipeError:
        closed = True
    except (OSError, ValueError):  # no file at all, as in a notebook
        return False
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
    return closed


def _has_no_reader(descriptor: int) -> bool:
    """Whether it is a pipe whose other end is closed."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
