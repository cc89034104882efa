"""From settings to rows: replay, classes of several sources, and settings that do not fit the data."""

import json
import pickle

import pytest

from ptft_jax import config as configs
from ptft_jax.data import builders, filling, pipeline, records, source_splits, trained_on
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError


def section(**values):
    return configs.check({"data": values})


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def training(config, objective=None):
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), [f"<extra_id_{i}>" for i in range(20)])
    builder = builders.build(configs.check({"objective": objective or {}}).objective, tokenizer)
    return pipeline.training(config.data, tokenizer, builder, steps=4, seed=0)


def test_replay_shares_as_the_parent_did_in_its_last_step():
    """A schedule that was written for more steps than the parent was trained has not come to its end."""
    theirs = section(mixture=(("jsonl:a", ((0, 1.0), (100, 0.0))), ("jsonl:b", 1.0))).data
    found = dict(trained_on.with_parent((("jsonl:c", 1.0), ("parent", 3.0)), theirs, "runs/a@51", 51))
    assert found == pytest.approx({"jsonl:c": 1.0, "jsonl:a": 1.0, "jsonl:b": 2.0})  # 0.5 to 1 at step 50
    start = dict(trained_on.with_parent((("parent", ((0, 1.0), (9, 0.0))),), theirs, "runs/a@0", 0))
    assert start == {"jsonl:a": ((0, 0.5), (9, 0.0)), "jsonl:b": ((0, 0.5), (9, 0.0))}


def test_replay_takes_shares_of_the_parents_whole_run():
    """Of 1,000 steps that a schedule rises over the first half of, 100 were made: at the last, 99, it has come to 99 / 500."""
    theirs = section(mixture=(("jsonl:a", 1.0), ("jsonl:b", ((0, 0.0), (0.5, 1.0))))).data
    found = dict(trained_on.with_parent((("parent", 1.0),), theirs, "runs/a@100", 100, 1000))
    assert found == pytest.approx({"jsonl:a": 1 / 1.198, "jsonl:b": 0.198 / 1.198})


@pytest.mark.parametrize("weight", ["0.5", None, ((0,),), -1.0, True])
def test_the_weight_of_replay_is_checked(weight):
    with pytest.raises(UserError, match="config.data.mixture: the weight of parent"):
        trained_on.with_parent((("parent", weight),), section(source="jsonl:a").data, "runs/a")


def test_a_source_that_is_also_replayed_is_named_once():
    with pytest.raises(UserError, match="jsonl:a is named, and is among what runs/a was trained on"):
        trained_on.with_parent([["jsonl:a", 1.0], ["parent", 1.0]], section(source="jsonl:a").data, "runs/a")


def test_a_number_is_the_same_class_in_every_source(cache, tmp_path):
    def source(name, *classes):
        return lines(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}", "label": classes[i % 2]} for i in range(20)])

    a, b = source("a", "bad", "good"), source("b", "good", "so-so")
    classification = {"name": "classification"}
    with pytest.raises(UserError, match="a.jsonl has the classes bad, good, and .*b.jsonl good, so-so.* classes=A,B"):
        training(section(source=a, mixture=((a, 1.0), (b, 1.0))), classification)
    named = "?classes=bad,good,so-so"
    found = training(section(source=a, mixture=((a + named, 1.0), (b + named, 1.0))), classification)
    assert [sorted(set(s.store.labels.tolist())) for s in found.sets] == [[0, 1], [1, 2]]


def test_whole_texts_are_not_learned_in_part(cache, tmp_path):
    rows = [{"input_ids": [97 + i % 20] * 40, "loss_mask": [0] * 20 + [1] * 20} for i in range(40)]
    source = lines(tmp_path / "tokens.jsonl", rows)
    with pytest.raises(UserError, match="says which tokens to learn.* learns whole texts.*prefix_lm"):
        training(section(source=source, length=64), {"name": "span_corruption"})


