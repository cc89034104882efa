"""Markers of turns that become tokens: which, where, and what then trains; and a chat run from base to other programs."""

import json
import types

import pytest

from ptft_jax import config as configs
from ptft_jax.data import chat
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.evaluation.conversation import Conversation
from ptft_jax.interop import pretrained
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import identity, loading
from ptft_jax.runs import source as restore
from ptft_jax.training import assembly, markers
from ptft_jax.verbs import export
from tests.data import kinds
from tests.helpers import tiny_config

CHATML = ("<|im_start|>", "<|im_end|>")
TABLE = ("embed/tokens/embedding", 1.0)


def added(tokenizer=None, template="chatml", **changes):
    """tokenizer.add and tune.rates of a config with `changes` whose parent has this tokenizer."""
    config = configs.default()
    config.data.template = template
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    values = configs.check(config, complete=False).as_dict()
    parent = types.SimpleNamespace(tokenizer=tokenizer, archive=True) if tokenizer else None
    markers.add(values, parent)
    return tuple(values["tokenizer"]["add"]), tuple(map(tuple, values["tune"]["rates"]))


def test_markers_that_are_no_tokens_are_added_where_the_tables_train(tmp_path):
    bare, some = tok.ByteTokenizer(), tok.with_tokens(tok.ByteTokenizer(), CHATML[:1])
    for tokenizer in (bare, None):
        assert added(tokenizer) == (CHATML, ())
    assert added(some) == (CHATML[1:], ())
    assert added(tok.with_tokens(bare, CHATML)) == added(bare, template="") == ((), ())
    assert added(bare, tokenizer__add=("<x>", "<|im_end|>")) == (("<x>", "<|im_end|>", "<|im_start|>"), ())
    assert added(bare, template="gemma")[0] == ("<start_of_turn>", "<end_of_turn>")
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}")
    assert added(bare, template=str(tmp_path / "mine.jinja"))[0] == ("<user>", "</s>", "<assistant>")
    assert added(kinds.make(kinds.llama2), template=str(tmp_path / "mine.jinja")) == ((), ())
    with pytest.raises(UserError, match="^data.template = 'chatm'.*did you mean 'chatml'"):
        added(bare, template="chatm")


def test_what_has_to_train_beside_an_adapter():
    bare = tok.ByteTokenizer()
    words, rates = added(bare, tune__method="lora", model__tied=True)
    assert words == CHATML and rates[0] == TABLE and rates[-1] == (".*", 0.0) and len(rates) == 3
    words, rates = added(bare, tune__method="lora", model__tied=False)
    assert words == CHATML and rates[:2] == (TABLE, ("head/kernel", 1.0))
    # Where the tables are kept from training on purpose, or the method has rates of its own, nothing is added.
    assert added(bare, tune__method="lora", tune__lora__b_ratio=16.0) == ((), ())
    assert added(bare, tune__train="biases")[0] == ()
    frozen = ((".*bias", 1.0), (".*", 0.0))
    assert added(bare, tune__rates=frozen) == ((), frozen)


@pytest.mark.heavy
def test_a_chat_run_talks_after_its_export(tmp_path, cache):
    """A base of bytes, the chat recipe's settings, a template from a file that is gone at the end: it leaves all the same."""
    texts, talk, template = tmp_path / "texts.txt", tmp_path / "chat.jsonl", tmp_path / "mine.jinja"
    texts.write_text("".join(f"line {i} of a text that says a little\n" for i in range(200)))
    messages = [[{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": f"a {i}"}] for i in range(60)]
    talk.write_text("".join(json.dumps({"messages": m}) + "\n" for m in messages))
    template.write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|fin|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    said = []

    class Told(Reporter):
        def say(self, text="", *rest, **options):
            said.append(str(text))

    llama = dict(norm="rms", activation="silu", gated=True, positions="rotary", biases=(), tied=True, max_length=96)

    def run(name, **changes):
        config = tiny_config(texts, training__steps=2, optimizer__warmup_steps=0, eval__every=2, **changes)
        config.model.update(llama)
        return assembly.train(config, tmp_path / name, reporter=Told())

    run("base")
    assert restore.find(str(tmp_path / "base"), "--run").meta["chat_template"] == ""
    written = export.model(str(tmp_path / "base"), "hf", tmp_path / "plain", dtype="float32")
    assert "chat_template" not in (tmp_path / "plain/tokenizer_config.json").read_text() and written["files"]
    chatting = {"data__source": f"jsonl:{talk}", "data__template": str(template), "data__length": 64}
    chatting |= {"init__from_": str(tmp_path / "base"), "tune__method": "lora"}
    said.clear()
    run("text", **chatting)
    [told] = [text for text in said if "ends a turn" in text]
    assert "'<|fin|>', which ends a turn, is 7 tokens of this tokenizer, not one" in told
    assert told.endswith("config.tokenizer.add=('<|user|>', '<|fin|>', '<|assistant|>')")
    said.clear()
    run("bot", **chatting, tokenizer__add_markers=True)
    assert not any("ends a turn" in text for text in said)
    recorded = json.loads((tmp_path / "bot/config.json").read_text())
    assert recorded["tokenizer"]["add"] == ["<|user|>", "<|fin|>", "<|assistant|>"]
    run("later", init__from_=str(tmp_path / "bot"))  # on texts again: it talks as its parent does
    source = template.read_text()
    template.unlink()
    for name in ("text", "later"):
        assert identity.chat_template(restore.find(str(tmp_path / name), "--run")) == source
    loaded = loading.load(str(tmp_path / "bot"))
    assert Conversation(loaded, max_new_tokens=2).say("q").tokens > 0  # finds it by itself
    ours = chat.encode_chat(loaded.tokenizer, messages[0], True, template=Template(source, "the run's")).tolist()
    for to, out in (("hf", tmp_path / "bot-hf"), ("gguf", tmp_path / "bot.gguf")):
        export.model(str(tmp_path / "bot"), to, out, dtype="float32")
        again = pretrained.find(f"{to}:{out}", "--run").tokenizer
        assert again.chat_template == source and 258 in again.stop_ids
        assert chat.encode_chat(again, messages[0], True).tolist() == ours
    eos = json.loads((tmp_path / "bot-hf/generation_config.json").read_text())["eos_token_id"]
    assert eos == [256, 258]
