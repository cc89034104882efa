"""Bits per byte: the code length of whole texts, ends included, over the bytes of the texts."""

import itertools
import math
import types

import numpy as np
import pytest

from ptft_jax.evaluation.evaluate import EvalSet

CHANCE = {b"a": 0.5, b"bc": 0.25, b"": 0.25}  # of the next token, whatever came before; the last one ends a text
TOKENS = list(CHANCE)
LENGTHS = np.array([len(token) for token in TOKENS], np.int32)


def measured(texts):
    """EvalSet on texts, sequences of tokens that end with the end, one per row."""
    width = max(map(len, texts))
    targets = np.array([[*text, *[0] * (width - len(text))] for text in texts], np.int32)
    weights = np.array([[1.0] * len(text) + [0.0] * (width - len(text)) for text in texts], np.float32)

    def evaluate(state, batch):
        nats = -np.log(np.array(list(CHANCE.values())))[batch["targets"]]
        return {"nll": ((nats * batch["weights"]).sum(), batch["weights"].sum())}

    program = types.SimpleNamespace(evaluate=evaluate, place=lambda batch: batch)
    return EvalSet("test", [{"targets": targets, "weights": weights}], program, LENGTHS).run(None)["test/bits_per_byte"]


def test_it_is_the_code_length_of_whole_texts():
    """Over all texts of up to five tokens: their probabilities sum to what is known in closed form, and those of a code of
    such lengths are these. With the end's bits left out, texts would have more than all probability between them."""
    total = 0.0
    for count in range(1, 6):
        for words in itertools.product(range(2), repeat=count):
            size = sum(len(TOKENS[n]) for n in words)
            bits = measured([[*words, 2]]) * size
            chance = math.prod(CHANCE[TOKENS[n]] for n in words) * 0.25
            assert bits == pytest.approx(-math.log2(chance), rel=1e-6)
            total += 2.0**-bits
    assert total == pytest.approx(0.75 * (1 - 0.75**5), rel=1e-6)  # sum of 0.75^n * 0.25 for n = 1 .. 5


def test_of_several_texts_it_is_a_ratio_of_sums():
    texts = [[0, 2], [1, 1, 0, 2], [2]]  # the last is empty: its end has bits
    assert measured(texts) == pytest.approx((1 + 2 + (2 + 2 + 1 + 2) + 2) / (1 + 5), rel=1e-6)