def test_settings_of_conversations_are_not_read_for_texts(cache, tmp_path):
    source = lines(tmp_path / "text.jsonl", [{"text": f"some text {i}"} for i in range(200)])
    for change in ({"template": "chatml"}, {"train_on": "all"}):
        config = section(source=source, **change)
        training(config)
        with pytest.raises(UserError) as raised:
            config.refuse_unread()
        assert f"config.data.{next(iter(change))} = " in str(raised.value)


def test_what_is_lost_of_a_split_is_told(cache, tmp_path):
    pairs = [{"prompt": f"{i}?", "completion": "y" * (90 if i % 4 == 0 else 5)} for i in range(40)]
    source = lines(tmp_path / "pairs.jsonl", pairs)
    tokenizer = tok.ByteTokenizer()
    for overlong, lost in (("drop", "dropped"), ("truncate", "truncated")):
        data = section(source=source, length=32, overlong=overlong).data
        tokens = source_splits.tokenized(data, source, "train", tokenizer)
        builder = builders.build(configs.check({}).objective, tokenizer)
        long = [n for n in tokens.store.offsets[1:] - tokens.store.offsets[:-1] if n > 33]
        found = filling.filled(data, tokens, builder, partial=True).lost()
        expected = sum(long) if lost == "dropped" else sum(n - 33 for n in long)
        assert long and found == {lost: len(long), "tokens_lost": expected}
    texts = lines(tmp_path / "texts.jsonl", [{"text": f"some text {i}"} for i in range(40)])
    data = section(source=texts, length=32).data
    tokens = source_splits.tokenized(data, texts, "train", tokenizer)
    assert filling.filled(data, tokens, builder, partial=False).lost() == {}


def test_a_run_goes_on_with_the_same_data_only(tmp_path):
    key = f"{pipeline.FORM}:0123"
    pipeline.refuse_other(key, key, tmp_path)
    with pytest.raises(UserError, match="the training data are not those .*files changed"):
        pipeline.refuse_other(key, f"{pipeline.FORM}:4567", tmp_path)
    with pytest.raises(UserError, match="started by an earlier release, which divides .*init.from"):
        pipeline.refuse_other("0f" * 16, key, tmp_path)


@pytest.mark.parametrize(
    "files, split, found",
    [  # by hand: file -> rows; (the split's name, its rows, None = those that training would have), or what is said
        ({"x": 7}, "", ("all", 7)),
        ({"x": 7, "y": 5}, "", ("all", 12)),
        ({"train": 7}, "", ("all", 7)),
        ({"x": 7}, "validation", ("validation", None)),
        ({"test": 7}, "", ("test", 7)),
        ({"test": 7}, "test", ("test", 7)),
        ({"x_dev": 7, "y_dev": 2}, "", ("validation", 9)),
        ({"validation": 3, "test": 7}, "", ("validation", 3)),
        ({"validation": 3, "test": 7}, "test", ("test", 7)),
        ({"train": 9, "validation": 3}, "", ("validation", None)),
        ({"train": 9, "test": 3}, "test", ("test", None)),
        ({"train": 9, "test": 3}, "", "choose by --split=(test or --split=train|train or --split=test)"),
    ],
)
def test_what_is_measured_of_a_source(cache, tmp_path, files, split, found):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in files.items():
        lines(folder / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(count)])
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            source_splits.to_measure(section().data, f"jsonl:{folder}", split)
        return
    name, opened = source_splits.to_measure(section().data, f"jsonl:{folder}", split)
    assert (name, opened and len(opened.records)) == found
    if opened:
        assert len(pickle.loads(pickle.dumps(opened)).records) == found[1]  # as processes that tokenize read it
        first = source_splits.to_measure(section().data, f"jsonl:{folder}?examples=2", split)[1].records
        assert len(pickle.loads(pickle.dumps(first))) == len(first) == (2 if name == "all" else found[1])
    if opened and name != "all":
        with pytest.raises(UserError, match="no file is called 'train'"):
            records.open_records(f"jsonl:{folder}", "train", held_out=0.1)
