"""Causal classifiers beside transformers': scores, padding on either side, exports, measured texts, and adapters of PEFT."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import export as writing
from ptft_jax.interop import pretrained
from ptft_jax.model.inputs import Inputs
from ptft_jax.runs import loading
from ptft_jax.verbs import export
from tests.helpers import quiet_train, tiny_config
from tests.interop.test_last_token import NAMES
from tests.parity import compare, families

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live
CASES = {
    name: next(case for case in families.CASES if case.name == name)
    for name in ("gpt2-untied", "pythia", "llama3", "mistral", "qwen2", "qwen3", "qwen3-moe", "gemma", "gemma2", "gemma3", "smollm3", "phi3", "olmo2", "mixtral")
}  # fmt: skip
PAD, SIZES = 2, (9, 1, 40, 23)


def built(name, **more):
    """A classifier of transformers with random parameters."""
    case = CASES[name]
    config = getattr(transformers, case.config)(**case.fields)
    fields = {**case.fields, "num_labels": 4, "pad_token_id": PAD, **more}
    return families.build(dataclasses.replace(case, model=NAMES[config.model_type], fields=fields))


def padded(left):
    """Rows of texts of different lengths; no text has the token that is padding."""
    rng = np.random.default_rng(0)
    tokens, mask = np.full((len(SIZES), 40), PAD), np.zeros((len(SIZES), 40), np.int64)
    for n, size in enumerate(SIZES):
        where = slice(40 - size, 40) if left else slice(0, size)
        tokens[n, where], mask[n, where] = rng.integers(3, 97, size), 1
    return tokens, mask


def theirs(model, tokens, mask, positions):
    with torch.no_grad():
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        return model(**{k: torch.from_numpy(np.array(v)) for k, v in inputs.items()}).logits.numpy()


@pytest.mark.parametrize("name", CASES)
def test_scores_are_transformers(name, tmp_path):
    """Read, put out, written, and read by transformers again; whichever side the padding is on."""
    model = built(name)
    model.save_pretrained(tmp_path / "theirs")
    ours, params, fields, _ = compare.load(tmp_path / "theirs")
    assert fields["head"] == "classes" and fields["classes"] == 4
    chain = pretrained.find(f"hf:{tmp_path / 'theirs'}", "test").lineage("")
    writing.to_folder(writing.Exported(params, fields, None, chain), tmp_path / "ours", dtype="float32")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    ).eval()
    assert type(again) is type(model) and again.config.num_labels == 4 and again.config.pad_token_id == PAD
    for left in (False, True):
        tokens, mask = padded(left)
        positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
        expected = theirs(model, tokens, mask, positions)
        found = jax.jit(ours)(params, Inputs(tokens, segments=mask, positions=positions))
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
        reread = theirs(again, tokens, mask, positions)
        np.testing.assert_allclose(reread, expected, atol=1e-6 * np.abs(expected).max())


WORDS = tuple(f"{a}{b}" for a in "abcdefgh" for b in "xyz")


def tokenizer_of(pad):
    """Words, after a token that begins a text; `pad`: what is padding, "end" the token that ends a text."""
    import tokenizers

    special = ("<unk>", "<s>", "</s>", "<pad>")
    library = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate((*special, *WORDS))}, unk_token="<unk>")
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    named = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token={"end": "</s>", "own": "<pad>"}[pad])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library, **named)


def saved(folder, kind, pad, **more):
    """A small model of transformers with its tokenizer in a folder."""
    tokenizer = tokenizer_of(pad)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4 + len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.pad_token_id, **more,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(path, label):
    """Texts of different lengths with labels by the text, in a file and as they are."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(120)]
    rows = [{"text": text, "label": label(text)} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def called(folder, texts, side, model=None):
    """[texts, classes]: transformers' scores of texts in one batch, padded on one side."""
    model = model or transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side=side)
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=positions).logits.numpy()


def accuracy(scores, rows, names):
    return float(np.mean([names[n] == row["label"] for n, row in zip(scores.argmax(1), rows)]))


@pytest.mark.parametrize("pad", ["end", "own"])
def test_an_imported_classifier_is_measured_as_transformers_calls_texts(pad, tmp_path, cache):
    """Also where padding and end are one token, which transformers then never reads."""
    names = ("p", "q", "r")
    labels = dict(id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)})
    folder = saved(tmp_path / "model", "LlamaForSequenceClassification", pad, **labels)
    texts = [row["text"] for row in rows_of(tmp_path / "x.jsonl", lambda text: "p")]
    scores = called(folder, texts, "right")
    np.testing.assert_allclose(called(folder, texts, "left"), scores, atol=1e-5)
    rng = np.random.default_rng(1)
    rows = [{"text": t, "label": names[n if rng.random() < 0.7 else 0]} for t, n in zip(texts, scores.argmax(1))]
    (tmp_path / "y.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = accuracy(scores, rows, names)
    assert 0.5 < expected < 1
    for reference in (folder, tmp_path / "again"):
        values = evaluate(loading.load(f"hf:{reference}"), f"jsonl:{tmp_path / 'y.jsonl'}", batch_size=7, length=24)
        assert values["accuracy"] == pytest.approx(expected)
        if reference == folder:
            export.model(f"hf:{folder}", "hf", tmp_path / "again", dtype="float32")
            np.testing.assert_array_equal(called(tmp_path / "again", texts, "right"), scores)


@pytest.mark.parametrize("method, pad", [("full", "own"), ("lora", "end")])
def test_a_run_from_a_language_model_leaves_as_a_classifier(method, pad, tmp_path, cache):
    """Its head is new; of an adapter it goes with it, as a module that PEFT saves."""
    base = saved(tmp_path / "lm", "LlamaForCausalLM", pad)
    rows = rows_of(tmp_path / "x.jsonl", lambda text: "abc"["abcdefgh".index(text.split()[-1][0]) % 3])
    made = tiny_config(
        "-", init__from_=f"hf:{base}", data__source=f"jsonl:{tmp_path / 'x.jsonl'}", data__length=16,
        objective__name="classification", model__head="classes", model__classes=3, init__fresh=("head/.*",),
        tune__method=method, optimizer__learning_rate=1e-2, optimizer__warmup_steps=0, training__steps=30,
        eval__every=0, eval__tokens=0, eval__parent_data=False,
    )  # fmt: skip
    made.model.update(layers=4, width=128, heads=4, max_length=128)  # the defaults: it has its parent's
    quiet_train(made, tmp_path / "run")
    export.model(str(tmp_path / "run"), "hf", tmp_path / "out", dtype="float32")
    texts = [row["text"] for row in rows]
    scores = called(tmp_path / "out", texts, "right")
    share = accuracy(scores, rows, "abc")
    assert share > 0.6
    for reference in (str(tmp_path / "run"), f"hf:{tmp_path / 'out'}"):
        values = evaluate(loading.load(reference), f"jsonl:{tmp_path / 'x.jsonl'}", length=16)
        assert values["accuracy"] == pytest.approx(share)
    if method == "full":
        return
    peft = pytest.importorskip("peft")
    export.adapter(str(tmp_path / "run"), tmp_path / "adapter", family="", base="")
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["score"] and settings["task_type"] == "SEQ_CLS"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    np.testing.assert_allclose(called(base, texts, "left", model), scores, atol=1e-4)
