"""Learned vectors before the tokens: what they amount to, packing, generation, initial values."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ptft_jax import adapters
from ptft_jax import config as configs
from ptft_jax.adapters.prompt import PROMPT, Prompt
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.model.decode import Sampling, generate
from ptft_jax.model.inputs import Inputs
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.runs import loading
from tests.adapters.common import check_programs, check_training
from tests.helpers import LLAMA, SPEC, VOCAB, quiet_train, random_batch, tiny_config

N = 3
BERT = dict(causal=False, norm_placement="post", token_types=2, embedding_norm=True)


def built(init="vocabulary", **changes):
    model = Transformer(dataclasses.replace(SPEC, **{"init_std": 0.3, "max_length": 64} | changes), Prompt(N, init))
    return model, jax.jit(model.init)(jax.random.key(0))


def as_text(params, tokens):
    """The same parameters and rows with the prompt written out: as tokens added to the vocabulary."""
    flat = flatten(params)
    prompt = flat.pop(PROMPT)
    flat["embed/tokens/embedding"] = jnp.concatenate([flat["embed/tokens/embedding"], prompt])
    first = np.broadcast_to(VOCAB + np.arange(N), (len(tokens), N))
    return unflatten(flat), np.concatenate([first, tokens], axis=1)


@pytest.mark.parametrize(
    "family",
    [
        {},
        pytest.param(LLAMA, marks=pytest.mark.slow),
        pytest.param(BERT, marks=pytest.mark.slow),
        dict(LLAMA, window=5),
    ],
    ids=["gpt2", "llama", "bert", "mistral"],
)
def test_a_prompt_is_text_of_tokens_of_its_own(family):
    model, params = built(**family)
    tokens = random_batch(0, rows=2)["inputs"]
    longer, text = as_text(params, tokens)
    plain = Transformer(dataclasses.replace(model.spec, vocab_size=VOCAB + N))
    expected = plain.hidden(longer, text)[:, N:]
    np.testing.assert_allclose(model.hidden(params, tokens), expected, atol=2e-5)
    without = {k: v for k, v in flatten(params).items() if k != PROMPT}
    assert np.abs(Transformer(model.spec).hidden(unflatten(without), tokens) - expected).max() > 0.1


@pytest.mark.heavy
def test_every_segment_of_a_packed_row_sees_the_prompt():
    model, params = built(**LLAMA)
    a, b = random_batch(0, rows=1, length=6)["inputs"], random_batch(1, rows=1, length=9)["inputs"]
    packed = model(
        params,
        Inputs(
            np.concatenate([a, b, np.zeros((1, 2), np.int32)], axis=1),
            positions=np.array([[*range(6), *range(9), 0, 0]]),
            segments=np.array([[1] * 6 + [2] * 9 + [0] * 2]),
        ),
    )
    np.testing.assert_allclose(packed[:, :6], model(params, a), atol=2e-5)
    np.testing.assert_allclose(packed[:, 6:15], model(params, b), atol=2e-5)
    assert np.isfinite(packed).all()


@pytest.mark.parametrize(  # a window counts the padding between prompt and text
    "family, left",
    [pytest.param(dict(LLAMA, window=5), False, marks=pytest.mark.heavy), (BERT, False), (BERT, True)],
    ids=["window", "bert", "bert, left"],
)
def test_a_prompt_is_part_of_a_text_and_not_of_its_padding(family, left):
    """Where it cannot be shared by several texts."""
    model, params = built(**family)
    text, padding = random_batch(0, rows=2, length=9)["inputs"], np.zeros((2, 4), np.int32)
    both, at = ([padding, text], slice(4, 13)) if left else ([text, padding], slice(9))
    segments = np.zeros((2, 13), np.int32)
    segments[:, at] = 1
    positions = np.zeros((2, 13), np.int32)
    positions[:, at] = np.arange(9)
    found = model(params, Inputs(np.concatenate(both, axis=1), positions=positions, segments=segments))
    np.testing.assert_allclose(found[:, at], model(params, text), atol=2e-5)
    assert np.isfinite(found).all()


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["masked_lm", pytest.param("mistral", marks=pytest.mark.slow)])
def test_rows_of_several_texts_are_refused_where_a_prompt_cannot_be_shared(kind, tmp_path, cache):
    rows = "".join(json.dumps({"text": f"{n} {'word ' * (n % 3 + 1)}"}) + "\n" for n in range(60))
    (tmp_path / "short.jsonl").write_text(rows)
    changes: dict = {"model__window": 8} if kind == "mistral" else {"model__causal": False, "objective__name": kind}
    if kind == "masked_lm":
        changes |= {"model__head": "masked_lm", "tokenizer__add": ("[MASK]",)}
    changes |= dict(data__source=f"jsonl:{tmp_path}/short.jsonl", data__packing="best_fit", model__max_length=64)
    changes |= dict(tune__method="prompt", tune__prompt__length=3, training__steps=2)

    def made(**more):
        return tiny_config(tmp_path / "short.jsonl", **{**changes, **more})

    with pytest.raises(
        UserError, match="config.data.packing = 'best_fit': rows of several texts cannot share .*set data.pa"
    ):
        quiet_train(made(), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()
    quiet_train(made(data__packing="none"), tmp_path / "run")
    loaded = loading.load(str(tmp_path / "run"))
    assert np.isfinite(evaluate(loaded, "", "validation")["nll"])
    with pytest.raises(UserError, match="--packing=best_fit: rows of several texts cannot share .*--packing=none"):
        evaluate(loaded, "", "validation", packing="best_fit")


@pytest.mark.parametrize("family", [{}, dict(LLAMA, window=5, scan=False)], ids=["gpt2", "mistral"])
def test_generation_with_the_cache_equals_no_cache(family):
    model, params = built(**family)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11] * 20]
    rows = generate(model, params, prompts, max_new_tokens=18, sampling=Sampling(temperature=0))
    forward = jax.jit(model)
    for prompt, row in zip(prompts, rows):
        text = np.zeros((1, 64 - N), np.int32)
        text[0, : len(prompt)] = prompt
        for n in range(len(prompt), len(prompt) + 18):
            text[0, n] = int(jnp.argmax(forward(params, text)[0, n - 1]))
        assert row.ids == text[0, len(prompt) : len(prompt) + 18].tolist()
    with pytest.raises(UserError, match="starts with 3 learned vectors: a prompt of 60 leaves room for 1 new"):
        generate(model, params, [[1] * 60], max_new_tokens=2)


def test_initial_values():
    model, params = built(embedding_scale=True)
    flat = flatten(params)
    table = np.asarray(flat["embed/tokens/embedding"]) * np.float32(SPEC.width**0.5)  # what the model sees of a token
    rows = [int(np.abs(table - vector).max(axis=1).argmin()) for vector in flat[PROMPT]]
    np.testing.assert_allclose(table[rows], flat[PROMPT], rtol=1e-6)
    assert len(set(rows)) == N
    base = Transformer(model.spec).init(jax.random.key(9))  # drawn from the base it is put on
    table = np.asarray(base["embed"]["tokens"]["embedding"]) * np.float32(SPEC.width**0.5)
    np.testing.assert_allclose(table[rows], flatten(model.init(jax.random.key(0), base))[PROMPT], rtol=1e-6)
    noise = np.asarray(flatten(built("random")[1])[PROMPT])
    assert noise.shape == (N, 32) and 0.4 < np.abs(noise).max() <= 0.5 and abs(noise.mean()) < 0.1


def test_a_text_to_start_from():
    made = {}
    for words, tokens in (
        ("its tokens are 2, repeated to 3", (5, 9)),
        ("its tokens are 4, the first 3 are taken", (7, 8, 9, 4)),
    ):
        prompt = Prompt(N, "text", "a text").encoded(lambda text, tokens=tokens: tokens)
        assert prompt.note == f"config.tune.prompt.text: {words}"
        params = jax.jit(Transformer(SPEC, prompt).init)(jax.random.key(0))
        made[tokens] = np.asarray(flatten(params)[PROMPT])
        table = np.asarray(flatten(params)["embed/tokens/embedding"])
    np.testing.assert_array_equal(made[5, 9], table[[5, 9, 5]])
    np.testing.assert_array_equal(made[7, 8, 9, 4], table[[7, 8, 9]])
    assert not Prompt(2, "text", "ab", (5, 9)).note and not Prompt(N, "vocabulary").note
    config = configs.check({"tune": {"method": "lora+prompt", "prompt": {"init": "text", "length": N}}}, complete=False)
    with pytest.raises(UserError, match="config.tune.prompt.text is empty"):
        adapters.build(config.tune, lambda text: list(text.encode()))
    without = adapters.build(config.tune).methods[1]  # to hold vectors that are there: no start of its own
    assert np.isnan(flatten(Transformer(SPEC, without).init(jax.random.key(0)))[PROMPT]).all()


def test_training():
    check_training(Prompt(N, "vocabulary"), max_length=32)


@pytest.mark.slow
def test_every_way_of_running_it_is_the_same():
    check_programs(Prompt(N, "vocabulary"), max_length=32)


@pytest.mark.parametrize("bad", ["too long", "an image model"])
def test_impossible_prompts(bad, text_file, tmp_path, cache):
    if bad == "too long":
        with pytest.raises(
            UserError, match="config.tune.prompt.length = 20: with data.length 32 above model.max_length"
        ):
            quiet_train(tiny_config(text_file, tune__method="prompt"), tmp_path / "run")
    else:
        with pytest.raises(UserError, match="no token embedding"):
            Prompt(N, "random").check({"embed": {"patches": {"kernel": np.zeros((2, 2))}}})
