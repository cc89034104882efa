"""The first SIGTERM asks, the second ends; whatever the main thread is doing."""

import signal
import sys
import threading
import time

import pytest

from ptft_jax.training.termination import Termination
from tests.processes import start

# In C, where no handler of Python's can run, for many minutes: as a process that waits for others that never come.
BUSY = """
import hashlib, threading, time
from ptft_jax.training.termination import Termination

with Termination() as termination:
    def tell():
        print("ready", flush=True)
        while not termination.asked:
            time.sleep(0.02)
        print("asked", flush=True)
    threading.Thread(target=tell, daemon=True).start()
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)
"""


def _written(one, word):
    while word not in one.written()[0]:
        assert one.process.poll() is None, one.written()
        time.sleep(0.02)


def test_a_process_that_never_looks_ends_at_the_second():
    one = start(sys.executable, "-c", BUSY)
    try:
        _written(one, "ready")
        one.process.send_signal(signal.SIGTERM)
        _written(one, "asked")
        time.sleep(0.2)
        assert one.process.poll() is None, "once is a question"
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(60) == 143
    finally:
        one.kill()


def test_it_leaves_signals_as_they_were():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    with Termination() as termination:
        assert not termination.asked
        signal.raise_signal(signal.SIGTERM)
        assert termination.asked
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before
    with Termination() as termination:
        assert not termination.asked
    assert "sigterm" not in [thread.name for thread in threading.enumerate()]


def test_other_threads_get_no_signals():
    found = []

    def run():
        with Termination() as termination:
            found.append(termination.asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]
    with pytest.raises(ValueError), Termination():
        raise ValueError


def test_what_an_experiment_heard_before_or_only_within_is_lost_to_nobody():
    class Experiment:
        def __init__(self):
            self.signals = []

        def __call__(self, number, _):
            self.signals.append(number)

    heard = Experiment()
    before = signal.signal(signal.SIGTERM, heard)
    try:
        with Termination():
            signal.raise_signal(signal.SIGTERM)
        assert heard.signals == [signal.SIGTERM], "also where the run never looked again"
        with Termination() as termination:
            assert termination.asked
        assert heard.signals == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
