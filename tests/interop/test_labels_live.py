"""Names of classes beside transformers': what it calls an image or a text is what we do, in and out."""

import json

import jax
import numpy as np
import pytest

from ptft_jax.data.records import open_records
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import pretrained
from ptft_jax.model import presets
from ptft_jax.runs import loading
from ptft_jax.verbs import export
from tests.helpers import quiet_train, tiny_config
from tests.interop.test_labels import IMAGES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live
NAMES = ("zero", "one", "two", "three")  # not the alphabet's order
WORDS = tuple(["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A classifier of random parameters, and texts with the names that it gives them, as many of each."""
    import tokenizers

    folder = tmp_path_factory.mktemp("bert")
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate((*special, *WORDS))}, unk_token="[UNK]")
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {f"{name.strip('[]').lower()}_token": name for name in special}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **named)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=13, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, id2label=dict(enumerate(NAMES)), label2id={name: n for n, name in enumerate(NAMES)},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    rng = np.random.default_rng(0)
    texts = sorted({" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(400)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
        # Every class is as likely as the others: the bias is moved until it is.
        scores = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        shift = torch.zeros(4)
        for _ in range(4000):
            counts = torch.bincount((scores + shift).argmax(1), minlength=4)
            shift -= 0.005 * (counts - len(texts) / 4).sign()
        model.classifier.bias.add_(shift)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"text": text, "label": label} for text, label in zip(texts, called(folder / "model", texts))]
    assert min(sum(row["label"] == name for row in rows) for name in NAMES) > 40
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def called(folder, texts):
    """What transformers calls texts."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        numbers = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]
    return [model.config.id2label[n] for n in numbers]


def accuracy(folder, source, split="test"):
    """Share of a split's records that transformers calls as they are labelled."""
    records = open_records(source, split, held_out=0.1)
    rows = [records[i] for i in range(len(records))]
    return float(np.mean([a == row["label"] for a, row in zip(called(folder, [r["text"] for r in rows]), rows)]))


def config(bert, source, **changes):
    made = tiny_config(
        "-", data__length=16, objective__name="classification", optimizer__warmup_steps=0, init__from_=f"hf:{bert / 'model'}",
        eval__every=0, eval__tokens=0, training__steps=12, optimizer__learning_rate=3e-3, **changes,
    )  # fmt: skip
    made.data.source = source
    made.model.update(layers=4, width=128, heads=4, max_length=128)  # the defaults: it has its parent's
    return made


def test_an_imported_classifier_knows_its_own_names(bert, cache):
    loaded = loading.load(f"hf:{bert / 'model'}")
    assert loaded.source.classes == NAMES
    for split in ("train", "test"):
        assert evaluate(loaded, f"jsonl:{bert / 'x.jsonl'}", split, length=16)["accuracy"] == 1.0


# Labels that are learned: the parent's names with other meanings, and other names for a new head.
LEARNED = {
    "parent": (dict(zip(NAMES, ("one", "zero", "three", "two"))), {}, NAMES),
    "fresh": (dict(zip(NAMES, ("d", "c", "b", "a"))), {"init__fresh": ("head/.*",)}, ("a", "b", "c", "d")),
}


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_transformers_calls_texts_as_the_run_does(bert, cache, tmp_path, name, method):
    renamed, change, expected = LEARNED[name]
    rows = [json.loads(line) for line in (bert / "x.jsonl").read_text().splitlines()]
    source = f"jsonl:{tmp_path / 'y.jsonl'}"
    (tmp_path / "y.jsonl").write_text("".join(json.dumps({**r, "label": renamed[r["label"]]}) + "\n" for r in rows))
    made = config(bert, source, tune__method=method, **change)
    if name == "fresh":
        made.model.update(head="classes", classes=4, class_hidden=True)
    summary = quiet_train(made, tmp_path / "run")
    export.model(str(tmp_path / "run"), "hf", tmp_path / "out", dtype="float32")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert list(written["id2label"].values()) == list(expected) == list(written["label2id"])
    share = accuracy(tmp_path / "out", source)
    assert share == pytest.approx(summary["after"]["test/accuracy"]) and share > 0.2
    again = evaluate(loading.load(f"hf:{tmp_path / 'out'}"), source, "test", length=16)
    assert again["accuracy"] == pytest.approx(share)


def test_images_are_called_alike(tmp_path):
    names = tuple(f"class {n}" for n in (2, 0, 1))
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=24, patch_size=8,
        id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(tmp_path / "vit")
    export.model(f"hf:{tmp_path / 'vit'}", "hf", tmp_path / "again", dtype="float32")
    images = np.random.default_rng(0).normal(size=(40, 24, 24, 3)).astype(np.float32)
    loaded = loading.load(f"hf:{tmp_path / 'again'}")
    ours = np.asarray(jax.jit(loaded.model.__call__)(loaded.params, images)).argmax(1)
    found = transformers.ViTForImageClassification.from_pretrained(tmp_path / "again").eval()
    with torch.no_grad():
        theirs, original = (
            m(torch.tensor(images.transpose(0, 3, 1, 2))).logits.argmax(1).tolist() for m in (found, model)
        )
    assert [loaded.source.classes[n] for n in ours] == [found.config.id2label[n] for n in theirs]
    assert [found.config.id2label[n] for n in theirs] == [model.config.id2label[n] for n in original]
    assert len(set(original)) > 1 and found.config.label2id == model.config.label2id


def test_what_we_write_of_our_own_names_its_classes(tmp_path):
    from ptft_jax.interop import export as writing
    from tests.interop import small

    for name, model in (("vit", "ViTForImageClassification"), ("deit", "DeiTForImageClassificationWithTeacher")):
        fields = {
            **IMAGES,
            **presets.family(name),
            "image_size": 16,
            "patch_size": 8,
            "max_length": 5 + (name == "deit"),
        }
        made = writing.Exported(small.params_of(fields), fields, None, [], classes=("b", "a", "c"))
        writing.to_folder(made, tmp_path / name, dtype="float32")
        assert pretrained.find(f"hf:{tmp_path / name}", "--run").classes == ("b", "a", "c")
        found = getattr(transformers, model).from_pretrained(tmp_path / name)
        assert found.config.id2label == {0: "b", 1: "a", 2: "c"} and found.config.num_labels == 3
