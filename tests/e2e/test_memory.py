"""What a run holds in arrays when it starts, resumes and goes back to its best step: its state, once."""

import gc
import pathlib
import sys
import threading
import time

import jax
import pytest

from ptft_jax.reporting.clock import Clock
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs.saving import Checkpoints
from ptft_jax.runs.tiers import Tiers
from ptft_jax.training import assembly
from ptft_jax.training.execution import Execution
from tests.helpers import quiet_train, tiny_config
from tests.processes import run as run_process


class Peak:
    """The most bytes that all arrays had together meanwhile, looked at every millisecond."""

    def __enter__(self):
        gc.collect()
        self.bytes, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.is_set():
            held = sum(a.nbytes for a in jax.live_arrays() if not a.is_deleted())
            self.bytes = max(self.bytes, held)
            time.sleep(0.001)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def _config(text_file, parent=""):
    made = tiny_config(
        text_file, model__width=384, model__heads=4, model__layers=4, training__steps=2, eval__every=1, eval__tokens=64,
        optimizer__warmup_steps=0, checkpoint__keep_latest=2, training__ema_decay=0.0 if parent else 0.5,
    )  # fmt: skip
    if parent:
        made.init.from_, made.tune.method = parent, "lora"
    return made


def measure(text_file, folder):
    """In a process of its own: what others left behind is not counted."""
    folder = pathlib.Path(folder)
    full, lora = folder / "full", folder / "lora"
    for workdir, parent in ((full, ""), (lora, str(full))):
        config = _config(text_file, parent)
        for what in ("start", "resume"):
            run = assembly.Run(config, workdir, Reporter(quiet=True))
            with (
                Peak() as peak,
                Checkpoints(workdir, mode="min", **run.checkpoint_options) as saved,
                Tiers(run.local, workdir, "min", saved) as tiers,
            ):
                state, step, _ = Execution(run, 0, Clock())._resume_or_start(saved, tiers, lambda: None)
            size = sum(a.nbytes for a in jax.tree.leaves(state))
            assert size > 20e6 and step == (0 if what == "start" else 2)
            assert peak.bytes < 1.1 * size, f"{what} of {workdir}: {peak.bytes / size:.2f} times the state"
            if what == "resume":
                with Peak() as peak:
                    back = Execution(run, 0, Clock())._at(state, 1)
                assert peak.bytes < 1.1 * size, f"best of {workdir}: {peak.bytes / size:.2f} times the state"
                del back
            del state, run
            if what == "start":
                quiet_train(config, workdir)
    print("measured")


@pytest.mark.heavy
def test_a_state_is_held_once(text_file, tmp_path):
    code = "import sys; from tests.e2e.test_memory import measure; measure(*sys.argv[1:])"
    done = run_process(sys.executable, "-c", code, text_file, tmp_path, XLA_FLAGS="")
    assert done.returncode == 0 and "measured" in done.stdout, done.stderr
