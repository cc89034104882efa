"""Pairs of texts: what stands between them, and which tokens are the second's."""

import json

import numpy as np
import pytest

from ptft_jax.data import filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.classes import Classes
from ptft_jax.data.formats import choose, encoder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("aa", "bb", "cc", "dd", "ee", "[", "]", "S", "E", "P")
RECORDS = [
    {"sentence1": "aa bb cc", "sentence2": "dd", "label": 1},
    {"sentence1": "ee", "sentence2": "aa aa", "label": 0},
    {"sentence1": "aa", "sentence2": "bb [SEP] cc", "label": 1},
]


def different(count):
    return [{**RECORDS[n % 3], "sentence1": f"aa {n}"} for n in range(count)]


def library(kind):
    """A tokenizer of the `tokenizers` library with BERT's or RoBERTa's ways of joining texts."""
    import tokenizers
    from tokenizers import processors

    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = {
        "bert": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "template": processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        ),
        "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False),
    }[kind]
    return made


def read(made):
    config = {"sep_token": "[SEP]", "cls_token": "[CLS]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
    return tok.from_files({tok.FILE: made.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}, "x")


def pieces(tokenizer, records=RECORDS):
    """(ids, types) of each."""
    wheres = [f"record {n}" for n in range(len(records))]
    form = choose(records, {}, lambda n: wheres[n])
    builder = Classes.of(None, tokenizer)
    found = encoder(form, tokenizer).encode(records, wheres)
    made = [builder.piece(example.ids, None) for example in found]
    assert [example.label for example in found] == [record["label"] for record in records]
    return [(piece["inputs"].tolist(), piece["types"].tolist()) for piece in made]


@pytest.mark.parametrize("kind", ["bert", "template", "roberta"])
def test_pairs_are_joined_as_the_library_does(kind):
    made = library(kind)
    for record, (ids, kinds) in zip(RECORDS[:2], pieces(read(made))):
        expected = made.encode(record["sentence1"], record["sentence2"])
        assert (ids, kinds) == (expected.ids, expected.type_ids)


def test_a_text_that_spells_the_separator_has_none():
    [*_, (ids, kinds)] = pieces(read(library("bert")))
    assert ids.count(3) == 2 and kinds == [0] * 3 + [1] * (len(ids) - 3)


def test_a_single_text_has_one_type():
    rows = [{"text": record["sentence1"], "label": record["label"]} for record in RECORDS]
    made = library("bert")
    for row, (ids, kinds) in zip(rows, pieces(read(made), rows)):
        assert ids == made.encode(row["text"]).ids and not any(kinds)


def test_without_a_word_on_pairs_the_end_stands_between_them():
    tokenizer = tok.ByteTokenizer()
    (ids, kinds), *_ = pieces(tokenizer)
    end = tokenizer.end_id
    assert ids == [*b"aa bb cc", end, *b"dd", end] and kinds == [0] * 9 + [1] * 3


@pytest.mark.parametrize(
    "names", [("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"), ("text", "pair")]
)
def test_the_columns_of_published_pairs_are_found(names):
    rows = [{names[0]: r["sentence1"], names[1]: r["sentence2"], "label": r["label"]} for r in RECORDS]
    assert pieces(tok.ByteTokenizer(), rows) == pieces(tok.ByteTokenizer())


def test_rows_have_the_types_and_padding_has_none(tmp_path, cache):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in different(60)))
    from ptft_jax import config as configs

    data = configs.check({"data": {"source": f"jsonl:{path}", "length": 24}}).data
    builder = Classes.of(None, tok.ByteTokenizer())
    tokens = source_splits.tokenized(data, data.source, "train", tok.ByteTokenizer(), builder.kinds)
    row = filling.filled(data, tokens, builder, partial=False).rows.row(0)
    size = int(row["segments"].sum())
    first = row["inputs"].tolist().index(tok.ByteTokenizer().end_id) + 1
    np.testing.assert_array_equal(row["types"], [0] * first + [1] * (size - first) + [0] * (24 - size))


@pytest.mark.live
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_ids_types_and_loss_are_those_of_transformers(kind, tmp_path, cache):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from ptft_jax.evaluation.standalone import evaluate
    from ptft_jax.runs import loading

    named = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library(kind), **named, model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    sizes = dict(
        vocab_size=15, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_labels=2,
        max_position_embeddings=34, initializer_range=0.5,
    )  # fmt: skip
    name = {"bert": "Bert", "roberta": "Roberta"}[kind]
    more = {"type_vocab_size": 2} if kind == "bert" else {"type_vocab_size": 1, "pad_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**sizes, **more)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path / "model")
    theirs.save_pretrained(tmp_path / "model")
    loaded = loading.load(f"hf:{tmp_path / 'model'}")
    losses = []
    for record, (ids, kinds) in zip(RECORDS[:2], pieces(loaded.tokenizer)):
        given = theirs(record["sentence1"], record["sentence2"], return_tensors="pt")
        assert (ids, kinds) == (given["input_ids"][0].tolist(), given["token_type_ids"][0].tolist())
        with torch.no_grad():
            losses.append(float(model(**given, labels=torch.tensor([record["label"]])).loss))
    for split, records in (("train", different(60)), ("test", RECORDS[:2])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = f"jsonl:{tmp_path}?train=train.jsonl&test=test.jsonl"
    measured = evaluate(loaded, source, "test", length=16)
    assert measured["nll"] == pytest.approx(np.mean(losses), abs=1e-5) and measured["tokens_scored"] == 2
