"""Measures of behavior: what tasks make of what a model says, by hand; what a model says, row by row; a run that is measured."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import tokenizers as tok
from ptft_jax.evaluation import before_after, names
from ptft_jax.evaluation.behavior import Tasks
from ptft_jax.evaluation.tasks.certainty import Known
from ptft_jax.evaluation.tasks.choice import Choice, Shares
from ptft_jax.evaluation.tasks.observed import Asking, Rendering, Writing
from ptft_jax.evaluation.tasks.question import read
from ptft_jax.evaluation.tasks.scoring import Reader, Scored
from ptft_jax.evaluation.tasks.spread import Dates, Groups, Paraphrases
from ptft_jax.evaluation.tasks.styles import Styles
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.rewards.base import Function
from ptft_jax.runs.workdir import Workdir
from tests.helpers import SPEC, quiet_train, tiny_config

BYTES = tok.ByteTokenizer()
MODEL = Transformer(
    dataclasses.replace(SPEC, vocab_size=BYTES.vocab_size, max_length=48, layers=2, width=16, heads=2, kv_heads=1)
)


class Said:
    """What a model would say, made by hand: of the question at each place, {"recall": bool, "options": probabilities, "text", "sure"}."""

    def __init__(self, *rows):
        self._rows = rows
        self._right = Writing(16, (), "spaces", "equal").is_right

    def _of(self, question):
        return self._rows[int(question.where)]

    def answer(self, question):
        return Scored(-1.0, self._of(question)["recall"], True, 0.5, 0.5)

    def first(self, question):
        return Scored(0.0, False, False, self._of(question)["sure"], -math.log(self._of(question)["sure"]))

    def options(self, question):
        return np.log(self._of(question)["options"]).tolist()

    def probabilities(self, question):
        return np.asarray(self._of(question)["options"]) / np.sum(self._of(question)["options"])

    def chosen(self, question):
        return int(np.argmax(self._of(question)["options"]))

    def text(self, question):
        return self._of(question)["text"]

    def is_right(self, question):
        return self._right(self.text(question), question.answers)


def asked(*records):
    return [read({"question": "?", **record}, str(n)) for n, record in enumerate(records)]


def test_options_by_length():
    questions = asked(*[{"options": ["ab", "abcdefgh"], "answer": n} for n in (0, 1)])
    found = Choice().measured(questions, Said(*[{"options": [0.2, 0.1]}] * 2)).values
    assert found == pytest.approx({"accuracy": 0.5, "accuracy_by_length": 0.5, "probability": 0.5})
    assert math.log(0.2) / 2 < math.log(0.1) / 8  # so that the long one is likelier per character


def test_known_and_unknown():
    known, unknown = {"answer": "a"}, {"kind": "unknown"}
    questions = asked(known, known, known, unknown, unknown)
    seen = Said(
        {"text": "a", "sure": 0.9},
        {"text": "b", "sure": 0.8},
        {"text": "I DON\N{RIGHT SINGLE QUOTATION MARK}T know", "sure": 0.7},
        {"text": "a", "sure": 0.85},
        {"text": "a", "sure": 0.2},
    )
    for confidence in ("token", "entropy"):  # which are the same here
        found = Known(confidence, ("i don't know",), 0.5).measured(questions, seen)
        assert found.values == pytest.approx(
            {
                "auroc": 4 / 6, "hallucination": 2 / 5, "hallucination_unknown": 1 / 2, "abstained": 2 / 5, "abstained_known": 1 / 3,
                "accuracy": 1 / 3, "risk": 2 / 3, "aurc": (0 + 1 / 2 + 2 / 3) / 3,
            }
        )  # fmt: skip
        assert [x for x, _ in found.details["risk_coverage"]] == pytest.approx([0.2, 0.4, 0.6])
    silent = Known("token", (), 1.0).measured(questions, seen).values
    assert silent["abstained"] == 1 and silent["hallucination"] == 0 and "aurc" not in silent


def test_dates():
    right = {"2020-01": [1, 1], "2020-07": [1, 0], "2021-03": [0, 0], "2021-04": [0, 1]}
    records = [({"answer": "a", "date": d}, v) for d, values in right.items() for v in values]
    questions, seen = asked(*[r for r, _ in records]), Said(*[{"recall": bool(v)} for _, v in records])
    found = Dates("year", "recall").measured(questions, seen)
    assert found.values == {"accuracy": 0.5, "before": 0.75, "after": 0.25} and found.details["cut_off"] == "2020"
    found = Dates("month", "recall").measured(questions, seen)
    assert found.details["cut_off"] == "2020-01" or found.values["before"] == 0.75
    assert [one["accuracy"] for one in found.details["periods"]] == [1, 0.5, 0, 0.5]


def test_shares():
    questions = asked({"options": ["a", "b"], "shares": [3, 1]}, {"options": ["a", "b"], "shares": [0, 1]})
    found = Shares().measured(questions, Said({"options": [0.2, 0.2]}, {"options": [0.1, 0.3]})).values
    kl = (0.75 * math.log(1.5) + 0.25 * math.log(0.5) + math.log(4 / 3)) / 2
    assert found == pytest.approx({"kl": kl, "total_variation": 0.25})


def test_paraphrases():
    rows = [(1, 0, "a", True), (1, 1, "b", False), (1, 2, "b", False), (2, 0, "a", True), (2, 1, "a", True)]
    questions = asked(*[{"answer": "a", "paraphrase_of": fact, "template": t} for fact, t, _, _ in rows])
    seen = Said(*[{"text": text, "recall": ok} for *_, text, ok in rows])
    found = Paraphrases(("paraphrase_of",), "extraction").measured(questions, seen).values
    assert found == pytest.approx(
        {
            "accuracy": 0.6, "worst": 0.5, "std": np.std([1, 0, 0]) / 2, "consistency": (1 / 3 + 1) / 2,
            "template_std": np.std([1, 0.5, 0]), "template_worst": 0,
        }
    )  # fmt: skip
    # Of recall it is not known whether two answers that are wrong are the same.
    assert Paraphrases(("paraphrase_of",), "recall").measured(questions, seen).values["consistency"] == 0.5


def test_groups():
    right = {"x": [1, 1, 0, 1], "y": [0, 0, 1, 0]}
    records = [
        ({"answer": "a", "group": g, "swap_of": n}, v) for g, values in right.items() for n, v in enumerate(values)
    ]
    questions, seen = asked(*[r for r, _ in records]), Said(*[{"recall": bool(v)} for _, v in records])
    found = Groups("recall", 0.95, 200, "swap_of").measured(questions, seen)
    assert {k: found.values[k] for k in ("mean", "gap", "swap_flips", "swap_shift")} == {"mean": 0.5, "gap": 0.5, "swap_flips": 1.0, "swap_shift": 1.0}  # fmt: skip
    assert found.values["gap_low"] <= 0.5 <= found.values["gap_high"]
    [x, y] = found.details["groups"]
    assert (x["group"], x["mean"], y["mean"]) == ("x", 0.75, 0.25) and x["low"] == pytest.approx(1 - y["high"])


def test_styles_and_refusals():
    questions = asked(
        {"kind": "harmful"}, {"kind": "harmful"}, {"kind": "benign"}, {"kind": "benign", "register": "polite"}
    )
    seen = Said({"text": "I'm sorry."}, {"text": "Sure."}, {"text": "Yes."}, {"text": "I cannot."})
    polite = Function(lambda answer, task: float(answer.endswith(".") and task.record.get("register") == "polite"))
    found = Styles({"polite": polite}, ("i'm sorry", "i cannot")).measured(questions, seen).values
    assert found == {"polite": 0.25, "refusals": 0.5, "over_refusals": 0.5}


def test_right_answers_that_are_written():
    starts, equal = (Writing(1, (), "squad", match) for match in ("starts", "equal"))
    assert starts.is_right("The Paris, of course", ["Paris"]) and not equal.is_right("The Paris, of course", ["Paris"])
    assert not starts.is_right("Parisian", ["Paris"]) and equal.is_right("the paris!", ["Rome", "Paris"])


def test_directions_are_known():
    assert names.known("behavior/known/hallucination") == "min" and names.known("behavior/recall/accuracy") == "max"
    assert names.known("behavior/styles/exact") == "max" and names.known("behavior/groups/mean") == ""


# What a model says


CITIES = ["Rome", "Oslo", "Bonn"]
ROWS = [
    *({"question": f"{n}{'x' * (n % 5)}?", "options": CITIES, "answer": n % 3, "group": "ab"[n % 2], "paraphrase_of": n // 2} for n in range(12)),
    *({"question": f"Who is {n}?", "kind": "unknown"} for n in range(2)),
    {"question": "Which?", "options": CITIES, "shares": [2, 1, 1]},
    {"good": "The cat sits.", "bad": "The cat sit."},
]  # fmt: skip
ALL = (
    "recall",
    "options",
    "extraction",
    "known",
    "calibration",
    "shares",
    "paraphrases",
    "groups",
    "minimal_pairs",
    "probe",
)


@pytest.fixture(scope="module")
def params():
    made = MODEL.init(jax.random.key(0))
    return jax.tree.map(lambda x: x * 3 if x.ndim > 2 else x, made)  # so that it is sure of something


def measured(folder, params, rows=16, prefix=False):
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    behavior = {"tasks": ALL, "source": f"jsonl:{folder}/q.jsonl", "max_new_tokens": 4}
    config = configs.check({"eval": {"behavior": behavior, "batch_size": rows}})
    values, details, said = Tasks(config, MODEL, BYTES, "", reads_prompt=prefix, adapter=None).measured(params)
    return values, details, list(said)


@pytest.mark.parametrize("prefix", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_what_a_model_says_is_that_of_each_row_alone(params, tmp_path, cache, prefix):
    """Rows one at a time, all of one length, of which a causal model does not see the end; whatever the number of rows at a time."""
    alone = jax.jit(lambda ids, seen: jax.nn.log_softmax(MODEL(params, Inputs(ids, prefix=seen)))[0])

    def log_probs(prompt, following):
        ids = [*prompt, *following]
        row = jnp.asarray([[*ids, *[0] * (MODEL.spec.max_length - len(ids))]])
        seen = jnp.arange(row.shape[1])[None] < len(prompt) if prefix else None
        logs = np.asarray(alone(row, seen), np.float64)[len(prompt) - 1 : len(ids) - 1]
        return logs, [logs[n, i] for n, i in enumerate(following)]

    values, _, said = measured(tmp_path, params, prefix=prefix)
    few, _, again = measured(tmp_path, params, rows=3, prefix=prefix)
    assert few == pytest.approx(values, abs=1e-5)
    assert [row.get("chosen") for row in said] == [row.get("chosen") for row in again]
    for record, row in zip(ROWS, said):
        if "good" in record:
            expected = [
                sum(log_probs([BYTES.end_id], BYTES.encode(record[name]).tolist())[1]) for name in ("good", "bad")
            ]
            assert row["log_probs"] == pytest.approx(expected, abs=1e-4)
            continue
        prompt = BYTES.encode(record["question"]).tolist()
        logs = {city: log_probs(prompt, BYTES.encode(f" {city}").tolist()) for city in CITIES}
        if "options" in record:
            p = np.exp([sum(own) for _, own in logs.values()])
            assert [*row["options"].values()] == pytest.approx(p / p.sum(), abs=1e-4)
        if "answer" in record:
            whole, own = logs[CITIES[record["answer"]]]
            assert row["log_prob"] == pytest.approx(sum(own), abs=1e-4)
            assert row["recalled"] == all(line.max() == value for line, value in zip(whole, own))
        if "sure" in row:
            assert row["sure"] == pytest.approx(np.exp(log_probs(prompt, [0])[0][0].max()), abs=1e-4)


@pytest.mark.parametrize("scan", [False, True])
def test_streams_are_those_of_shorter_models(params, scan):
    """The final norm of the stream behind k layers is what a model of these k layers has."""
    ids = jax.random.randint(jax.random.key(1), (2, 7), 0, BYTES.vocab_size)
    streams = dataclasses.replace(MODEL, spec=dataclasses.replace(MODEL.spec, scan=scan)).streams(params, ids)
    assert streams.shape == (MODEL.spec.layers + 1, 2, 7, MODEL.spec.width)
    for layers in range(1, MODEL.spec.layers + 1):
        short = Transformer(dataclasses.replace(MODEL.spec, layers=layers))
        fewer = {**params, "blocks": jax.tree.map(lambda x, n=layers: x[:n], params["blocks"])}
        x = streams[layers]
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + MODEL.spec.norm_eps)
        norm = params["final_norm"]
        np.testing.assert_allclose(x * norm["scale"] + norm["bias"], short.hidden(fewer, ids), atol=2e-5)


@pytest.mark.heavy
def test_a_run_is_measured_as_it_is_afterwards(text_file, tmp_path, cache):
    """What evaluations measured is what the checkpoint gives, before and after; it selects the checkpoint, and training does not notice."""
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = f"jsonl:{tmp_path}/q.jsonl"
    quiet_train(tiny_config(text_file, training__steps=2, model__max_length=48), tmp_path / "base")
    options = {
        "training__steps": 8,
        "model__max_length": 48,
        "init__from_": str(tmp_path / "base"),
        "tune__method": "lora",
    }
    quiet_train(tiny_config(text_file, **options), tmp_path / "plain")
    asks = {"eval__behavior__tasks": ("recall", "options", "extraction"), "eval__behavior__source": source}
    asks |= {"eval__behavior__max_new_tokens": 4, "select__metric": "behavior/options/probability"}
    quiet_train(tiny_config(text_file, **options, **asks), tmp_path / "run")
    rows = [row for row in Workdir(tmp_path / "run").read_metrics() if "behavior/recall/accuracy" in row]
    assert [row["step"] for row in rows] == [0, 4, 8]
    found = before_after.compare([f"{tmp_path}/run@last"], "", ())
    assert [run["step"] for run in found["runs"]] == [2, 8] and found["asked"] == dict.fromkeys(
        asks["eval__behavior__tasks"], 12
    )
    for run, row in zip(found["runs"], (rows[0], rows[-1])):
        assert run["values"] == pytest.approx({name: row[name] for name in run["values"]}, rel=1e-5, abs=1e-4)
    best = max(rows, key=lambda row: row["behavior/options/probability"])
    assert before_after.compare([f"{tmp_path}/run@best"], "", (), parent=False)["runs"][0]["step"] == best["step"]
    with_, without = (
        [row["validation/nll"] for row in Workdir(tmp_path / name).read_metrics() if "validation/nll" in row]
        for name in ("run", "plain")
    )
    assert len(with_) == 3
    assert with_ == without


def test_a_text_of_the_prompt_is_read_at_its_last_token(params, tmp_path, cache):
    """The stream there is that of the whole row's, and of a prompt cut behind it."""
    questions = asked(
        {"question": "Where is Ann now?", "answer": "x", "name": "Ann"},
        {"question": "Bo?", "answer": "x", "name": "Bo"},
    )
    asking = Asking(Rendering(BYTES, None, " "), Reader(MODEL, rows=2), None, {"streams": questions}, at="name")
    assert asking.places == {"0": len("Where is Ann") - 1, "1": 1}
    found = asking.ask(params).streams(questions[0])
    whole = MODEL.streams(params, jnp.asarray([BYTES.encode("Where is Ann")]))
    np.testing.assert_allclose(found, whole[:, 0, -1], atol=1e-5)


def test_every_task_is_measured(params, tmp_path, cache):
    values, details, _ = measured(tmp_path, params)
    assert {name.split("/")[1] for name in values} == set(ALL) == set(details)
    assert all(math.isfinite(value) for value in values.values())
    assert len(details["probe"]["layers"]) == MODEL.spec.layers + 1
    pairs = itertools.pairwise(details["calibration"]["equal_mass"])
    assert all(a["high"] <= b["low"] for a, b in pairs)
