"""Several JAX processes on one run: the numbers of a single process, one set of files, one decision, one position."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from ptft_jax.data import batches
from tests.e2e.test_data import resumable
from tests.helpers import ROOT

STEPS = 12
CONFIG = """
from tests.e2e import test_processes

def get_config(event=""):
    if event:
        test_processes.happen(event)
    return test_processes.config({text!r}, {chat!r})
"""


def config(text_file, chat):
    """Packed conversations and text by changing weights, dropout, parameters and average split over pairs of devices."""
    made = resumable(text_file, chat, model__dropout=0.1, parallel__fsdp=2, eval__every=6, data__prefetch=0)
    made.checkpoint.keep_latest = STEPS
    made.training.ema_decay = 0.9
    made.samples.update(prompts=("say 3",), max_new_tokens=8, every=6, temperature=0.8)
    return made


def happen(event):
    """Lets something happen to this process: sigterm@STEP, kill@STEP, error@STEP or nan@STEP, when it reads that batch."""
    what, _, at = event.partition("@")
    read_batch = batches.Batches.__getitem__

    def patched(self, step):
        batch = read_batch(self, step)
        if step == int(at):
            if what == "error":
                raise OSError("the disk of this process is gone")
            if what == "nan":
                return batch | {"weights": np.full_like(batch["weights"], np.nan)}
            os.kill(os.getpid(), {"sigterm": signal.SIGTERM, "kill": signal.SIGKILL}[what])
        return batch

    batches.Batches.__getitem__ = patched


class Launched:
    """`ptft train` in `processes` processes that have four devices together, each with an event or none."""

    def __init__(self, file, workdir, processes, events=None):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 // processes}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.processes = []
        for number in range(processes):
            event = (events or {}).get(number)
            words = [f"--config={file}{':' + event if event else ''}", f"--workdir={workdir}"]
            if processes > 1:
                words += [f"--coordinator={coordinator}", f"--processes={processes}", f"--process={number}"]
            command = [sys.executable, "-m", "ptft_jax.cli", "train", *words]
            self.processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )

    def ended(self, timeout=300):
        """(exit status, what it wrote) of each."""
        deadline = time.monotonic() + timeout
        try:
            texts = [p.communicate(timeout=max(deadline - time.monotonic(), 0.1))[0] for p in self.processes]
            return [(p.returncode, text) for p, text in zip(self.processes, texts)]
        finally:
            for p in self.processes:
                p.kill()
