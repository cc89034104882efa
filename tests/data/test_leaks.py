"""No text stands on both sides of a run: divided together, or counted, said, refused or left out."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import builders, overview, pipeline, survey
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.prepare import engines, shard_writing
from ptft_jax.data.prepare.settings import Settings
from ptft_jax.errors import UserError
from tests.data.records import sides, writing

BYTES = tok.ByteTokenizer()


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def texts(first, last, **more):
    return [{"text": f"text {n}", **more} for n in range(first, last)]


def training(**data):
    section = configs.check({"data": {"length": 16, "batch_size": 8, "overlong": "split", **data}})
    builder = builders.build(section.objective, BYTES)
    return pipeline.training(section.data, BYTES, builder, steps=2, seed=0)


def trained(found, index=0):
    """The texts that are trained on."""
    store = found.sets[index].store
    pieces = (store.ids[a : b - 1].tolist() for a, b in zip(store.offsets, store.offsets[1:]))
    return [bytes(piece).decode() for piece in pieces]


def test_columns_that_are_not_read_divide_nothing(cache, tmp_path):
    """The same 50 texts eight times, each row with a url of its own."""
    rows = [{"url": f"http://x/{i}", "text": f"text {i % 50}"} for i in range(400)]
    parts = writing.opened(lines(tmp_path / "x.jsonl", rows))
    said = {split: {r["text"] for r in records} for split, records in parts.items()}
    assert not said["train"] & said["validation"] and not said["train"] & said["test"]
    assert sum(map(len, parts.values())) == 400 and sum(map(len, said.values())) == 50


SAME = {
    "text": lambda n: {"text": f"question {n}"},
    "another column": lambda n: {"body": f"question {n}", "stars": n},
    "class": lambda n: {"text": f"question {n}", "label": n % 2},
    "pair": lambda n: {"prompt": f"ask {n}", "completion": f"answer {n}"},
    "question": lambda n: {"id": f"q{n}", "question": f"ask {n}", "answer": f"answer {n}"},
    "alpaca": lambda n: {"instruction": f"ask {n}", "input": "", "output": f"answer {n}"},
    "messages": lambda n: {"messages": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": f"answer {n}"}]},
    "sharegpt": lambda n: {"conversations": [{"from": "human", "value": f"ask {n}"}, {"from": "gpt", "value": f"answer {n}"}]},
    "messages as JSON": lambda n: {"messages": json.dumps(SAME["messages"](n)["messages"])},
    "system message": lambda n: {"messages": [{"role": "system", "content": "be brief"}, *SAME["messages"](n)["messages"]]},
    "column of system messages": lambda n: {**SAME["messages"](n), "system": "be brief"},
    "beside sharegpt": lambda n: {**SAME["sharegpt"](n), "system": "be brief"},
    "beside messages as JSON": lambda n: {**SAME["messages as JSON"](n), "system": "be brief"},
    "system message twice": lambda n: {**SAME["system message"](n), "system": "be brief"},
    "beside a prompt": lambda n: {
        "prompt": SAME["messages"](n)["messages"][:1], "completion": SAME["messages"](n)["messages"][1:], "system": "be brief",
    },
    "ids": lambda n: {"input_ids": [n, n + 1]},
    "ids as JSON": lambda n: {"input_ids": f"[{n},{n + 1}]"},
    "ids and labels": lambda n: {"input_ids": [n, n + 1], "labels": [-100, n + 1]},
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_is_said_decides_the_side_in_every_layout(cache, tmp_path, name):
    """So that the same question is on one side of a mixture, whichever source it is from."""
    rows = [SAME[name](n) for n in range(100)]
    parts = writing.opened(lines(tmp_path / "x.jsonl", rows))
    said = {"text": ("question {}",), "another column": ("question {}",), "class": ("question {}",)}
    forms = said.get(name) or (("[{}, {}]",) if "ids" in name else ("ask {}", "answer {}"))
    if any("be brief" in str(value) for value in rows[0].values()):
        forms = ("be brief", *forms)
    expected = [sides.of(0.1, *(form.format(n, n + 1) for form in forms)) for n in range(100)]
    for split, records in parts.items():
        assert [r for r in records] == [row for row, side in zip(rows, expected) if side == split]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "text"])
def test_sources_of_a_mixture_are_divided_alike(cache, tmp_path, kind):
    rows = texts(0, 200)
    if kind == "text":
        for n, row in enumerate(rows):
            (tmp_path / "other").mkdir(exist_ok=True)
            (tmp_path / f"other/{n}.txt").write_text(row["text"])
        other = f"text:{tmp_path}/other"
    else:
        _, suffix, encode = writing.FILES[kind]
        (tmp_path / f"other{suffix}").write_bytes(encode([{**row, "n": n} for n, row in enumerate(rows[::-1])]))
        other = f"{kind}:{tmp_path}/other{suffix}"
    source = lines(tmp_path / "x.jsonl", texts(100, 300))
    found = training(mixture=((source, 1.0), (other, 1.0)), leaks="raise")  # which refuses nothing
    train = {*trained(found, 0), *trained(found, 1)}
    assert train == {f"text {n}" for n in range(300) if sides.of(0.1, f"text {n}") == "train"}
    assert "leaks" not in found.table[0]


def test_a_text_of_a_validation_file_in_train_is_counted_said_refused_or_left_out(cache, tmp_path):
    folder = tmp_path / "data"
    lines(folder / "x_train.jsonl", texts(0, 60))
    lines(folder / "x_validation.jsonl", texts(55, 70))
    lines(folder / "x_test.jsonl", texts(58, 65))
    found = training(source=f"jsonl:{folder}")
    [row] = found.table
    assert row["leaks"] | {"first": 0} == {"records": 5, "texts": 5, "ids": 0, "first": 0, "dropped": False}
    assert row["leaks"]["first"][0] == (
        f"{folder}/x_train.jsonl, line 56: says what {folder}/x_validation.jsonl, line 1 says"
    )
    assert len(trained(found)) == 60 and len(row["leaks"]["first"]) == 5
    assert any(
        "5 records of train stand in validation or test data, 5 by their text" in x
        for x in overview.announced(found.table)
    )
    with pytest.raises(
        UserError, match=r"data.leaks = 'raise': 5 records .* 'drop' leaves them out.*\n  .*x_train.jsonl, line 56"
    ):
        training(source=f"jsonl:{folder}", leaks="raise")
    dropped = training(source=f"jsonl:{folder}", leaks="drop")
    assert trained(dropped) == [f"text {n}" for n in range(55)] and dropped.table[0]["leaks"]["dropped"]
    assert dropped.key != found.key and dropped.tokens < found.tokens
    lines(folder / "x_train.jsonl", texts(0, 55))
    clean = training(source=f"jsonl:{folder}", leaks="drop")
    assert clean.key == dropped.key and "leaks" not in clean.table[0]


def test_ids_that_stand_in_both(cache, tmp_path):
    folder = tmp_path / "data"
    lines(folder / "train.jsonl", [{"id": f"a{n}", "text": f"train {n}"} for n in range(30)])
    lines(folder / "validation.jsonl", [{"id": f"a{n}", "text": f"validation {n}"} for n in range(27, 40)])
    lines(folder / "test.jsonl", [{"id": "b", "text": "train 4"}])
    found = training(source=f"jsonl:{folder}").table[0]["leaks"]
    assert (found["records"], found["texts"], found["ids"]) == (4, 1, 3)
    assert found["first"][1] == f"{folder}/train.jsonl, line 28: has the id of {folder}/validation.jsonl, line 1"
    kept = training(source=f"jsonl:{folder}", leaks="drop")
    assert trained(kept) == [f"train {n}" for n in range(27) if n != 4]
    found = training(source=f"jsonl:{folder}?id=-").table[0]["leaks"]
    assert (found["records"], found["texts"], found["ids"]) == (1, 1, 0)


def test_a_source_of_a_mixture_in_what_another_is_measured_on(cache, tmp_path):
    first = tmp_path / "first"
    lines(first / "train.jsonl", texts(0, 40))
    lines(first / "test.jsonl", texts(100, 110))
    second = lines(tmp_path / "second.jsonl", texts(90, 150))
    mixture = ((f"jsonl:{first}", 1.0), (second, 2.0))
    found = training(mixture=mixture)
    assert "leaks" not in found.table[0]
    here = [n for n in range(100, 110) if sides.of(0.1, f"text {n}") == "train"]
    assert found.table[1]["leaks"]["texts"] == len(here) > 0
    dropped = training(mixture=mixture, leaks="drop")
    assert set(trained(dropped, 1)) == set(trained(found, 1)) - {f"text {n}" for n in here}
    # What is only validated on counts as well.
    held = training(source=f"jsonl:{first}", mixture=((second, 1.0),))
    assert held.table[0]["leaks"]["texts"] == len(here)


def test_leaks_are_left_out_by_several_processes_too(cache, tmp_path):
    folder = tmp_path / "data"
    lines(folder / "train.jsonl", texts(0, 400))
    lines(folder / "test.jsonl", texts(380, 420))
    alone = training(source=f"jsonl:{folder}", leaks="drop", workers=1)
    (cache / "stores").rename(cache / "away")
    together = training(source=f"jsonl:{folder}", leaks="drop", workers=2)
    np.testing.assert_array_equal(alone.sets[0].store.ids, together.sets[0].store.ids)
    left = [n for n in range(380) if sides.of(0.1, f"text {n}", missing=("validation",)) == "train"]
    assert trained(together) == [f"text {n}" for n in left]


def test_prepared_data_know_their_texts(cache, tmp_path):
    folder = tmp_path / "data"
    lines(folder / "train.jsonl", texts(0, 40))
    lines(folder / "validation.jsonl", texts(35, 50))
    lines(folder / "test.jsonl", texts(200, 210))
    reference = f"jsonl:{folder}"
    manifest, _ = shard_writing.prepare(Settings((reference,), shards=3), BYTES, tmp_path / "out", engines.Processes(1))
    assert manifest["surveyed"][reference]["leaks"]["texts"] == 5
    assert any("5 records of train stand" in x for x in survey.lines(manifest["surveyed"][reference]))
    tokens = f"tokens:{tmp_path}/out"
    found = training(source=tokens).table[0]
    assert found["leaks"]["texts"] == 5 and found["splits"]["validation"]["records"] == 15
    assert (
        found["leaks"]["first"][0]
        == f"{tmp_path}/out/train, example 35: says what {tmp_path}/out/validation, example 0 says"
    )
    with pytest.raises(UserError, match="'raise': 5 records"):
        training(source=tokens, leaks="raise")
    with pytest.raises(UserError, match="is prepared, and 5 of its records .*--deduplicate=exact"):
        training(source=tokens, leaks="drop")
    # Beside records of another source.
    other = lines(tmp_path / "other.jsonl", texts(190, 260))
    mixed = training(mixture=((tokens, 1.0), (other, 1.0)), leaks="say").table[1]["leaks"]
    assert mixed["texts"] == sum(sides.of(0.1, f"text {n}") == "train" for n in range(200, 210))
    settings = Settings((reference,), deduplicate="exact")
    clean, _ = shard_writing.prepare(settings, BYTES, tmp_path / "clean", engines.Processes(1))
    assert "leaks" not in clean["surveyed"][reference]
    assert "leaks" not in training(source=f"tokens:{tmp_path}/clean", leaks="raise").table[0]


def test_what_a_source_is_is_said(cache, tmp_path):
    folder = tmp_path / "data"
    lines(folder / "gsm8k_train.jsonl", texts(0, 60))
    lines(folder / "gsm8k_test.jsonl", texts(100, 110))
    (folder / "empty_train.jsonl").write_text("")
    (folder / "README.md").write_text("x")
    found = training(source=f"jsonl:{folder}")
    train, validation, _ = sides.counts([(f"text {n}",) for n in range(60)], 0.1, ("validation",))
    assert found.table[0]["splits"] == {
        "train": {"records": train, "of": "2 files, empty_train.jsonl to gsm8k_train.jsonl"},
        "validation": {"records": validation, "held_out": 0.1, "by": "text"},
        "test": {"records": 10, "of": "gsm8k_test.jsonl"},
    }
    assert found.table[0]["left_out_files"]["count"] == 1 and found.table[0]["empty_files"]["count"] == 1
    assert overview.announced(found.table)[1:] == [
        f"     train {train} (2 files, empty_train.jsonl to gsm8k_train.jsonl); validation {validation} (held out, "
        "data.held_out=0.1); test 10 (gsm8k_test.jsonl)",
        f"     1 not read: {folder}/README.md: another ending",
        f"     1 without a record: {folder}/empty_train.jsonl",
    ]


def test_those_that_stand_in_are_said(cache, tmp_path):
    first = next(
        n for n in range(0, 999, 12) if "validation" not in {sides.of(0.1, f"text {k}") for k in range(n, n + 12)}
    )
    found = training(source=lines(tmp_path / "x.jsonl", texts(first, first + 12)), length=8)
    assert found.table[0]["splits"]["validation"]["stand_ins"] == 1
    assert "validation 1 (stands in: of so few none falls to data.held_out=0.1)" in overview.announced(found.table)[1]


def test_nothing_is_left(cache, tmp_path):
    folder = tmp_path / "data"
    for split in ("train", "validation", "test"):
        lines(folder / f"{split}.jsonl", texts(0, 20))
    with pytest.raises(
        UserError, match="'drop': all 20 records of .* nothing is left to train on.*\n  .*train.jsonl, line 1: says"
    ):
        training(source=f"jsonl:{folder}", leaks="drop")


def test_fields_of_messages_that_are_left_out_divide_nothing(cache, tmp_path):
    rows = [SAME["messages"](n) for n in range(100)]
    for n, row in enumerate(rows):
        row["messages"][0]["name"] = f"user {n}"
    source = lines(tmp_path / "x.jsonl", rows) + "?unused=name"
    for split, records in writing.opened(source).items():
        expected = [row for n, row in enumerate(rows) if sides.of(0.1, f"ask {n}", f"answer {n}") == split]
        assert [r for r in records] == expected
