"""Processes that tests start: none outlives its test, and what hangs says where. Imports nothing heavy, as worker
processes import the tests that import this."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Seconds after which a process is taken to hang. No test is about time: many times what the slowest one takes on a machine
# that has other work to do.
PATIENCE = 1800
# XLA_FLAGS of processes with many programs that each run for a moment: the compiler is told to hurry, as in conftest.py.
HURRY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclasses.dataclass
class Started:
    """A process that was started by `start`, and where its output goes: files, as nobody reads it while it runs."""

    process: subprocess.Popen
    output: tuple

    def kill(self):
        """Ends it and all that it started, unless it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def written(self):
        """What it wrote to standard output and standard error so far."""
        for file in self.output:
            file.seek(0)
        return tuple(file.read() for file in self.output)


def start(*command, cwd=ROOT, **env):
    """Starts a command, with these changes of the environment. To be waited for by `ended`."""
    output = tuple(tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace") for _ in range(2))  # noqa: SIM115
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1", **env}  # where it was, if it has to be aborted
    # A group of its own, so that what it starts can be ended too.
    process = subprocess.Popen(
        [*map(str, command)], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output[0], stderr=output[1],
        start_new_session=True,
    )  # fmt: skip
    return Started(process, output)


def ended(*started, timeout=PATIENCE):
    """How processes end, each as subprocess.run gives it. None is alive afterwards, whatever happens; where one has not ended
    in time, all say where they are and AssertionError says that."""
    deadline = time.monotonic() + timeout
    try:
        try:
            for one in started:
                one.process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            for one in started:
                if one.process.poll() is None:
                    os.killpg(one.process.pid, signal.SIGABRT)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        one.process.wait(10)
                    with contextlib.suppress(ProcessLookupError):  # what it started may have outlived it
                        os.killpg(one.process.pid, signal.SIGKILL)
            texts = "\n".join(text for one in started for text in one.written())
            raise AssertionError(
                f"no end after {timeout} s: {[one.process.args for one in started]}\n{texts}"
            ) from None
        return [
            subprocess.CompletedProcess(one.process.args, one.process.returncode, *one.written()) for one in started
        ]
    finally:
        for one in started:
            one.kill()


def run(*command, timeout=PATIENCE, **options):
    """Runs a command to its end; options as for `start`."""
    return ended(start(*command, **options), timeout=timeout)[0]


@contextlib.contextmanager
def coordinator():
    """HOST:PORT for process 0 of several. The port is held meanwhile, so that nobody else is given it before that process
    listens there, which it may: servers of gRPC share ports."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as held:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def ptft(*words, cache=None, devices=1, timeout=PATIENCE, check=False, **env):
    """Runs `python -m ptft_jax.cli WORDS` as a user would, in a process of its own."""
    environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", **env}
    if cache is not None:
        environment["PTFT_CACHE"] = str(cache)
    done = run(sys.executable, "-m", "ptft_jax.cli", *words, timeout=timeout, **environment)
    if check and done.returncode:
        raise AssertionError(f"{done.args} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
