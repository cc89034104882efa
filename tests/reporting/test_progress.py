"""What a log file shows of a run while it goes on."""

import pytest

from ptft_jax.reporting import progress


@pytest.mark.parametrize("seconds, shown", [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")])  # fmt: skip
def test_times_for_people(seconds, shown):
    assert progress._span(seconds) == shown


def test_a_log_says_how_far_it_is_and_how_long_it_takes(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Reporter() as reporter:
        task = reporter.start("run", 50)
        for step in (1, 2, 11, 21, 50):
            now[0] = 100.0 + 2 * (step - 1)  # two seconds per step
            reporter.advance(task, step, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert [line.rstrip() for line in lines if line.startswith("run")] == [
        "run  1/50  loss 1",
        "run  11/50  loss 11  1 min left",  # 39 steps of two seconds
        "run  21/50  loss 21  58 s left",
        "run  50/50  loss 50",
    ]
