"""Answers whose steps have labels: where a step ends, which are right, and records that do not say so."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import builders, filling, pipeline, source_splits, stepped, store, store_writer
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.examples import Encoded
from ptft_jax.data.formats.steps import StepsEncoder
from ptft_jax.errors import UserError
from ptft_jax.verbs.data import view

RECORDS = [
    {"prompt": f"{n}?", "completions": ["a" * (1 + (n + k) % 4) for k in range(1 + n % 3)], "labels": [(n + k) % 2 > 0 for k in range(1 + n % 3)]}
    for n in range(30)
]  # fmt: skip


def rows_of(folder, records=RECORDS, length=32, **data):
    path = folder / "steps.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    section = configs.check({"data": {"source": f"jsonl:{path}", "length": length, **data}, "objective": {"name": "process_reward"}})  # fmt: skip
    builder = builders.build(section.objective, tok.ByteTokenizer(), True)
    tokens = source_splits.tokenized(section.data, section.data.source, "train", tok.ByteTokenizer(), builder.kinds)
    return filling.filled(section.data, tokens, builder, partial=False).rows


def read(row):
    """{text of an answer with its prompt: [(its text up to the end of a step, whether that is right)]}."""
    found = {}
    for segment in range(1, row["segments"].max() + 1):
        where = np.flatnonzero(row["segments"] == segment)
        text = bytes(row["inputs"][where].tolist()).decode()
        ends = [k for k, at in enumerate(where) if row["weights"][at]]
        found[text] = [(text[: k + 1], bool(row["right"][where[k]])) for k in ends]
    return found


@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_each_step_has_its_own_label_however_answers_lie(packing, tmp_path, cache):
    rows, found, most = rows_of(tmp_path, packing=packing), {}, 0
    for index in range(len(rows)):
        row = rows.row(index)
        assert not (row["right"] & (row["weights"] == 0)).any() and "targets" not in row
        found |= read(row)
        most = max(most, row["segments"].max())
    assert (most > 1) == (packing == "best_fit")
    expected = {}
    for record in RECORDS:
        text, steps = record["prompt"], []
        for step, label in zip(record["completions"], record["labels"]):
            text += step + "\n"
            steps.append((text, label))
        expected[text] = steps
    assert found == {text: expected[text] for text in found} and len(found) > 20
    assert rows.learned() == sum(map(len, found.values()))
    shown = view.row(rows.row(0), tok.ByteTokenizer(), rows.builder)
    assert {token.answer for token in shown if token.part == "hidden"} <= {"right", "wrong"}


def test_parts_that_are_joined_keep_their_steps(tmp_path):
    """As processes that tokenize beside each other have it."""
    encoded = [Encoded(np.arange(4), np.array([0, 1, 0, 1], bool), right=right) for right in ((1,), (), (1, 3))]
    for number, examples in enumerate((encoded[:2], encoded[2:])):
        part = store_writer.Writer(tmp_path / str(number), 8)
        part.add(examples, range(len(examples)))
        part.close("x")
    whole = store_writer.Writer(tmp_path / "whole", 8)
    for number in range(2):
        whole.take(tmp_path / str(number))
    whole.close("x")
    found = store.load(tmp_path / "whole")
    assert found.right.tolist() == [1, 9, 11] and found.first(8, cut=False).right.tolist() == [1]
    assert store.load(tmp_path / "0").right.tolist() == [1]
    with_none = store_writer.Writer(tmp_path / "none", 8)
    with_none.add([Encoded(np.arange(4))], [0])
    with_none.close("x")
    assert not (tmp_path / "none/right.bin").exists() and not len(store.load(tmp_path / "none").right)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"labels": [True]}, "line 2.: column 'labels' has 1 labels: expected one for each of the 2 steps"),
        ({"labels": [1, -1]}, r"line 2.: labels\[1\] is -1: expected true of a right step"),
        ({"completions": ["a", " "]}, r"line 2.: completions\[1\] = ' ': a step without anything in it"),
        ({"completions": ["a", "b\nc"]}, r"line 2.: completions\[1\]: a step is one line"),
        ({"completions": [], "labels": []}, r"line 2.: column 'completions' is \[\]: expected a list of steps"),
        ({"completions": "a"}, "line 2."),
    ],
    ids=str,
)
def test_records_that_do_not_say_which_steps_are_right(wrong, words, tmp_path, cache):
    record = {"prompt": "x?", "completions": ["a", "b"], "labels": [True, False], **wrong}
    with pytest.raises(UserError, match=words):
        every = [record | {"prompt": f"{n}?"} for n in range(6)]  # whichever of them are held out
        rows_of(tmp_path, [*RECORDS[:20], *every, *RECORDS[26:]])


def test_answers_are_not_cut_before_a_step(tmp_path, cache):
    for data, field in (({"packing": "concat"}, "packing"), ({"overlong": "split"}, "overlong")):
        with pytest.raises(UserError, match=f"config.data.{field} = .*a step is read after all that comes before it"):
            rows_of(tmp_path, **data)
    short = rows_of(tmp_path, length=8, overlong="truncate", untrainable="drop")
    assert short.learned() and all(text.endswith("\n") for row in map(short.row, range(len(short))) for steps in read(row).values() for text, _ in steps)  # fmt: skip


@pytest.mark.parametrize("label, word", [(True, "right"), (False, "wrong")])
def test_steps_that_are_all_alike_teach_nothing(label, word, tmp_path, cache):
    sets = [rows_of(tmp_path, [{**record, "labels": [said] * len(record["labels"])} for record in RECORDS]) for said in (label, not label)]  # fmt: skip
    stepped.refuse_alike(sets, "config.data.mixture")  # which has both kinds
    section = configs.check({"data": {"source": f"jsonl:{tmp_path}/steps.jsonl", "length": 32}, "objective": {"name": "process_reward"}})  # fmt: skip
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps({**r, "labels": [label] * len(r["labels"])}) + "\n" for r in RECORDS))  # fmt: skip
    with pytest.raises(UserError, match=rf"config.data.source: all \d+ steps of the training rows are {word}"):
        pipeline.training(section.data, tok.ByteTokenizer(), builders.build(section.objective, tok.ByteTokenizer(), True), steps=1, seed=0)  # fmt: skip


def test_steps_are_tokenized_apart():
    """As a model that is asked for the score of each step as it is written sees them."""

    class Joining(tok.ByteTokenizer):
        def encode_all(self, texts, special=False):
            return [np.asarray([len(text)], np.int32) for text in texts]

    encoder = StepsEncoder(None, Joining(), "", "assistant")
    encoder.format = type("F", (), {"control_tokens": False})
    [row] = encoder.joined(["ask"], [["four", "no"]], [[0, 1]], ["x"])
    assert row.ids.tolist() == [3, 4, 1, 2, 1] and row.trained.tolist() == [False, False, True, False, True]
    assert row.right == (4,)
