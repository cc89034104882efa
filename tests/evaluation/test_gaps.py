"""What a model trained by span corruption answers: gaps are read in prompts and shown in answers."""

import types

import pytest

from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.spans import sentinels
from ptft_jax.evaluation import samples
from ptft_jax.model.decode import Generated
from tests.data import kinds

WRITER = types.SimpleNamespace(
    spec=types.SimpleNamespace(head="lm", causal=True)
)  # all that is asked of the model here
TOKENS = ["<extra_id_0>", "<extra_id_1>"]


@pytest.mark.parametrize(
    "kind", [kinds.byte, kinds.gpt2, kinds.wordpiece, kinds.sentencepiece_bpe], ids=lambda k: k.__name__
)
def test_gaps_are_read_and_shown(kind, monkeypatch):
    tokenizer = tok.with_tokens(tok.from_files(kind(), kind.__name__), TOKENS)
    gaps = sentinels(tokenizer)
    assert list(gaps.values()) == TOKENS
    first, second = gaps
    given, streamed = [], []
    answer = [first, *tokenizer.encode("cat sat").tolist(), second, *tokenizer.encode("mat").tolist()]

    def generate(model, params, prompts, *, on_tokens, **options):
        given.append((prompts, options["prefix"]))
        for n in range(len(answer) + 1):
            on_tokens(0, answer[:n])
        return [Generated(answer, "end")]

    monkeypatch.setattr(samples.decode, "generate", generate)
    options = dict(max_new_tokens=9, sampling=None, prefix=True, gaps=gaps)
    text = "the <extra_id_0> on the <extra_id_1> and"
    [row] = samples.continue_texts(
        WRITER, None, tokenizer, [text], on_text=lambda _, text: streamed.append(text), **options
    )
    [[ids], prefix] = given[0]
    assert prefix and [i for i in ids if i in gaps] == [first, second] and ids[-1] not in gaps
    assert row.text == "<extra_id_0>cat sat<extra_id_1>mat" and row.tokens == len(answer)
    assert streamed[-1] == row.text and all(b.startswith(a) for a, b in zip(streamed, streamed[1:]))


def test_without_gaps_prompts_are_plain_text(monkeypatch):
    tokenizer = tok.with_tokens(tok.ByteTokenizer(), TOKENS)
    given = []
    monkeypatch.setattr(samples.decode, "generate", lambda m, p, prompts, **o: given.append(prompts) or [])
    samples.continue_texts(WRITER, None, tokenizer, ["<extra_id_0>"], max_new_tokens=1, sampling=None)
    assert given == [[list(b"<extra_id_0>")]]
