"""How processes are joined, and that a single one needs none of it. Whole runs are in tests/e2e/test_processes.py."""

import json
import sys
import time

import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.parallel import mesh, processes
from tests.processes import PATIENCE, coordinator, ended, start

PROGRAM = """
import json, sys
import numpy as np
from ptft_jax.errors import UserError
from ptft_jax.parallel import processes

number = int(sys.argv[2])
processes.join(sys.argv[1], "2", number)
agreed = processes.Agreed()
found = {
    "main": processes.main(),
    "gathered": processes.gather({"of": "x" * number, "float": 0.1 + number}),
    "shared": processes.shared(["first", "second"][number]),
    "agreed": [agreed(n * number) for n in (0, 2, 1, 0, 0)],
    "rows": processes.all_rows({"tokens": np.arange(6).reshape(3, 2) + 6 * number})["tokens"].tolist(),
}
processes.check_same({"config.seed": 1})
try:
    processes.check_same({"config.seed": 1, "config.name": "ab"[number]})
except UserError as e:
    found["refused"] = str(e)
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "given, message",
    [
        ({"processes": "two"}, "--processes=two: expected a number"),
        ({"processes": "0", "process": 0}, "--processes=0: expected a number"),
        ({"processes": "2"}, "--process is missing: expected the number of this process, from 0 to 1"),
        ({"processes": "2", "process": 2}, "--process = 2: expected"),
        ({"process": 1}, "need --processes"),
        ({"coordinator": "localhost:1"}, "need --processes"),
    ],
)
def test_settings_that_do_not_fit_together(given, message):
    with pytest.raises(UserError, match=message):
        processes.join(**given)


def test_alone():
    processes.join()
    assert processes.main() and not processes.joined()
    assert processes.gather({"a": (1,)}) == [{"a": (1,)}] and processes.shared(float("inf")) == float("inf")
    processes.check_same({"a": 1})
    agreed = processes.Agreed()
    assert [agreed(0), agreed(2), agreed(1)] == [0, 2, 1]
    rows = {"tokens": np.arange(6).reshape(3, 2)}
    assert processes.all_rows(rows)["tokens"] is rows["tokens"]


def test_a_mesh_keeps_the_devices_of_a_process_together():
    class Device:
        device_kind = platform = "cpu"

        def __init__(self, process_index, number):
            self.process_index, self.id = process_index, number

    # As on a slice of 4 x 4 chips with 2 x 2 on a host: the numbers run over the rows of the whole slice.
    devices = [Device((n // 8) * 2 + (n % 4) // 2, n) for n in range(16)]
    found = mesh.make(0, 4, devices).devices
    assert [d.process_index for d in found.flat] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert [d.id for d in found[0].flat] == [0, 1, 4, 5]


def test_two_agree():
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    with coordinator() as place:
        done = ended(*(start(sys.executable, "-c", PROGRAM, place, number, **env) for number in range(2)))
    assert not any(one.returncode for one in done), done
    first, second = (json.loads(one.stdout.splitlines()[-1]) for one in done)
    assert first.pop("main") and not second.pop("main") and first == second
    assert first["gathered"] == [{"of": "", "float": 0.1}, {"of": "x", "float": 1.1}] and first["shared"] == "first"
    assert first["agreed"] == [0, 0, 2, 1, 0]  # what the second said a call before
    assert first["rows"] == np.arange(12).reshape(6, 2).tolist()
    assert "process 1 was started with something else than process 0:\n  config.name: 'a' -> 'b'" in first["refused"]


LOST = """
import os, signal, sys, time
from ptft_jax.parallel import processes

number = int(sys.argv[2])
processes.join(sys.argv[1], "2", number)
processes.gather(number)
if number == 0:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(1000)
"""


def test_a_coordinator_that_is_lost_is_named():
    with coordinator() as place:
        first, second = (start(sys.executable, "-c", LOST, place, number) for number in range(2))
        done = ended(first, second)
        deadline = time.monotonic() + PATIENCE
        while "process 1 on " not in (text := second.written()[1]) and time.monotonic() < deadline:
            time.sleep(0.1)  # by what looks after it, and outlives it for a moment
    assert done[0].returncode == -9 and done[1].returncode == -6, done
    said = text[text.index("process 1 on ") :]
    assert f"process 0, the coordinator at {place}, does not answer any more" in said and "The same command" in said
