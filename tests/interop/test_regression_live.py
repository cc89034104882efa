"""A head with one number beside transformers': predictions and correlations are the same, in and out."""

import json

import numpy as np
import pytest
from scipy import stats

from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import pretrained
from ptft_jax.runs import loading
from ptft_jax.verbs import export
from tests.helpers import quiet_train, repeats, tiny_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live
WORDS = tuple(["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT of random parameters with one number, and pairs of texts with how many words they share."""
    import tokenizers

    folder = tmp_path_factory.mktemp("bert")
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate((*special, *WORDS))}, unk_token="[UNK]")
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {f"{name.strip('[]').lower()}_token": name for name in special}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **named, model_input_names=inputs)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=13, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, num_labels=1, problem_type="regression",
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(120):
        one, two = (rng.choice(WORDS, rng.integers(3, 9)) for _ in range(2))
        shared = len(set(one) & set(two)) / 2  # with many ties
        rows.append({"sentence1": " ".join(one), "sentence2": " ".join(two), "label": shared})
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def predicted(folder, rows):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        batches = [tokenizer(row["sentence1"], row["sentence2"], return_tensors="pt") for row in rows]
        return np.asarray([float(model(**batch).logits[0, 0]) for batch in batches])


def rows_of(folder):
    return [json.loads(line) for line in (folder / "x.jsonl").read_text().splitlines()]


def agrees(values, numbers, labels):
    assert values["mse"] == pytest.approx(np.mean((numbers - labels) ** 2), rel=1e-4)
    assert values["pearson"] == pytest.approx(stats.pearsonr(numbers, labels).statistic, abs=1e-5)
    assert values["spearman"] == pytest.approx(stats.spearmanr(numbers, labels).statistic, abs=1e-4)


def test_an_imported_model_is_measured_by_what_its_head_gives(bert, cache):
    loaded = loading.load(f"hf:{bert}/model")
    assert loaded.source.config.objective.name == "regression"
    values = evaluate(loaded, f"jsonl:{bert}/x.jsonl", batch_size=7)
    rows = rows_of(bert)
    agrees(values, predicted(bert / "model", rows), np.asarray([row["label"] for row in rows]))


@pytest.mark.heavy
@pytest.mark.parametrize("method", repeats(["full", "lora"], "full"))
def test_a_run_learns_numbers_and_leaves_as_a_head_with_one(bert, text_file, tmp_path, cache, method):
    """Also with an adapter, beside which a new head trains."""
    more = {} if method == "full" else dict(tune__method="lora", init__fresh=("head/.*",), model__class_hidden=True)
    config = tiny_config(
        text_file, init__from_=f"hf:{bert}/model", data__source=f"jsonl:{bert}/x.jsonl", objective__name="regression",
        optimizer__learning_rate=5e-3, training__steps=30, eval__parent_data=False, model__causal=False,
        model__head="classes", model__classes=1, **more,
    )  # fmt: skip
    config.model.update(
        layers=4, width=128, heads=4, max_length=128
    )  # the defaults: the parent's sizes take their place
    summary = quiet_train(config, tmp_path / "run")
    assert summary["selected"]["metric"] == "validation/mse"
    assert summary["after"]["test/mse"] < summary["before"]["test/mse"]
    assert {"test/pearson", "test/spearman"} <= summary["after"].keys()
    export.model(str(tmp_path / "run"), "hf", tmp_path / "out", dtype="float32")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["problem_type"] == "regression" and list(written["id2label"]) == ["0"]
    rows = rows_of(bert)
    values = evaluate(pretrained_of(tmp_path / "out"), f"jsonl:{bert}/x.jsonl")
    agrees(values, predicted(tmp_path / "out", rows), np.asarray([row["label"] for row in rows]))
    ours = evaluate(loading.load(str(tmp_path / "run")), f"jsonl:{bert}/x.jsonl")
    for name in ("mse", "pearson", "spearman"):
        assert values[name] == pytest.approx(ours[name], rel=1e-4)


def pretrained_of(folder):
    assert pretrained.find(f"hf:{folder}", "test").config.objective.name == "regression"
    return loading.load(f"hf:{folder}")
