"""The page of the benchmarks, from what was measured: figures by hand, and what is void or absent is said."""

import re

from benchmarks import page

ON = {
    "processor": "a processor", "cores": 2, "system": "Linux", "device": "cpu", "python": "3.11.9", "revision": "0123456789+",
    "packages": {"jax": "0.10.2", "torch": "-"},
}  # fmt: skip
RAN = {"machine": ON, "load": [0.1, 1.2], "tiny": False}


def side(seconds, holds=True):
    return {"seconds": seconds, "check": {"logits": 0.0 if holds else 0.5, "losses": 0.0, "holds": holds}}


def cells(text, first):
    """The cells of the row that begins with `first`."""
    [row] = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_a_ratio_is_of_the_fastest_valid_peer():
    sides = {"scanned": side(0.5), "unrolled": side(0.25), "PyTorch": side(0.4), "PyTorch, compiled": side(0.1, False)}
    absent = {"TRL SFTTrainer": "the package trl is not installed"}
    found = {"sides": sides, "absent": absent, "void": ["PyTorch, compiled"], "best": "PyTorch", "ratios": {}}
    text, figures = page.render({"4x128": found | RAN})
    _, scanned, unrolled, best, others = cells(text, "4 layers of 128")
    assert (scanned, unrolled, best) == ("0.80", "1.60", "PyTorch") and others == "PyTorch, compiled 4.00 (void)"
    assert "TRL SFTTrainer was not measured: the package trl is not installed" in text
    assert "PyTorch, compiled is void, as it computes something else: logits differ by 5.0e-01" in text
    assert (
        cells(text, "4x128")[1:3] == ["a processor, 2 cores, cpu", "0.1, 1.2"]
        and cells(text, "4x128")[4] == "012345678+"
    )
    assert figures["training"].startswith("<svg")


def test_without_a_valid_peer_nothing_is_claimed():
    sides = {"scanned": side(0.5), "unrolled": side(0.25), "PyTorch": side(0.4, False)}
    text, figures = page.render(
        {"124M": {"sides": sides, "absent": {}, "void": ["PyTorch"], "best": "", "ratios": {}} | RAN}
    )
    assert cells(text, "GPT-2 124M")[1:4] == ["void", "void", "none"] and "training" not in figures


def test_growth_is_relative_to_the_first_point():
    points = [
        {"x": n, "seconds": s, "compile": c, "bytes": b} for n, s, c, b in ((2, 0.1, 3, 200e6), (8, 0.4, 3, 500e6))
    ]
    text, figures = page.render({"growth-layers": {"points": {"scanned": points}} | RAN})
    assert [cells(text, name)[1:] for name in ("a step", "compiling", "memory")] == [
        ["1.00", "4.00", "0.1 s"], ["1.00", "1.00", "3 s"], ["1.00", "2.50", "200 MB"],
    ]  # fmt: skip
    assert f"](figures/benchmarks-{next(iter(figures))}.svg)" in text


def test_what_was_not_measured_is_said():
    text, figures = page.render({})
    titles = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert text.count(page.NOT_YET) == 5 + len(titles) and len(titles) == 11 and not figures


def test_decoding_is_their_time_over_ours():
    row = {
        "case": "batch 1",
        "ours_ms": 2.0,
        "peer_ms": 5.0,
        "ratio": 2.5,
        "ours_prompt_ms": 4.0,
        "peer_prompt_ms": 3.0,
    }
    text, _ = page.render({"decoding-batch-1": {"decoding": row} | RAN})
    assert cells(text, "batch 1")[1:] == ["2.50", "0.75"]


def test_a_save_is_a_share_of_a_hundred_steps():
    saving = {"step": 0.5, "stall": 0.4, "slowed": 1.0, "written": 20.0, "bytes": 1.5e9, "parameters": 124e6}
    text, _ = page.render({"saving": {"saving": saving} | RAN})
    found = [cells(text, name)[1:] for name in ("training waits", "steps that run", "until it is on disk and")]
    assert found == [["0.40", "0.80%"], ["1.00", "2.00%"], ["20.00", "40.00%"]]
    assert "a step takes less than 200 ms" in text and "124 million" in text and "1.50 GB" in text


def test_input_is_a_share_of_a_step():
    row = {"drained": 0.001, "drained_many": 0.0128, "step": 0.05, "extra": 0.0005}
    plain = {"drained": 0.002, "drained_many": 0.0256, "step": 0.05, "extra": -0.0001}
    text, _ = page.render({"input": {"input": {"ptft_jax, packed": row, "plain Grain": plain}} | RAN})
    assert cells(text, "ptft_jax, packed")[1:] == ["+1.00%", "0.20%", "0.50", "0.50"]  # a step of 2,048 rows: 6.4 s
    assert cells(text, "plain Grain")[1:3] == ["-0.20%", "0.40%"]


def test_seconds_of_a_start():
    start = {"cold": {"import": 2.0, "trace": 3.0, "saving": 5.0}, "warm": {"import": 2.0, "trace": 3.0, "saving": 0.0}}
    text, _ = page.render({"start": {**start, "help": 0.123} | RAN})
    assert cells(text, "no cache")[1:] == ["10.0", "100%", "20%", "30%"] and "takes 0.12 seconds" in text
    assert cells(text, "caches full")[1:] == ["5.0", "50%", "40%", "60%"]
