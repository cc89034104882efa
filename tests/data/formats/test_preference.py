"""Pairs of answers: both as a model reads them, and nothing learned of what they share."""

import pytest

from ptft_jax.errors import UserError
from tests.data.formats.helpers import chatml_bytes, encode, encoder, shown

USER, GOOD, BAD = (
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
HEAD = "«user\nq»\n«assistant\n"


def both(record, **settings):
    [row] = encode([record], **settings)
    return shown(row), shown(row.rejected)


def test_texts_after_a_prompt():
    record = {"prompt": "q: ", "chosen": "yes", "rejected": "no"}
    assert both(record) == (("q: yes$", "...yes$"), ("q: no$", "...no$"))
    assert both(record, train_on="all") == (("q: yes$", None), ("q: no$", None))
    expected = (HEAD + "yes»\n", "." * len(HEAD) + "yes»."), (HEAD + "no»\n", "." * len(HEAD) + "no».")
    assert both({**record, "prompt": "q"}, template="chatml") == expected
    assert encoder([record]).texts(record) == ["q: ", "yes", "no"]


def test_whole_texts_learn_nothing_of_what_they_share():
    record = {"chosen": "q: yes", "rejected": "q: you"}
    assert both(record) == (("q: yes$", "....es$"), ("q: you$", "....ou$"))
    assert both(record, train_on="all") == both(record)
    assert both({"chosen": "same", "rejected": "same"}) == (("same$", "....."),) * 2
    with pytest.raises(UserError, match="data.template = 'chatml': these pairs have no prompt"):
        both(record, template="chatml")


def test_conversations_share_their_first_messages():
    expected = (HEAD + "yes»\n", "." * len(HEAD) + "yes»."), (HEAD + "no»\n", "." * len(HEAD) + "no».")
    for record in (
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {
            "chosen": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}],
            "rejected": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "no"}],
        },
    ):
        assert both(record, template="chatml") == expected
        assert encoder([record], template="chatml").texts(record) == ["q", "yes", "no"]
    # An answer that both have is of the prompt.
    longer = {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, USER, BAD]}
    (text, learned), _ = both(longer, template="chatml")
    assert text == (HEAD + "yes»\n") * 2 and learned.strip(".") == "yes»"


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="^x.jsonl, line 1: column 'prompt' is none of the messages"):
        both({"prompt": "other", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, template="chatml")
    with pytest.raises(UserError, match=r"^x.jsonl, line 1: messages\[0\]: the conversation starts with the assistant"):
        both({"chosen": [GOOD], "rejected": [BAD]}, template="chatml")
    with pytest.raises(UserError, match="no chat template"):
        both({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, tokenizer=chatml_bytes())
