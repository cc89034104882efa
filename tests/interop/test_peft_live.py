"""Adapters read from and written for Hugging Face PEFT: logits equal those of torch, in both directions."""

import copy

import jax
import numpy as np
import pytest

from ptft_jax.adapters.adalora import AdaLora
from ptft_jax.adapters.dora import Dora
from ptft_jax.adapters.ia3 import Ia3
from ptft_jax.adapters.lora import Lora
from ptft_jax.adapters.oft import Oft
from ptft_jax.adapters.vera import Vera
from ptft_jax.interop import archive, families, peft
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.parity import results
from tests.parity.families import CASES, build

pytestmark = pytest.mark.live
BY_NAME = {case.name: case for case in CASES}

ALL = {
    "llama-biases": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "pythia": ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gemma2": ["q_proj", "v_proj", "down_proj"],
    "bert": ["query", "key", "value", "output.dense"],
    "mixtral": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
TABLES = {  # of models with a tied head, and without
    "llama-biases": ["embed_tokens", "q_proj"],
    "smollm2": ["embed_tokens", "v_proj"],
    "gemma2": ["embed_tokens"],
    "gpt2-untied": ["wte", "wpe", "c_fc"],
}
TIED = ("smollm2", "gemma2")
IA3 = {  # target_modules, feedforward_modules: PEFT's own for these models
    "llama-biases": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "pythia": (["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]),
    "phi3": (["qkv_proj", "down_proj"], ["down_proj"]),
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
}
FIRST = {"llama-biases": "q_proj", "gpt2": "c_attn", "pythia": "query_key_value", "phi3": "qkv_proj", "bert": "query"}
STACK = {"gpt2": "transformer.h", "pythia": "gpt_neox.layers", "bert": "bert.encoder.layer"}


def peft_config(kind, name):
    import peft as theirs

    first, stack = FIRST.get(name), STACK.get(name, "model.layers")
    virtual = dict(task_type="CAUSAL_LM", num_virtual_tokens=5)
    common = dict(r=4, lora_alpha=8, target_modules=ALL.get(name), lora_dropout=0.1)
    return {
        "lora": lambda: theirs.LoraConfig(**common),
        "rslora": lambda: theirs.LoraConfig(**common, use_rslora=True),
        "dora": lambda: theirs.LoraConfig(**common, use_dora=True),
        "patterns": lambda: theirs.LoraConfig(
            **common, rank_pattern={first: 2, rf"{stack}.1.*{ALL[name][-1]}": 5}, alpha_pattern={first: 3}
        ),
        "some layers": lambda: theirs.LoraConfig(**common, layers_to_transform=[0, 2]),
        "dora in some layers": lambda: theirs.LoraConfig(**common, use_dora=True, layers_to_transform=[1]),
        "regex": lambda: theirs.LoraConfig(**{**common, "target_modules": rf".*\.[12]\..*{first}"}),
        "all-linear": lambda: theirs.LoraConfig(**{**common, "target_modules": "all-linear"}),
        "adalora": lambda: theirs.AdaLoraConfig(
            init_r=6, target_r=3, lora_alpha=10, total_step=10, lora_dropout=0.1, target_modules=ALL.get(name)
        ),
        "vera": lambda: theirs.VeraConfig(r=12, vera_dropout=0.1, target_modules=ALL.get(name)),
        "ia3": lambda: theirs.IA3Config(target_modules=IA3[name][0], feedforward_modules=IA3[name][1]),
        "oft": lambda: theirs.OFTConfig(target_modules=ALL[name], oft_block_size=8, r=0, use_cayley_neumann=False),
        "tables": lambda: theirs.LoraConfig(
            r=4, lora_alpha=6, target_modules=TABLES[name], ensure_weight_tying=name in TIED
        ),
        "prompt": lambda: theirs.PromptTuningConfig(**virtual),
        "p-tuning": lambda: theirs.PromptEncoderConfig(**virtual, encoder_hidden_size=12),
        "prefix": lambda: theirs.PrefixTuningConfig(**virtual),
        "shared prefix": lambda: theirs.PrefixTuningConfig(**virtual, encoder_hidden_size=12, prefix_projection=True),
        "gated": lambda: theirs.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=5, adapter_layers=2),
        "gated everywhere": lambda: theirs.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=5, adapter_layers=3),
    }[kind]()


CASES_OF = [
    *[(kind, name) for kind in ("lora", "dora", "ia3") for name in ("llama-biases", "gpt2", "pythia", "phi3", "bert")],
    *[(kind, name) for kind in ("rslora", "patterns") for name in ("llama-biases", "gpt2")],
    *[(kind, "gpt2") for kind in ("some layers", "dora in some layers")],
    *[("regex", name) for name in ("pythia", "llama-biases")],
    *[(kind, name) for kind in ("adalora", "vera") for name in ("llama-biases", "gpt2", "pythia")],
    ("all-linear", "llama-biases"),
    ("all-linear", "gpt2"),
    ("dora", "mixtral"),
    *[("oft", name) for name in ("llama-biases", "pythia", "phi3", "bert")],
    *[("tables", name) for name in TABLES],
    *[("prompt", name) for name in ("gpt2", "phi3", "gemma2")],
    ("p-tuning", "llama2"),
    *[("prefix", name) for name in ("gpt2", "llama2", "gemma2", "qwen3", "pythia")],
    ("shared prefix", "llama2"),
    *[("gated", name) for name in ("llama2", "mistral-full")],
    ("gated everywhere", "llama2"),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """(torch model, our model, our parameters, name map, prefix, ties, family) by the name of a case, made once."""
    pytest.importorskip("peft")
    made = {}

    def get(name):
        if name not in made:
            from tests.parity.compare import load

            folder = tmp_path_factory.mktemp(name)
            theirs = build(BY_NAME[name])
            theirs.save_pretrained(folder)
            model, params, _, _ = load(folder)
            source = archive.open_folder(str(folder), "test")
            family, fields = families.read(source.config, source.reference)
            names = family.tensors(fields), family.prefix, family.ties(fields), family.model_type
            made[name] = (theirs, model, params, *names)
        theirs, *ours = made[name]
        return (copy.deepcopy(theirs), *ours)

    return get


def randomized(model):
    """The PEFT model with every trainable number moved."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                spread = 0.2 * parameter.abs().mean() if "magnitude" in name else 0.3
                parameter.add_(torch.randn(parameter.shape) * spread)
    return model.eval()


def torch_logits(model, tokens):
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(tokens)).logits.numpy()
    return logits[:, -tokens.shape[1] :]  # without those of the prompt


def close(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


TOKENS = np.random.default_rng(0).integers(3, 97, (2, 24))


@pytest.mark.parametrize("kind, name", CASES_OF, ids=lambda v: v)
def test_theirs_to_ours_and_back(kind, name, bases, tmp_path):
    import peft as theirs

    torch_model, plain, base, names, prefix, ties, family = bases(name)
    adapted = randomized(theirs.get_peft_model(torch_model, peft_config(kind, name)))
    expected = torch_logits(adapted, TOKENS)
    # PEFT saves tables and head of the base beside an adapter of tables, unless it is told not to.
    adapted.save_pretrained(tmp_path / "theirs", save_embedding_layers=kind == "tables")

    read = peft.read(tmp_path / "theirs", names, base, prefix=prefix, ties=ties)
    method = read.method
    method.check(plain.shapes())
    model = Transformer(plain.spec, method)
    params = unflatten({**flatten(base), **flatten(read.params)})
    shapes = {p: (a.shape, a.dtype) for p, a in flatten(model.shapes()).items()}
    assert {p: (a.shape, a.dtype) for p, a in flatten(params).items()} == shapes
    before = np.asarray(jax.jit(plain)(base, TOKENS))
    assert close(before, expected) > 1e-2, "the adapter does nothing"
    imported = close(jax.jit(model)(params, TOKENS), expected)
    assert imported <= 1e-4
    results.record(BY_NAME[name], "peft", float(imported))
    if method.mergeable:
        assert close(jax.jit(plain)(method.merge(params), TOKENS), expected) <= 1e-4

    task = "CAUSAL_LM" if name != "bert" else None
    peft.write(tmp_path / "ours", method, params, names, ties=ties, family=family, base="a/base", task=task)
    again = theirs.PeftModel.from_pretrained(bases(name)[0], tmp_path / "ours").eval()
    assert close(torch_logits(again, TOKENS), expected) <= 1e-4
    back = peft.read(tmp_path / "ours", names, base, prefix=prefix, ties=ties)
    assert back.base == "a/base" and back.tune["method"] == read.tune["method"]
    for path, array in flatten(read.params).items():
        np.testing.assert_array_equal(array, flatten(back.params)[path], err_msg=path)


@pytest.mark.parametrize("alpha", [12, -1])
def test_a_pruned_adalora_keeps_its_strength(alpha, bases, tmp_path):
    """Ranks fall in training and the divisor does not: PEFT sets it before it takes rows out of what it reads."""
    import peft as theirs
    import torch

    torch_model, plain, base, names, prefix, *_ = bases("llama-biases")
    config = theirs.AdaLoraConfig(
        init_r=6,
        target_r=2,
        lora_alpha=alpha,
        tinit=1,
        tfinal=1,
        deltaT=1,
        total_step=6,
        target_modules=["q_proj", "up_proj"],
    )
    adapted = randomized(theirs.get_peft_model(torch_model, config))
    for step in range(6):
        adapted.zero_grad()
        adapted(input_ids=torch.from_numpy(np.asarray(TOKENS)).long()).logits.square().mean().backward()
        adapted.base_model.update_and_allocate(step)
    adapted.save_pretrained(tmp_path / "theirs")
    ranks = {len(array) for key, array in peft._tensors(tmp_path / "theirs").items() if key.endswith("lora_A")}
    assert max(ranks) > 0 and min(ranks) < 6, "nothing was pruned"
    again = theirs.PeftModel.from_pretrained(bases("llama-biases")[0], tmp_path / "theirs").eval()
    expected = torch_logits(again, TOKENS)

    read = peft.read(tmp_path / "theirs", names, base, prefix=prefix)
    ours = Transformer(plain.spec, read.method)
    params = unflatten({**flatten(base), **flatten(read.params)})
    assert close(np.asarray(jax.jit(plain)(base, TOKENS)), expected) > 1e-2, "the adapter does nothing"
    assert close(jax.jit(ours)(params, TOKENS), expected) <= 1e-4


OURS = {
    "lora": Lora(3, 5.0, False, 0.0, ("blocks/attention/(query|value|out)", "blocks/mlp/.*")),
    "rslora of one part": Lora(3, 5.0, True, 0.0, ("blocks/attention/value",)),
    "dora": Dora(3, 5.0, False, 0.0, ("blocks/attention/(query|value|out)", "blocks/mlp/.*")),
    "ia3": Ia3(("blocks/attention/key", "blocks/mlp/(up|down)"), ("blocks/mlp/down",)),
    "oft": Oft(8, ("blocks/attention/out", "blocks/mlp/down")),
    "pissa": Lora(3, 5.0, False, 0.0, ("blocks/attention/(query|value|out)", "blocks/mlp/.*"), "pissa"),
    "adalora": AdaLora(
        4, 2, 8.0, 0.0, 0.1, 0.3, 1, 0.85, 0.85, 0.1, ("blocks/attention/(query|value)", "blocks/mlp/.*")
    ),
    "vera": Vera(6, 0.1, 0.0, 0, ("blocks/attention/(query|value)", "blocks/mlp/.*")),
}


@pytest.mark.parametrize(  # PEFT has no rotations of GPT-2's modules
    "kind, name",
    [(k, n) for k in OURS for n in ("llama-biases", "gpt2", "pythia", "phi3", "bert") if (k, n) != ("oft", "gpt2")],
)
def test_ours_to_theirs(kind, name, bases, tmp_path):
    """Parts of fused modules, each with its own `lora_a`, are blocks of theirs."""
    import peft as theirs
    import torch

    from tests.adapters.common import moved

    torch_model, plain, base, names, prefix, *_ = bases(name)
    model = Transformer(plain.spec, OURS[kind])
    params = moved(model.init(jax.random.key(0), base))
    ours = np.asarray(jax.jit(model)(params, TOKENS))
    peft.write(tmp_path / "ours", OURS[kind], params, names, task=None)
    adapted = theirs.PeftModel.from_pretrained(torch_model, tmp_path / "ours").eval()
    exported = close(torch_logits(adapted, TOKENS), ours)
    assert exported <= 1e-4
    results.record(BY_NAME[name], "peft", float(exported))
    saved = {p for p in peft._tensors(tmp_path / "ours")}
    assert saved == set(theirs.get_peft_model_state_dict(adapted, save_embedding_layers=False)), "tensors PEFT has not"
    assert not any(torch.isnan(p).any() for p in adapted.parameters())

    back = peft.read(tmp_path / "ours", names, base, prefix=prefix)
    again = unflatten({**flatten(base), **flatten(back.params)})
    assert close(jax.jit(Transformer(plain.spec, back.method))(again, TOKENS), ours) <= 1e-4


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "prompt"])
def test_gradients(kind, bases, tmp_path):
    """What an adapter is trained by is what PEFT would train it by: DoRA's length, for one, takes no gradient."""
    import peft as theirs
    import torch

    torch_model, plain, base, names, *_ = bases("llama-biases")
    adapted = randomized(theirs.get_peft_model(torch_model, peft_config(kind, "llama-biases")))
    adapted.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    adapted = adapted.double()
    weights = np.random.default_rng(1).normal(size=(2, 24, 97)).astype(np.float32)
    logits = adapted(input_ids=torch.from_numpy(TOKENS)).logits[:, -24:]
    (logits * torch.from_numpy(weights)).sum().backward()
    with torch.no_grad():  # the gradients in the place of the parameters, so that they are read as those are
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.grad)
    adapted.save_pretrained(tmp_path / "gradients", save_embedding_layers=False)

    read, expected = (peft.read(tmp_path / part, names, base) for part in ("theirs", "gradients"))
    model = Transformer(plain.spec, read.method)

    def loss(adapter):
        return (model(unflatten({**flatten(base), **flatten(adapter)}), TOKENS) * weights).sum()

    for path, gradient in flatten(jax.jit(jax.grad(loss))(read.params)).items():
        # Sums of thousands of terms of both signs: in float32, torch's own gradients are 1.1e-4 from those in float64.
        assert close(gradient, flatten(expected.params)[path]) <= 3e-4, path


@pytest.mark.parametrize("name, tied", [("llama-biases", False), ("smollm2", True)])
def test_embeddings(name, tied, bases):
    """The table is what is adapted: of a model with a tied head, that is PEFT's `ensure_weight_tying`."""
    import peft as theirs

    torch_model, plain, base, *_ = bases(name)
    config = theirs.LoraConfig(r=4, lora_alpha=6, target_modules=["embed_tokens"], ensure_weight_tying=tied)
    adapted = randomized(theirs.get_peft_model(torch_model, config))
    table = adapted.get_input_embeddings()
    a, b = (getattr(table, f"lora_embedding_{x}")["default"].detach().numpy() for x in "AB")
    method = Lora(4, 6.0, False, 0.0, ("embed/tokens",))
    flat = flatten(base) | {"embed/tokens/adapter/lora_a": a.T, "embed/tokens/adapter/lora_b": b.T}
    model, expected = Transformer(plain.spec, method), torch_logits(adapted, TOKENS)
    assert plain.spec.tied == tied and close(jax.jit(plain)(base, TOKENS), expected) > 1e-2
    assert close(jax.jit(model)(unflatten(flat), TOKENS), expected) <= 1e-4
    assert close(jax.jit(plain)(method.merge(unflatten(flat)), TOKENS), expected) <= 1e-4


def test_experts(bases):
    """PEFT adapts an expert's gate and up as one fused parameter, so these share their `lora_a`."""
    import peft as theirs

    torch_model, plain, base, *_ = bases("mixtral")
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    config = theirs.LoraConfig(r=3, lora_alpha=5, target_modules=[], target_parameters=parameters)
    adapted = randomized(theirs.get_peft_model(torch_model, config))
    leaves = {name: [] for name in ("gate", "up", "down")}
    for layer in adapted.base_model.model.model.layers:
        wrapper = layer.mlp.experts
        while hasattr(wrapper, "parameter_name"):
            count = wrapper.num_experts
            a = wrapper.lora_A["default"].weight.detach().numpy().reshape(count, 3, -1).transpose(0, 2, 1)
            b = wrapper.lora_B["default"].weight.detach().numpy()
            b = b.reshape(b.shape[0], 3, count).transpose(2, 1, 0)
            if wrapper.parameter_name == "down_proj":
                leaves["down"].append((a, b))
            else:
                leaves["gate"].append((a, b[..., : b.shape[-1] // 2]))
                leaves["up"].append((a, b[..., b.shape[-1] // 2 :]))
            wrapper = wrapper.base_layer
    flat = flatten(base)
    for name, layers in leaves.items():
        for x, arrays in zip("ab", zip(*layers)):
            flat[f"blocks/mlp/experts/{name}/adapter/lora_{x}"] = np.stack(arrays)
    method = Lora(3, 5.0, False, 0.0, ("blocks/mlp/experts/.*",))
    model, expected = Transformer(plain.spec, method), torch_logits(adapted, TOKENS)
    assert close(jax.jit(plain)(base, TOKENS), expected) > 1e-2
    assert close(jax.jit(model)(unflatten(flat), TOKENS), expected) <= 1e-4
    assert close(jax.jit(plain)(method.merge(unflatten(flat)), TOKENS), expected) <= 1e-4
