"""The chat template that lies beside an adapter is that by which the adapted model talks."""

import json
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from ptft_jax.data import tokenizers as tok
from ptft_jax.data.chat_templates import BUILT_IN
from ptft_jax.evaluation import conversation as module
from ptft_jax.evaluation.conversation import Conversation
from ptft_jax.evaluation.samples import Continuation
from ptft_jax.interop import export
from ptft_jax.runs import identity, loading
from tests.interop import small

OWN = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
BASES = "{% for m in messages %}({{ m.content }}){% endfor %}"
KEY = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base with no template, one with its own, and an adapter for both."""
    made = tmp_path_factory.mktemp("template")
    for name, template in (("bare", ""), ("talks", BASES)):
        exported = export.Exported(
            small.params_of(small.LLAMA), small.LLAMA, tok.ByteTokenizer(), [], template=template
        )
        export.to_folder(exported, made / name, dtype="float32")
    rng = np.random.default_rng(0)
    tensors = {KEY.format(i, x): rng.normal(size=(2, 32) if x == "A" else (32, 2)) for i in range(3) for x in "AB"}
    (made / "adapter").mkdir()
    save_file({k: a.astype(np.float32) for k, a in tensors.items()}, made / "adapter/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (made / "adapter/adapter_config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize("base", ["bare", "talks"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_the_adapters_template_is_talked_by(base, name, folders, monkeypatch):
    given = []

    def answer(model, params, tokenizer, prompts, **options):
        given.extend(tokenizer.decode(ids) for ids in prompts)
        return [Continuation("", "yes", 3, "end")]

    monkeypatch.setattr(module, "continue_ids", answer)
    file = folders / "adapter" / name
    file.write_text(OWN if name.endswith("jinja") else json.dumps({"chat_template": OWN}))
    try:
        loaded = loading.load(f"hf:{folders / base}", adapter=str(folders / "adapter"))
        Conversation(loaded, max_new_tokens=3).say("hi")
        Conversation(loaded, max_new_tokens=3, template="chatml").say("hi")
    finally:
        file.unlink()
    assert given[0] == "[hi]" and given[1].startswith("<|im_start|>user\nhi")
    plain = loading.load(f"hf:{folders / base}", adapter=str(folders / "adapter"))
    assert plain.template == "", "none is there any more"


def test_a_run_from_an_adapter_learns_its_template(tmp_path):
    (tmp_path / "chat_template.jinja").write_text(OWN)
    tokenizer = tok.ByteTokenizer()
    parent = types.SimpleNamespace(fields={"image_size": 0}, tokenizer=tokenizer, meta={"chat_template": BASES})

    def learned(name, rows, adapter=""):
        return identity.learned_template(name, tokenizer, rows, parent, adapter).source

    text, talks = [{"source": "text:a", "format": "text"}], [{"source": "jsonl:a", "format": "messages:messages"}]
    assert learned("", text) == BASES and learned("", text, str(tmp_path)) == OWN
    assert learned("chatml", talks, str(tmp_path)) == BUILT_IN["chatml"]  # what it was trained on
