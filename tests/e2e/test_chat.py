"""Talking with a tiny run of bytes: turns, input lines, a terminal, and what is said when there is no room."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from ptft_jax import chat as verb
from ptft_jax import run as runs
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.conversation import Conversation
from ptft_jax.evaluation.samples import continue_texts
from ptft_jax.model.decode import Sampling
from tests.helpers import ROOT, quiet_train, tiny_config

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def workdir(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "run"
    quiet_train(tiny_config(text_file, model__max_length=256, training__steps=30, eval__test=False), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(workdir):
    return runs.load(str(workdir))


def conversation(loaded, **changes):
    return Conversation(loaded, **({"template": "chatml", "max_new_tokens": 12, "sampling": GREEDY} | changes))


def test_an_answer_continues_what_was_said_before(loaded):
    talk = conversation(loaded)
    talk.reset("Be kind.")
    first, second = talk.say("hi"), talk.say("you")
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert first.reason == second.reason == "length" and first.tokens == 12
    said = (
        f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{first.text}"
    )
    said += "<|im_end|>\n<|im_start|>user\nyou<|im_end|>\n<|im_start|>assistant\n"
    options = {"max_new_tokens": 12, "sampling": GREEDY}
    [row] = continue_texts(loaded.model, loaded.params, loaded.tokenizer, [said], **options)
    assert row.text == second.text
    talk.reset()
    assert talk.messages == []


def test_an_answer_ends_at_a_stop(loaded):
    whole = conversation(loaded, max_new_tokens=40).say("hi")
    stop = whole.text[3:5]
    cut = conversation(loaded, max_new_tokens=40, stop=[stop]).say("hi")
    assert cut.reason == "stop" and cut.text == whole.text[: whole.text.index(stop)]
    # chatml's own end is such a text where the tokenizer has no token for it.
    assert conversation(loaded)._stop == ["<|im_end|>"]


def test_streamed_text_is_what_is_returned(loaded, capsys):
    growing = []
    talk = conversation(loaded, max_new_tokens=40, stop=["zzz"])
    answer = talk.say("hi", growing.append)
    assert len(growing) > 1 and all(b.startswith(a) for a, b in zip(growing, [*growing[1:], answer.text]))
    talk.reset()
    verb._turns(talk, ["hi"], False)
    assert capsys.readouterr().out == f"> hi\n{answer.text}\n"


def test_generation_ends_at_every_stop_token(loaded):
    """The first two greedy tokens as control tokens' ids: whichever of a tokenizer's stops comes ends it."""

    class Stops(tok.ByteTokenizer):
        pass

    options = {"max_new_tokens": 8, "sampling": GREEDY}
    [row] = continue_texts(loaded.model, loaded.params, loaded.tokenizer, ["the cat"], **options)
    stops = Stops()
    stops.stop_ids = (256, ord(row.text[5]))
    [cut] = continue_texts(loaded.model, loaded.params, stops, ["the cat"], **options)
    assert cut.reason == "end" and cut.text == row.text[: row.text.index(row.text[5])]


def test_a_conversation_that_is_too_long_is_refused_not_cut(loaded, capsys):
    talk = conversation(loaded, max_new_tokens=300)
    with pytest.raises(UserError, match=r"has 285 tokens, and the model sees at most 256"):
        talk.say("word " * 47)
    assert talk.messages == []
    verb._turns(talk, ["hi"], True)
    row = json.loads(capsys.readouterr().out)
    assert row["reason"] == "full" and 0 < row["tokens"] < 256
    talk.reset()
    verb._turns(talk, ["hi"], False)
    assert "the model sees no more" in capsys.readouterr().err


def test_a_template_is_never_chosen_unasked(loaded):
    with pytest.raises(UserError, match="the tokenizer has no chat template: choose one, such as --template=chatml"):
        conversation(loaded, template=None, field="--template")
    with pytest.raises(UserError, match=r"--template = 'chatmll': .* \(did you mean 'chatml'\?\)"):
        conversation(loaded, template="chatmll", field="--template")


def test_input_lines_are_messages(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n\nho\n"))
    assert list(verb._lines()) == ["hi", "ho"]


def test_at_a_terminal(workdir):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "XLA_FLAGS": "", "TERM": "dumb"}
    command = [sys.executable, "-m", "ptft_jax.cli", "chat", f"--run={workdir}", "--template=chatml"]
    command += ["--temperature=0", "--max_new_tokens=12"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = ""

    def until(text, times=1):
        nonlocal seen
        end = time.monotonic() + 120
        while seen.count(text) < times:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096).decode(errors="replace")

    try:
        for number, line in enumerate(["/rest", "/system Be kind.", "word " * 60, "hi"], 1):
            until("> ", number)
            os.write(ours, line.encode() + b"\n")
        until("> ", 5)
        assert "no command /rest (did you mean '/reset'?)" in seen and "the model sees at most 256" in seen
        assert len(seen.split("> hi\r\n")[1].split("\r\n")[0]) == 12
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(ours)
