"""What a verb does when nobody reads its output to the end, as of `ptft config --fields | head`."""

import os
import subprocess
import sys

import pytest

from ptft_jax.verbs import output


@pytest.mark.heavy
@pytest.mark.parametrize("words, status", {"--help": 0, "data --help": 0, "config --fields": output.UNREAD}.items())
def test_nothing_is_said_when_nobody_reads(words, status):
    end, writer = os.pipe()
    os.close(end)
    done = subprocess.run(
        [sys.executable, "-m", "ptft_jax.cli", *words.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == status
