"""Modules, biases and rows of tables that PEFT saves beside an adapter: logits equal those of PEFT, in both directions."""

import jax
import pytest

from ptft_jax.interop import peft
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.test_peft_live import TOKENS, bases, close, randomized, torch_logits  # noqa: F401

pytestmark = pytest.mark.live

SAVED = {
    "biases of adapted layers": ("llama-biases", ["q_proj", "down_proj"], dict(bias="lora_only")),
    "biases of a fused layer": ("gpt2", ["c_attn"], dict(bias="lora_only")),
    "all biases": ("llama-biases", ["q_proj"], dict(bias="all")),
    "all biases of a fused model": ("gpt2", ["c_attn", "c_fc"], dict(bias="all")),
    "a head and a table": ("llama-biases", ["q_proj"], dict(modules_to_save=["lm_head", "embed_tokens"])),
    "norms": ("llama-biases", ["v_proj"], dict(modules_to_save=["norm", "input_layernorm"])),
    "a head and biases": ("gpt2-untied", ["c_attn"], dict(modules_to_save=["lm_head"], bias="all")),
    "rows": ("llama-biases", ["q_proj"], dict(trainable_token_indices=[1, 5, 40])),
    "rows of a head": ("llama-biases", ["q_proj"], dict(trainable_token_indices={"embed_tokens": [5], "lm_head": [3, 4]})),
    "rows of a tied table": ("smollm2", ["q_proj"], dict(trainable_token_indices=[4, 5])),
    "a tied table": ("smollm2", ["v_proj"], dict(modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True)),
    "classes and all biases": ("bert-classes", ["query"], dict(task_type="SEQ_CLS", bias="all")),
    "classes": ("bert-classes", ["query"], dict(modules_to_save=["classifier", "score"], bias="lora_only")),
}  # fmt: skip
# What our writer makes of the same changes; a tied table has no place there.
WRITTEN = {name for name in SAVED if "tied" not in name}


def of(name, bases, tmp_path):  # noqa: F811
    """(expected logits, plain model, base, adapter read, name map, ties, a fresh torch base)"""
    import peft as theirs

    case, targets, options = SAVED[name]
    torch_model, plain, base, names, prefix, ties, _ = bases(case)
    config = theirs.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **options)
    adapted = randomized(theirs.get_peft_model(torch_model, config))
    expected = torch_logits(adapted, TOKENS)
    adapted.save_pretrained(tmp_path / "theirs")
    read = peft.read(tmp_path / "theirs", names, base, prefix=prefix, ties=ties)
    return expected, plain, base, read, names, ties, prefix, bases(case)[0]


@pytest.mark.parametrize("name", SAVED)
def test_what_peft_saves_beside_an_adapter(name, bases, tmp_path):  # noqa: F811
    import peft as theirs

    expected, plain, base, read, names, ties, prefix, torch_base = of(name, bases, tmp_path)
    again = theirs.PeftModel.from_pretrained(torch_base, tmp_path / "theirs").eval()
    assert close(torch_logits(again, TOKENS), expected) <= 1e-5, "PEFT itself does not read it back"
    model, params = Transformer(plain.spec, read.method), unflatten(read.onto(flatten(base)))
    alone = unflatten({**flatten(base), **flatten(read.params)})
    assert close(jax.jit(model)(params, TOKENS), expected) <= 1e-4
    assert close(jax.jit(model)(alone, TOKENS), expected) > 1e-3, "what was saved does nothing"
    assert close(jax.jit(plain)(read.method.merge(params), TOKENS), expected) <= 1e-4
    if name not in WRITTEN:
        return
    changed = list(flatten(read.replaced))
    peft.write(tmp_path / "ours", read.method, params, names, ties=ties, task=None, changed=changed)
    back = theirs.PeftModel.from_pretrained(bases(SAVED[name][0])[0], tmp_path / "ours").eval()
    assert close(torch_logits(back, TOKENS), expected) <= 1e-4
    ours = peft.read(tmp_path / "ours", names, base, prefix=prefix, ties=ties)
    assert close(jax.jit(model)(unflatten(ours.onto(flatten(base))), TOKENS), expected) <= 1e-4
