"""Where in a text its tokens come from, for every kind of tokenizer."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptft_jax.data import tokenizers as tok
from tests.data import kinds
from tests.data.kinds import FRAGMENTS, make, named

ANY = st.text(max_size=40) | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
EXAMPLES = settings(max_examples=60, deadline=None)
# Kinds whose tokens are the text's bytes, one after the other.
VERBATIM = (kinds.byte, kinds.gpt2, kinds.byte_level, kinds.llama3, kinds.tiktoken)


@named(kinds.ALL)
@EXAMPLES
@given(text=ANY)
def test_spans_belong_to_the_ids_and_lie_in_the_text(kind, text):
    t = make(kind)
    [(ids, spans)] = t.encode_spans([text])
    assert ids.dtype == spans.dtype == np.int32 and spans.shape == (len(ids), 2)
    assert ids.tolist() == t.encode(text, special=True).tolist()
    assert (np.diff(spans[:, 0]) >= 0).all() and (spans[:, 0] < spans[:, 1]).all()
    inside = spans[spans[:, 0] < len(text)]
    assert (inside[:, 1] <= len(text)).all() and (spans[:, 0] <= len(text)).all()
    # A control token is where its text is, with no white space but what its settings take.
    spelling = {i: text for text, i in t.special.items()}
    for i, (start, end) in zip(ids.tolist(), spans.tolist()):
        if i in spelling and i != t.unk_id:
            assert text[start:end] == spelling[i]


@named(VERBATIM)
@EXAMPLES
@given(text=ANY)
def test_spans_are_those_of_the_bytes(kind, text):
    """Counted from the tokens' bytes: a token's characters are all that it has a byte of."""
    t = make(kind)
    [(ids, spans)] = t.encode_spans([text])
    spelling = {i: text.encode() for text, i in t.special.items()}
    pieces = [spelling.get(i) or t.token_bytes(i) for i in ids.tolist()]
    data = text.encode()
    assert b"".join(pieces) == data
    first = 0
    for piece, (start, end) in zip(pieces, spans.tolist()):
        # Whole characters before its first byte, and up to its last.
        assert start == sum(byte & 0xC0 != 0x80 for byte in data[: first + 1]) - 1
        first += len(piece)
        assert end == sum(byte & 0xC0 != 0x80 for byte in data[:first])


@named((kinds.llama2, kinds.sentencepiece_bpe))
@EXAMPLES
@given(text=ANY)
def test_every_character_has_a_token_where_nothing_is_normalized_away(kind, text):
    [(_, spans)] = make(kind).encode_spans([text])
    covered = {character for start, end in spans.tolist() for character in range(start, end)}
    assert covered >= set(range(len(text)))


def test_a_character_of_several_tokens_belongs_to_all_of_them():
    for kind in kinds.ALL:
        t = make(kind)
        text = "a 🜁🜂b"  # in no vocabulary
        [(ids, spans)] = t.encode_spans([text])
        for character in (2, 3):
            whole = [i for i, (start, end) in zip(ids.tolist(), spans.tolist()) if start <= character < end]
            if kind in VERBATIM:
                assert text[character].encode() in b"".join(map(t.token_bytes, whole))
            assert whole, f"{kind.__name__} has no token for character {character}"
            if kind in (kinds.byte, kinds.llama2, kinds.sentencepiece_bpe):
                assert len(whole) == 4


def test_texts_are_encoded_in_one_go_and_what_is_no_text_is_refused():
    for kind in kinds.ALL:
        t = make(kind)
        texts = ["the cat", "", " on the mat", "é"]
        for (ids, spans), text in zip(t.encode_spans(texts), texts):
            [(alone, places)] = t.encode_spans([text])
            assert ids.tolist() == alone.tolist() and spans.tolist() == places.tolist()
        with pytest.raises(tok.UserError, match="text 1 is not Unicode: character 1 is the lone surrogate U\\+D800"):
            t.encode_spans(["a", "b\ud800"])


@named(kinds.ALL)
def test_a_tokenizer_can_be_sent_to_another_process(kind):
    t = tok.with_tokens(make(kind), ["<new>"])
    again = pickle.loads(pickle.dumps(t))
    assert tok.fingerprint(again) == tok.fingerprint(t) and again.stop_ids == t.stop_ids and again.named == t.named
    assert again.encode("the <new> cat", special=True).tolist() == t.encode("the <new> cat", special=True).tolist()
