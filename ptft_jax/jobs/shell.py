"""Commands of other tools: run and read, followed line by line, or only printed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence

from ptft_jax.errors import UserError

_FROM = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "kubectl": "gcloud components install kubectl gke-gcloud-auth-plugin",
    "sbatch": "this is no machine of a SLURM cluster: log in to one",
}


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str = ""
    err: str = ""

    @property
    def said(self) -> str:
        return self.err + self.out


class Left(Exception):
    """A shell was asked to run nothing more."""


class Shell:
    """Runs commands, or with `dry` prints them."""

    def __init__(self, say: Callable[[str], None], dry: bool = False):
        self.say, self.dry = say, dry
        self._over = False
        self._followed: subprocess.Popen[str] | None = None

    def end(self) -> None:
        """From another thread: what is followed is ended, and what is asked for from now on raises Left."""
        self._over = True
        if self._followed is not None:
            _kill(self._followed)

    def needs(self, program: str) -> None:
        """Raises UserError where a program is not installed."""
        if not self.dry and shutil.which(program) is None:
            raise UserError(f"{program} is not installed, or not on the PATH: {_FROM[program]}")

    def run(self, words: Sequence[str]) -> Done:
        """What a command says, once it has ended. In a group of its own: Ctrl-C is for this process."""
        self._check()
        if self.dry:
            self.say(f"$ {shlex.join(words)}")
            return Done(0)
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def follow(self, words: Sequence[str], line: Callable[[str], None]) -> Done:
        """As `run`; each line of its output goes to `line` as it comes, and is not kept."""
        if self.dry:
            return self.run(words)
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
            subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            self._followed = process
            try:
                self._check()
                for text in process.stdout:
                    line(text.rstrip("\n"))
                status = process.wait()
                self._check()
            except BaseException:
                _kill(process)
                raise
            finally:
                self._followed = None
            errors.seek(0)
            return Done(status, "", errors.read())

    def _check(self) -> None:
        if self._over:
            raise Left


def _kill(process: subprocess.Popen[str]) -> None:
    """gcloud, and the ssh that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
