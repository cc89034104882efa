"""What a teacher is asked about answers, and where what it says is put: beside a model that is a sum, by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax.errors import UserError
from ptft_jax.objectives.distill import IDS, LOG_PROBS, Distill
from ptft_jax.objectives.own_answers import GKD, SDFT
from ptft_jax.training.demonstration import shown_ids
from ptft_jax.training.reference import Asked
from ptft_jax.training.self_taught import Demonstrated
from ptft_jax.training.taught_answers import Taught
from tests.data.formats.helpers import encoder

VOCAB = 7
TABLE = np.random.default_rng(0).normal(size=(VOCAB, VOCAB)).astype(np.float32)


class Bag:
    """A model that predicts a token by the sum of a table's rows of all tokens before."""

    context_parts = 1

    def run(self, params, inputs):
        return jnp.cumsum(jax.nn.one_hot(inputs.values, VOCAB), axis=1), None

    def logits(self, params, hidden):
        return hidden @ params


def predicted(ids, before):
    """Log-probabilities [answer's tokens, V] after each of a text's tokens from the last of so many on."""
    logits = np.array([TABLE[ids[: n + 1]].sum(0) for n in range(before - 1, len(ids) - 1)], np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


ROWS = [
    {"ids": [1, 2, 3, 4, 0], "prompt_tokens": 2, "reason": "end"},
    {"ids": [5, 6, 6], "prompt_tokens": 1, "reason": "length"},
]


def feed(kind, objective, **changes):
    made = kind.__new__(kind)
    made._objective, made._size, made._length, made._part, made._jitted = objective, 2, 6, 1, False
    made.check = lambda: None
    merge = lambda trainable, frozen: trainable  # noqa: E731
    made._trainer = types.SimpleNamespace(model=Bag(), mesh=None, partition=types.SimpleNamespace(merge=merge))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_teacher_is_asked_about_the_ids_that_were_sampled():
    """Of an answer with its end, and of nothing else."""
    made = feed(Taught, GKD(inner=Distill(top=3, data_weight=0.0, precomputed=False)))
    made.teacher = Asked(lambda: (Bag(), TABLE), jax.device_put, 1, (), "the teacher's predictions", "config.field")
    out = made._batch(0, ROWS, None)
    assert out["weights"].tolist() == [[0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert out["targets"][0].tolist() == [2, 3, 4, 0, 0, 0] and out["ended"].tolist() == [1, 0]
    for n, row in enumerate(ROWS):
        here, expected = out["weights"][n] > 0, predicted(row["ids"], row["prompt_tokens"])
        assert out[IDS][n][here].tolist() == np.argsort(-expected, axis=-1)[:, :3].tolist()
        np.testing.assert_allclose(out[LOG_PROBS][n][here][:, :3], -np.sort(-expected, axis=-1)[:, :3], rtol=1e-5)
    made = feed(Taught, GKD(inner=Distill(data_weight=0.0, precomputed=False)))
    bad = Asked(lambda: (Bag(), TABLE * np.nan), jax.device_put, 2, (), "the teacher's predictions", "config.field")
    made.teacher = bad
    with pytest.raises(UserError, match="config.field: the teacher's predictions are not finite"):
        made._batch(0, ROWS, None)


def test_a_demonstration_is_read_by_the_teacher_alone():
    """What it predicts stands at the answer's tokens after the prompt without it."""
    shown = [[3, 1, 1, 2], [2, 5, 6, 5]]
    prompts = types.SimpleNamespace(shown=lambda source, row: shown[row])
    drawn = types.SimpleNamespace(addresses=lambda number: (np.zeros(2, int), np.array([1, 0])))
    objective = SDFT(inner=Distill(data_weight=0.0, precomputed=False))
    made = feed(Demonstrated, objective, _prompts=prompts, _drawn=drawn, _width=8, _average=False)
    made._mine = lambda rows: rows
    state = types.SimpleNamespace(anchor=TABLE, ema=None, frozen=None)
    out = made._batch(0, ROWS, state)
    for n, (row, demonstration) in enumerate(zip(ROWS, reversed(shown))):
        answer = row["ids"][row["prompt_tokens"] :]
        expected = predicted(demonstration + answer, len(demonstration))
        np.testing.assert_allclose(out[LOG_PROBS][n][out["weights"][n] > 0], expected, rtol=1e-5)
        assert not out[LOG_PROBS][n][out["weights"][n] == 0].any()
    made._average = True
    averaged = made._batch(0, ROWS, types.SimpleNamespace(anchor=None, ema=TABLE, frozen=None))
    np.testing.assert_array_equal(averaged[LOG_PROBS], out[LOG_PROBS])


def test_who_writes_follows_from_the_seed_and_the_number():
    def written(share, seed=1):
        made = feed(Taught, None, _share=share, _seed=seed)
        return [made._writes(number) for number in range(2000)]

    assert all(written(1.0)) and not any(written(0.0))
    assert abs(np.mean(written(0.3)) - 0.3) < 0.04 and written(0.3) == written(0.3) != written(0.3, 2)


def test_demonstrations_are_shown_in_the_place_of_the_prompt():
    """Of a conversation in that of its last turn; braces of a prompt are its own."""
    text = "{answer}! {prompt} ({answer}) {other}"

    def read(record, template=""):
        made = encoder([record], template=template)
        return made.tokenizer.decode(shown_ids(made, made.question(record, "here"), text))

    assert read({"prompt": "{answer}?", "completion": "yes"}) == "yes! {answer}? (yes) {other}"
    turns = [("user", "a"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    asked = encoder([record], template="chatml").question(record, "here")
    expected = asked.text.replace("c?", "d! c? (d) {other}")
    for control in ("<|im_start|>", "<|im_end|>"):  # of which tokens show nothing
        expected = expected.replace(control, "")
    assert read(record, "chatml") == expected and "d! c? (d)" in expected
