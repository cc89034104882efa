"""Texts, classes and given ids: what is put around them, what is learned, and what is refused."""

import numpy as np
import pytest

from ptft_jax.data import formats
from ptft_jax.data.formats.plain import IGNORED
from ptft_jax.errors import UserError
from tests.data import kinds
from tests.data.formats.helpers import encode, encoder, shown, where
from tests.data.kinds import make, named


@named(kinds.ALL)
def test_texts_start_and_end_as_the_tokenizer_has_it(kind):
    t = make(kind)
    texts = ["the cat sat", "", "</s> <|endoftext|>"]
    for text, row in zip(texts, encode([{"text": text} for text in texts], tokenizer=t)):
        assert row.ids.dtype == np.int32 and row.trained is None and row.label == -1 and row.rejected is None
        assert row.ids.tolist() == [*t.prefix_ids, *t.encode(text).tolist(), t.end_id]


def test_classes_have_an_order_that_is_said():
    records = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}, {"text": "so", "label": "mid"}]
    made = encoder(records)
    assert "classes 0 = mid, 1 = neg, 2 = pos" in made.describe()
    assert [row.label for row in encode(records)] == [2, 1, 0]
    assert [row.label for row in encode(records, {"classes": "neg, mid, pos"})] == [2, 0, 1]
    assert shown(encode(records)[0]) == ("good$", None)
    # Another split is read with the classes of the first, whichever it has.
    other = formats.choose([{"text": "x", "label": "pos"}], {}, where, like=made.format)
    assert other.classes == made.format.classes
    with pytest.raises(
        UserError, match="column 'label' is missing, while the train split has the format classification"
    ):
        formats.choose([{"text": "x"}], {}, where, like=made.format)
    assert [row.label for row in encode([{"text": "a", "label": 3}, {"text": "b", "label": 0}])] == [3, 0]


BAD_LABELS = {
    "unknown": ({"classes": "neg,pos"}, "po", "'po': expected one of neg, pos.*did you mean 'pos'"),
    "large": ({"classes": "neg,pos"}, 2, "2: expected a class, a number from 0 below 2"),
    "negative": ({}, -1, "-1: expected a class, a number from 0"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_labels_that_are_no_class_are_named(name):
    options, label, expected = BAD_LABELS[name]
    with pytest.raises(UserError, match=f"x.jsonl, line 2: column 'label' is {expected}"):
        encode([{"text": "a", "label": "neg" if options else 0}, {"text": "a", "label": label}], options)
    late = [{"text": "a", "label": 0}] * 100 + [{"text": "a", "label": "pos"}]
    with pytest.raises(UserError, match="line 101: column 'label' is the text 'pos'; the first records have numbers"):
        encode(late)
    with pytest.raises(UserError, match="classes=a,a: expected names that differ"):
        encode([{"text": "a", "label": "a"}], {"classes": "a,a"})


def test_given_ids_are_taken_as_they_are():
    one = lambda **record: encode([record])[0]  # noqa: E731
    row = one(input_ids=[97, 98, 256])
    assert row.ids.tolist() == [97, 98, 256] and row.trained is None and row.ids.dtype == np.int32
    assert one(tokens=[97]).ids.tolist() == [97] and one(input_ids=[]).ids.tolist() == []
    assert shown(one(input_ids=[97, 98, 99], loss_mask=[False, False, True])) == ("abc", "..c")
    assert shown(one(input_ids=[97, 98, 99], labels=[IGNORED, 98, 99])) == ("abc", ".bc")
    assert shown(one(input_ids=[97, 98, 99], assistant_masks=[0, 0, 1])) == ("abc", "..c")
    assert shown(one(input_ids=[97, 98, 99], labels=[IGNORED, 98, 99], loss_mask=[1, 0, 1])) == ("abc", "..c")
    assert shown(one(input_ids=[0, 97, 98], attention_mask=[0, 1, 1], labels=[IGNORED, IGNORED, 98])) == ("ab", ".b")
    assert encoder([{"input_ids": [97, 98]}]).texts({"input_ids": [97, 98]}) == ["ab"]


BAD_IDS = {
    "beyond": ({"input_ids": [1, 259]}, r"input_ids\[1\] = 259: the tokenizer .* has ids 0 to 258"),
    "below": ({"input_ids": [-1]}, r"input_ids\[0\] = -1"),
    "huge": ({"input_ids": [2**70]}, "more than 64 bits"),
    "length": ({"input_ids": [1], "labels": [1, 2]}, "column 'labels' has 2 values for 1 tokens"),
    "shifted": ({"input_ids": [1, 2], "labels": [2, IGNORED]}, r"labels\[0\] = 2, but the token there is 1: .*not shifted"),
    "mask": ({"input_ids": [1], "loss_mask": [2]}, "column 'loss_mask' has other values than 0 and 1"),
    "holes": ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "leaves out tokens amid others"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_IDS)
def test_given_ids_are_checked(name):
    record, expected = BAD_IDS[name]
    with pytest.raises(UserError, match=f"^x.jsonl, line 1: .*{expected}"):
        encode([record])
