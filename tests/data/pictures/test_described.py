"""Rows of an image and what is said of it: what is read, what is learned, and what is refused."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.described import Described
from ptft_jax.data.pictures import letters
from ptft_jax.errors import UserError
from ptft_jax.model.spec import IMAGE

SIZE, LENGTH, TAKEN = 4, 20, 3
END = tok.ByteTokenizer().end_id


def begun():
    """Bytes, whose texts start with two tokens."""
    tokenizer = tok.ByteTokenizer()
    tokenizer.prefix_ids = (END, 7)
    return tokenizer


def listed(folder, rows):
    folder.mkdir(exist_ok=True)
    for n in range(40):
        np.save(folder / f"{n}.npy", np.full((SIZE, SIZE), n, np.uint8))
    lines = [json.dumps({"image": f"{n}.npy", **rows(n)}) + "\n" for n in range(40)]
    (folder / "list.jsonl").write_text("".join(lines))
    return f"images:{folder}/list.jsonl"


def read(reference, tokenizer, **changes):
    values = configs.default().to_dict()
    values["data"]["images"] |= dict(size=SIZE, channels=1, caption_length=LENGTH - TAKEN + 1)
    values["data"] |= dict(length=LENGTH, **changes)
    data = configs.check(values, complete=False).data
    tokens = source_splits.tokenized(data, reference, "train", tokenizer, Described.kinds)
    builder = Described(SIZE, SIZE, 1, LENGTH, taken=TAKEN).with_texts(tokenizer, None)
    return filling.filled(data, tokens, builder, partial=True).rows


@pytest.mark.parametrize("asked,before", [(True, ()), (False, (END, 7))])
def test_rows_by_hand(asked, before, tmp_path, cache):
    """A question is read and its answer learned, with its end; a caption is learned from its first token on, which the image tells."""
    said = (lambda n: {"question": f"{n}? ", "answer": "ab"}) if asked else (lambda n: {"caption": "ab", "label": "x"})
    rows = read(listed(tmp_path / "x", said), begun() if before else tok.ByteTokenizer())
    batch = rows.batch(np.arange(len(rows)), [(0, n) for n in range(len(rows))])
    for row in range(len(rows)):
        made = {name: values[row] for name, values in batch.items()}
        number = int(made["images"][0, 0, 0])
        assert made["images"].shape == (SIZE, SIZE, 1) and (made["images"] == number).all()
        question = [*f"{number}? ".encode()] if asked else []
        ids = [*before, *[IMAGE] * TAKEN, *question, *b"ab", END]
        count = len(ids) - 1
        assert list(made["inputs"]) == ids[:-1] + [0] * (LENGTH - count)
        assert list(made["targets"][count - 3 : count]) == [*b"ab", END] and (made["targets"] >= 0).all()
        assert list(made["weights"]) == [0] * (count - 3) + [1] * 3 + [0] * (LENGTH - count)
        assert list(made["segments"]) == [1] * count + [0] * (LENGTH - count)
        assert list(made["positions"][:count]) == list(range(count))
    assert rows.builder.learned(np.ones(1), np.ones(1), False) is None
    with pytest.raises(UserError, match="config.data.packing = 'best_fit': a row has one image; leave it at 'auto'"):
        read(rows_of(tmp_path), tok.ByteTokenizer(), packing="best_fit")


def rows_of(folder):
    return f"images:{folder}/x/list.jsonl"


def test_what_is_too_long_or_empty(tmp_path, cache):
    room = LENGTH - TAKEN  # beside the end
    asked = listed(tmp_path / "x", lambda n: {"question": "?" * (room - 2), "answer": "ab" + "c" * (n == 30)})
    with pytest.raises(UserError, match=f"the question with its answer has {room + 1} tokens, and there is room for"):
        read(asked, tok.ByteTokenizer())
    with pytest.raises(UserError, match="overlong = 'truncate': of questions and their answers 'raise' is expected"):
        read(asked, tok.ByteTokenizer(), overlong="truncate")
    assert len(
        read(listed(tmp_path / "y", lambda n: {"question": "?", "answer": "a" * (room - 1)}), tok.ByteTokenizer())
    )
    blank = listed(tmp_path / "z", lambda n: {"question": "?", "answer": " " if n == 30 else "a"})
    with pytest.raises(UserError, match="line 31: column 'answer' is empty: expected an answer"):
        read(blank, tok.ByteTokenizer())


def test_questions_about_letters():
    """Of each letter and style three, by a table made by hand."""
    asked = letters.questions("C", "bold slanted serif")
    assert [answer for _, answer in asked] == ["C", "bold slanted", "serif"]
    assert [answer for _, answer in letters.questions("A", "sans")] == ["A", "plain", "sans"]
    assert letters.caption("C", "bold serif") == "a bold serif letter C"
