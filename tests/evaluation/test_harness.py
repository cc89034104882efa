"""What lm-evaluation-harness asks of a model, answered by hand: without the harness."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.harness import Requests, Writing
from ptft_jax.model.decode import Sampling
from ptft_jax.model.transformer import Transformer
from ptft_jax.runs import loading
from tests.helpers import SPEC


@pytest.fixture(scope="module")
def loaded():
    """A random model over printable characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    characters = ["\n", *map(chr, range(32, 127)), tok.END_OF_TEXT]
    words = Tokenizer(models.WordLevel({char: i for i, char in enumerate(characters)}, unk_token=" "))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    words.decoder = decoders.Fuse()
    tokenizer = tok.from_files({tok.FILE: words.to_str().encode()}, "characters")
    model = Transformer(dataclasses.replace(SPEC, vocab_size=len(characters), max_length=16, init_std=1.0))
    source = types.SimpleNamespace(name="here")
    return loading.Loaded(source, model, jax.jit(model.init)(jax.random.key(0)), tokenizer)


@pytest.fixture(scope="module")
def asked(loaded):
    return Requests(loaded, batch_size=4, new_tokens=4)


def by_hand(loaded, context, continuation):
    """(log-probability, whether greedy) by one pass without padding to a batch."""
    ids = np.zeros((1, 16), np.int32)
    whole = [*context, *continuation]
    ids[0, : len(whole) - 1] = whole[:-1]
    logits = np.asarray(jax.jit(loaded.model)(loaded.params, ids), np.float64)[0, len(context) - 1 : len(whole) - 1]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = log_p[np.arange(len(continuation)), list(continuation)]
    return picked.sum(), bool((log_p.argmax(-1) == continuation).all())


def test_likelihoods(loaded, asked):
    pairs = [([1, 2, 3], [4, 5]), ([9], [7]), ([1, 2, 3], [4, 5]), (list(range(14)), [3, 1])]
    best = int(np.argmax(jax.jit(loaded.model)(loaded.params, np.asarray([[9] + [0] * 15]))[0, 0]))
    pairs.append(([9], [best]))
    found = asked.likelihoods(pairs)
    for (log_prob, greedy), pair in zip(found, pairs):
        expected = by_hand(loaded, *pair)
        assert log_prob == pytest.approx(expected[0], abs=2e-5) and greedy == expected[1]
    assert found[-1][1] and not asked.cut.total()


def test_answers_do_not_depend_on_what_is_computed_together(loaded, asked):
    """Rows that pad others have been counted elsewhere, and stop texts looked for in a neighbour's row."""
    alone = Requests(loaded, batch_size=1, new_tokens=4)
    pairs = [([n], list(range(n + 1))) for n in range(1, 8)]
    for one, other in zip(asked.likelihoods(pairs), alone.likelihoods(pairs)):
        assert one[0] == pytest.approx(other[0], rel=2e-6) and one[1] == other[1]
    contexts = [("a" * n, {"until": ["b"], "max_gen_toks": 4}) for n in range(1, 8)]
    assert asked.written(contexts) == alone.written(contexts)


def test_a_token_that_reaches_into_the_continuation(loaded):
    """The continuation is tokenized alone, and that is counted (lm-evaluation-harness issues 1053, 1297 and 3336)."""
    asked = Requests(loaded)
    assert asked.apart([3, 4], [5], "x") == ([3, 4], [5]) and not asked.cut["joined"]
    assert asked.apart([3, 4], [], "wer") == ([3, 4], asked.encode("wer", False)) and asked.cut["joined"] == 1
    assert asked.apart([3, 4], [], "") == ([3, 4], [])


def test_what_texts_start_with_is_there_once(loaded):
    """Also where a text, such as of a chat template, begins with it already; with no token of its own, the end stands before."""
    start = types.SimpleNamespace(encode=loaded.tokenizer.encode, prefix_ids=(1,), suffix_ids=(), bos_id=1, end_id=2)
    asked = Requests(dataclasses.replace(loaded, tokenizer=loaded.tokenizer))
    asked.tokenizer = start
    first = loaded.tokenizer.encode("a").tolist()
    start.prefix_ids = tuple(first)
    assert asked.encode("bc") == [*first, *loaded.tokenizer.encode("bc")]
    assert asked.encode("abc") == loaded.tokenizer.encode("abc").tolist() == asked.encode("abc", False)
    assert asked.start_id == 1 and Requests(loaded).start_id == loaded.tokenizer.end_id


def test_a_context_is_cut_on_the_left_and_counted(loaded):
    asked = Requests(loaded)
    long = list(range(40))
    assert asked.likelihoods([(long, [3, 1])]) == asked.likelihoods([(long[-15:], [3, 1])])
    assert asked.cut["contexts"] == 1


@pytest.mark.parametrize("pair, words", [(([1], []), "the probability of nothing"), (([1], [2] * 17), "of 17 tokens at once, and the model sees 16")])  # fmt: skip
def test_what_cannot_be_scored(pair, words, asked):
    with pytest.raises(UserError, match=words):
        asked.likelihoods([pair])


def test_whole_texts_are_sums_over_windows(loaded, asked):
    def windows(ids):
        return [([asked.start_id], ids[:5]), *([(ids[:5], ids[5:])] if ids[5:] else [])] if ids else []

    texts = ["a cat sat", "", "mat"]
    ids = [loaded.tokenizer.encode(text).tolist() for text in texts]
    expected = [sum(by_hand(loaded, *window)[0] for window in windows(each)) for each in ids]
    assert asked.rolling(texts, windows) == pytest.approx(expected, rel=1e-5) and expected[1] == 0


def test_what_is_written(loaded, asked):
    """Each request by its own settings, up to its stop texts, whatever stands beside it."""
    greedy = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    drawn = {"until": [], "max_gen_toks": 6, "temperature": 0.9, "seed": 3}
    contexts = ["the cat", "a much longer context than the model sees", "the cat"]
    found = asked.written([(contexts[0], greedy), (contexts[1], greedy), (contexts[2], drawn)])
    assert found[0] == asked.written([(contexts[0], greedy)])[0] != found[2]
    assert found[1] == asked.written([(contexts[1][-10:], greedy)])[0]
    stop = next(c for c in found[0] if c not in "\n")
    assert asked.written([(contexts[0], {**greedy, "until": [stop, ""]})])[0] == found[0].partition(stop)[0]
    with pytest.raises(
        UserError, match="asks for 16 new tokens, and the model sees 16: give --gen_kwargs=max_gen_toks=N"
    ):
        asked.written([("a", {"max_gen_toks": 16})])


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, Writing((), 4, Sampling(0.0), 0)),
        ({"until": "\n", "max_new_tokens": 3, "temperature": 0.5}, Writing(("\n",), 3, Sampling(0.5), 0)),
        ({"do_sample": False, "temperature": 0.5, "top_p": 0.9}, Writing((), 4, Sampling(0.0), 0)),
        ({"do_sample": True, "top_k": 3, "max_gen_toks": 2, "max_tokens": 9}, Writing((), 2, Sampling(1.0, 3), 0)),
    ],
    ids=str,
)
def test_settings_of_writing(given, expected):
    assert Writing.of(given, 4) == expected


def test_a_setting_of_writing_that_is_none():
    with pytest.raises(UserError, match=r"generation_kwargs: num_beams = 4 has no counterpart here"):
        Writing.of({"num_beams": 4}, 4)
    with pytest.raises(UserError, match=r"untl = 'x' has no counterpart here.*until"):
        Writing.of({"untl": "x"}, 4)
