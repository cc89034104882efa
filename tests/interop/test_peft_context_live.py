"""Prefixes, gated prefixes and prompts that a network makes: logits and gradients equal those of PEFT's own modules."""

import jax
import numpy as np
import pytest

from ptft_jax.adapters.gated_prefix import GatedPrefix
from ptft_jax.adapters.p_tuning import PTuning
from ptft_jax.adapters.prefix import KEYS, VALUES, Prefix
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, unflatten
from tests.interop.test_peft_live import TOKENS, bases, close, randomized  # noqa: F401 (a fixture)

pytestmark = pytest.mark.live
N, SIZE = 5, 12


def linear(name, ours):
    return {f"{name}.weight": (f"{ours}/kernel", np.transpose), f"{name}.bias": (f"{ours}/bias", None)}


def split(weight):
    """PEFT's [n, L * 2 * K * H] as our keys and values, each [L, n, K * H]."""
    parts = weight.reshape(len(weight), 3, 2, -1)
    return {KEYS: parts[:, :, 0].swapaxes(0, 1), VALUES: parts[:, :, 1].swapaxes(0, 1)}


def leaves(kind, tensors):
    """Our leaves from PEFT's tensors by name (parameters, or their gradients)."""
    if kind == "prefix":
        return split(tensors["embedding.weight"])
    if kind == "shared prefix":
        names = {"embedding.weight": ("prefix/embedding", None)}
        names |= linear("transform.0", "prefix/hidden") | linear("transform.2", "prefix/out")
    elif kind == "mlp":
        names = {"embedding.weight": ("embed/adapter/embedding", None)}
        for number, ours in ((0, "input"), (2, "hidden"), (4, "output")):
            names |= linear(f"mlp_head.{number}", f"embed/adapter/{ours}")
    elif kind == "lstm":
        names = {"embedding.weight": ("embed/adapter/embedding", None)}
        names |= linear("mlp_head.0", "embed/adapter/hidden") | linear("mlp_head.2", "embed/adapter/output")
        for number in (0, 1):
            for end, ours in (("", "forward"), ("_reverse", "backward")):
                lstm = f"embed/adapter/{ours}_{number}"
                names[f"lstm_head.weight_ih_l{number}{end}"] = (f"{lstm}/input", np.transpose)
                names[f"lstm_head.weight_hh_l{number}{end}"] = (f"{lstm}/recurrent", np.transpose)
                names[f"lstm_head.bias_ih_l{number}{end}"] = (f"{lstm}/bias", None)
    elif kind == "gated":
        found = {"prompt": np.zeros((3, N, 32)), "gate": np.zeros(3)}
        for name, tensor in tensors.items():
            layer = int(name.split("layers.")[1].split(".")[0])
            found["prompt" if name.endswith("prompt") else "gate"][layer] = tensor[0]
        return {f"blocks/attention/prefix/{name}": array for name, array in found.items()}
    assert len(names) + ("lstm" in kind) * 4 == len(tensors)
    return {path: tensors[name] if turn is None else turn(tensors[name]) for name, (path, turn) in names.items()}


def kinds():
    import peft

    common = dict(task_type="CAUSAL_LM", num_virtual_tokens=N)
    encoder = dict(common, encoder_hidden_size=SIZE)
    return {
        "prefix": (lambda: peft.PrefixTuningConfig(**common), Prefix(N, 0)),
        "shared prefix": (lambda: peft.PrefixTuningConfig(**encoder, prefix_projection=True), Prefix(N, SIZE)),
        "gated": (
            lambda: peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=N, adapter_layers=2),
            GatedPrefix(N, 2),
        ),
        "mlp": (lambda: peft.PromptEncoderConfig(**encoder), PTuning(N, SIZE, "mlp")),
        "lstm": (
            lambda: peft.PromptEncoderConfig(**encoder, encoder_reparameterization_type="LSTM"),
            PTuning(N, SIZE, "lstm"),
        ),
    }


CASES_OF = [
    *[("prefix", name) for name in ("gpt2", "llama2", "mistral", "gemma2", "qwen3", "pythia")],
    *[("shared prefix", name) for name in ("gpt2", "llama2")],
    *[("gated", name) for name in ("llama2", "llama3")],
    *[(kind, "llama2") for kind in ("mlp", "lstm")],
]


@pytest.mark.parametrize("kind, name", CASES_OF, ids=lambda v: v)
def test_logits_and_gradients(kind, name, bases):  # noqa: F811
    import peft
    import torch

    torch_model, plain, base, *_ = bases(name)
    config, method = kinds()[kind]
    theirs = randomized(peft.get_peft_model(torch_model, config())).double()
    if kind == "lstm":  # two biases there, whose sum matters
        with torch.no_grad():
            for parameter_name, parameter in theirs.named_parameters():
                if "bias_hh" in parameter_name:
                    parameter.zero_()
    weights = np.random.default_rng(1).normal(size=(2, 24, 97)).astype(np.float32)
    logits = theirs(input_ids=torch.from_numpy(TOKENS)).logits[:, -24:]
    (logits * torch.from_numpy(weights)).sum().backward()
    trained = {n.removeprefix("prompt_encoder.default."): p for n, p in theirs.named_parameters() if p.requires_grad}
    values = leaves(kind, {n: p.detach().float().numpy() for n, p in trained.items()})
    gradients = leaves(kind, {n: p.grad.float().numpy() for n, p in trained.items()})
    expected = logits.detach().float().numpy()

    method.check(plain.shapes())
    model = Transformer(plain.spec, method)
    params = unflatten({**flatten(base), **{p: np.asarray(a, np.float32) for p, a in values.items()}})
    shapes = {p: a.shape for p, a in flatten(model.shapes()).items()}
    assert {p: a.shape for p, a in flatten(params).items()} == shapes
    assert close(jax.jit(plain)(base, TOKENS), expected) > 1e-2, "the method does nothing"

    def loss(added):
        logits = model(unflatten({**flatten(base), **added}), TOKENS)
        return (logits * weights).sum(), logits

    added = {p: flatten(params)[p] for p in values}
    (_, logits), got = jax.jit(jax.value_and_grad(loss, has_aux=True))(added)
    assert close(logits, expected) <= 1e-4
    for path, gradient in got.items():
        if kind == "gated":  # PEFT has none in the first layer
            gradient, gradients[path] = gradient[1:], gradients[path][1:]
        # Sums of thousands of terms of both signs, as in test_peft_live.
        assert close(gradient, gradients[path]) <= 3e-4, path
    collapsed, plainer = model.collapsed(params)
    assert close(jax.jit(collapsed)(plainer, TOKENS), expected) <= 1e-4
