"""Metrics on disk survive kills; plots and pages are what they say."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ptft_jax.errors import UserError
from ptft_jax.reporting import plots
from ptft_jax.reporting.metrics import MetricsWriter
from ptft_jax.reporting.page import Page
from ptft_jax.runs.files import read_rows


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False, step=-1)
    for step in range(6):
        writer.write(step, "train", {"loss": step / 2})
    writer.sample(5, {"prompt": "é", "text": "x"})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as f:
        f.write('{"step": 6, "ki')  # a kill in the middle of a line
    MetricsWriter(tmp_path, tensorboard=False, step=3).close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert read_rows(tmp_path / "samples.jsonl") == []


def test_texts_with_any_line_end_survive_a_kill(tmp_path):
    texts = ["a\u2028b", "a\u2029b", "a\u0085b", "a\x1cb\x0bc\x0cd", "a\r\nb\rc\nd", "é"]
    writer = MetricsWriter(tmp_path, tensorboard=False, step=-1)
    for step, text in enumerate(texts):
        writer.sample(step, {"text": text})
    writer.close()
    path = tmp_path / "samples.jsonl"
    assert [row["text"] for row in read_rows(path)] == texts
    path.write_bytes(path.read_bytes() + '{"step": 9, "text": "é'.encode()[:-1])  # a kill within a character
    MetricsWriter(tmp_path, tensorboard=False, step=9).close()  # rewrites what was read
    assert [row["text"] for row in read_rows(path)] == texts


def test_tensorboard_reads_the_same_values(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=True, step=-1)
    writer.write(3, "eval", {"validation/nll": 1.5})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/validation/nll")] == [(3, 1.5)]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["validation/nll"] == 1.5


def test_plots_are_reproducible_text():
    draw = lambda: plots.curves({"a": [[(0, 1.0), (1, 0.5)]], "b": [[(0, 2.0), (1, 1.0)]]}, title="T", x="x", y="y")  # noqa: E731
    assert draw() == draw() and draw().startswith("<svg") and ">T<" in draw()


def test_pages_escape_what_a_model_wrote(tmp_path):
    page = Page("t", "l")
    page.sample("s", "<b>", "<script>alert(1)</script>")
    page.table([{"a": 1234567, "b": 0.5, "c": True}])
    page.write(tmp_path / "p.html", footer="f")
    html = (tmp_path / "p.html").read_text()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "1,234,567" in html and "0.500" in html and ">yes<" in html


def test_a_damaged_line_is_named_and_a_torn_end_is_not_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b'{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UserError, match="metrics.jsonl, line 2: is damaged"):
        read_rows(path)
