"""Images with captions: what rows hold, and what is refused."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import builders, filling, records, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.pictures import CaptionedPictures
from ptft_jax.data.pictures import letters
from ptft_jax.errors import UserError
from ptft_jax.model import presets
from ptft_jax.pairing import check_kind

SIZE, LENGTH = 4, 12
KINDS = CaptionedPictures.kinds


def listed(folder, captions, **more):
    folder.mkdir(exist_ok=True)
    lines = []
    for n, caption in enumerate(captions):
        np.save(folder / f"{n}.npy", np.full((SIZE, SIZE), n, np.uint8))
        lines.append(json.dumps({"image": f"{n}.npy", "caption": caption, **more}) + "\n")
    (folder / "list.jsonl").write_text("".join(lines))
    return f"images:{folder}/list.jsonl"


def data_of(**changes):
    values = configs.default().to_dict()
    values["data"]["images"] |= dict(size=SIZE, channels=1, caption_length=LENGTH)
    values["data"] |= dict(length=5, **changes)
    return configs.check(values, complete=False).data


def read(reference, **changes):
    data = data_of(**changes)
    tokens = source_splits.tokenized(data, reference, "train", tok.ByteTokenizer(), KINDS)
    builder = CaptionedPictures(SIZE, SIZE, 1, 5, text_length=LENGTH)
    return filling.filled(data, tokens, builder, partial=True).rows


def test_rows_have_pixels_and_captions(tmp_path, cache):
    """Of records in their own order: bytes are their own numbers, and the end is the tokenizer's."""
    captions = [f"{'a' * (n % 11)}{n % 10}" for n in range(40)]
    rows = read(listed(tmp_path / "x", captions, label="kind"))
    end = tok.ByteTokenizer().end_id
    batch = rows.batch(np.arange(len(rows)), [(0, n) for n in range(len(rows))])
    assert batch["captions"].shape == (len(rows), LENGTH) and batch["captions"].dtype == np.int32
    for inputs, caption, last in zip(batch["inputs"], batch["captions"], batch["ends"]):
        said = captions[int(inputs[0, 0, 0])]
        assert (inputs == inputs[0, 0, 0]).all() and inputs.shape == (SIZE, SIZE, 1)
        assert bytes(caption[:last].astype(np.uint8)).decode() == said and last == len(said)
        assert (caption[last:] == end).all()


def test_captions_that_are_too_long(tmp_path, cache):
    source = listed(tmp_path / "x", [f"{n:02}{'c' * 10}" for n in range(40)])
    with pytest.raises(
        UserError,
        match="line .*: the caption has 12 tokens, and there is room for 11 beside its ends .model.text_length",
    ):
        read(source)
    rows = read(source, overlong="truncate")
    cut = rows.batch(np.arange(len(rows)), [(0, n) for n in range(len(rows))])
    assert (cut["ends"] == 11).all() and (cut["captions"][:, 10] == ord("c")).all()
    assert (cut["captions"][:, 11] == tok.ByteTokenizer().end_id).all()
    assert read(listed(tmp_path / "y", ["d" * 11] * 40)).plan.report.rows  # just fits
    with pytest.raises(UserError, match="config.data.overlong = 'drop': of captions 'raise' or 'truncate'"):
        read(source, overlong="drop")


@pytest.mark.parametrize("causal,named,padding", [(False, True, 257), (False, False, 256), (True, True, 256)])
def test_towers_that_see_padding_have_the_tokenizers_own(causal, named, padding, tmp_path, cache):
    files = tok.with_tokens(tok.ByteTokenizer(), ["<pad>"]).files()
    config = json.loads(files["tokenizer_config.json"]) | ({"pad_token": "<pad>"} if named else {})
    tokenizer = tok.from_files({**files, "tokenizer_config.json": json.dumps(config).encode()}, "x")
    values = configs.default().to_dict()
    values["model"] |= presets.family("clip") | dict(
        image_size=SIZE, channels=1, max_length=5, text_length=LENGTH, text_causal=causal
    )
    values["objective"]["name"] = "clip" if causal else "siglip"
    values["model"]["pair_bias"] = not causal
    section, data = configs.check(values, complete=False), data_of()
    builder = builders.for_model(section.objective, tokenizer, section.model, data)
    tokens = source_splits.tokenized(data, listed(tmp_path / "x", ["ab"] * 40), "train", tokenizer, KINDS)
    rows = filling.filled(data, tokens, builder, partial=True).rows
    batch = rows.batch(np.arange(1), [(0, 0)])
    assert batch["captions"].tolist() == [[97, 98, 256, *[padding] * (LENGTH - 3)]] and batch["ends"].tolist() == [2]


def test_captions_that_are_none(tmp_path, cache):
    source = listed(tmp_path / "x", [" "] * 40)
    with pytest.raises(UserError, match="line .*: column 'caption' is empty: expected a caption"):
        read(source)
    labelled = [{"image": f"{n}.npy", "label": n % 2} for n in range(40)]
    (tmp_path / "x" / "classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    with pytest.raises(UserError, match="learns from captioned-images, not from labelled-images .*classification"):
        read(f"images:{tmp_path}/x/classes.jsonl")
    with pytest.raises(UserError, match="the model reads images"):
        check_kind(KINDS, "text", "x", "y", configs.check(configs.default().to_dict()).tables.objectives)


def test_a_tokenizer_is_trained_on_captions_alone(tmp_path, cache):
    source = listed(tmp_path / "x", [f"caption {n}" for n in range(20)])
    texts = list(source_splits.training_texts(data_of(source=source), KINDS))
    assert 10 < len(texts) < 20 and {*texts} < {f"caption {n}" for n in range(20)}


def test_letters_have_captions():
    """Of the fonts of training eight styles, of ten letters each."""
    made = letters.splits(records.parse("images:letters?draws=1&size=8"))["train"][0]()
    captions = {made[n]["font"]: made[n]["caption"] for n in range(len(made)) if made[n]["label"] == "C"}
    assert (
        captions["DejaVuSans"] == "a sans letter C" and captions["STIXGeneralBolIta"] == "a bold slanted serif letter C"
    )
    assert captions["DejaVuSerif-Italic"] == "a slanted serif letter C" and len({*captions.values()}) == 8
    assert {*letters.STYLES} >= {font for fonts in letters.FONTS.values() for font in fonts}
