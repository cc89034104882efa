"""ShiRA, MiSS, GraLoRA, HiRA, BD-LoRA and OSF beside PEFT's own: files in both directions, gradients, what it cannot do."""

import jax
import numpy as np
import pytest

from ptft_jax.adapters.bd_lora import BdLora
from ptft_jax.adapters.gralora import Gralora
from ptft_jax.adapters.hira import Hira
from ptft_jax.adapters.miss import Miss
from ptft_jax.adapters.osf import Osf
from ptft_jax.adapters.shira import Shira
from ptft_jax.errors import UserError
from ptft_jax.interop import peft
from ptft_jax.model.transformer import Transformer
from ptft_jax.params.rules import flatten, matches, unflatten
from tests.adapters.common import moved
from tests.interop.test_peft_live import ALL, TOKENS, bases, close, randomized, torch_logits  # noqa: F401 (a fixture)

pytestmark = pytest.mark.live


def config_of(kind, name="llama-biases", **changes):
    import peft as theirs

    targets = {"target_modules": ALL[name], **changes}
    blocks = dict(target_modules_bd_a=["o_proj", "down_proj"], target_modules_bd_b=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"])  # fmt: skip
    return {
        "shira": lambda: theirs.ShiraConfig(r=2, random_seed=3, **targets),
        "miss": lambda: theirs.MissConfig(r=5, miss_dropout=0.1, **targets),
        "gralora": lambda: theirs.GraloraConfig(r=4, alpha=6, gralora_k=2, gralora_dropout=0.1, **targets),
        "hybrid gralora": lambda: theirs.GraloraConfig(r=4, alpha=6, gralora_k=2, hybrid_r=3, **targets),
        "hira": lambda: theirs.HiraConfig(r=3, hira_dropout=0.1, **targets),
        "hira by patterns": lambda: theirs.HiraConfig(r=3, rank_pattern={ALL[name][0]: 2}, **targets),
        "bd_lora": lambda: theirs.LoraConfig(r=4, lora_alpha=6, use_bdlora=theirs.tuners.lora.BdLoraConfig(nblocks=2, **blocks), **targets),
        "osf": lambda: theirs.OSFConfig(effective_rank=0.25, **targets),
        "osf of some": lambda: theirs.OSFConfig(effective_rank=12, **targets),
        "some layers of miss": lambda: theirs.MissConfig(r=5, layers_to_transform=[1], **targets),
    }[kind]()  # fmt: skip


@pytest.mark.parametrize(
    "kind, name",
    [
        *[(k, "llama-biases") for k in ("shira", "miss", "gralora", "hybrid gralora", "hira", "hira by patterns", "bd_lora", "osf", "osf of some", "some layers of miss")],
        *[("hira", n) for n in ("gpt2", "pythia", "phi3")],
    ],
)  # fmt: skip
def test_theirs_to_ours_and_back(kind, name, bases, tmp_path):  # noqa: F811
    import peft as theirs

    torch_model, plain, base, names, prefix, ties, family = bases(name)
    adapted = randomized(theirs.get_peft_model(torch_model, config_of(kind, name)))
    expected = torch_logits(adapted, TOKENS)
    adapted.save_pretrained(tmp_path / "theirs")
    read = peft.read(tmp_path / "theirs", names, base, prefix=prefix, ties=ties)
    method = read.method
    method.check(plain.shapes())
    model = Transformer(plain.spec, method)
    params = unflatten({**flatten(base), **flatten(read.params)})
    shapes = {p: (a.shape, a.dtype) for p, a in flatten(model.shapes()).items()}
    assert {p: (a.shape, a.dtype) for p, a in flatten(params).items()} == shapes
    assert close(np.asarray(jax.jit(plain)(base, TOKENS)), expected) > 1e-2, "the adapter does nothing"
    assert close(jax.jit(model)(params, TOKENS), expected) <= 1e-4
    assert close(jax.jit(plain)(method.merge(params), TOKENS), expected) <= 1e-4

    peft.write(tmp_path / "ours", method, params, names, ties=ties, family=family, base="a/base")
    again = theirs.PeftModel.from_pretrained(bases(name)[0], tmp_path / "ours").eval()
    assert close(torch_logits(again, TOKENS), expected) <= 1e-4
    saved = set(peft._tensors(tmp_path / "ours"))
    assert saved == set(theirs.get_peft_model_state_dict(again)), "tensors PEFT has not"
    back = peft.read(tmp_path / "ours", names, base, prefix=prefix, ties=ties)
    assert back.tune["method"] == read.tune["method"]
    for path, array in flatten(read.params).items():
        np.testing.assert_array_equal(array, flatten(back.params)[path], err_msg=path)


@pytest.mark.parametrize("kind", ["shira", "miss", "hybrid gralora", "hira", "bd_lora", "osf"])
def test_gradients(kind, bases, tmp_path):  # noqa: F811
    """What an adapter is trained by is what PEFT would train it by: of OSF, projected."""
    import peft as theirs
    import torch

    torch_model, plain, base, names, *_ = bases("llama-biases")
    adapted = randomized(theirs.get_peft_model(torch_model, config_of(kind)))
    adapted.save_pretrained(tmp_path / "theirs")
    weights = np.random.default_rng(1).normal(size=(2, 24, 97)).astype(np.float32)
    logits = adapted(input_ids=torch.from_numpy(TOKENS)).logits
    (logits * torch.from_numpy(weights)).sum().backward()
    with torch.no_grad():  # the gradients in the place of the parameters, so that they are read as those are
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.grad)
    adapted.save_pretrained(tmp_path / "gradients")
    read, expected = (peft.read(tmp_path / part, names, base) for part in ("theirs", "gradients"))
    model, own = Transformer(plain.spec, read.method), flatten(read.params)
    fixed = {p: a for p, a in own.items() if read.method.fixed and matches((read.method.fixed,), p)}

    def loss(trained):
        return (model(unflatten({**flatten(base), **fixed, **trained}), TOKENS) * weights).sum()

    found = jax.jit(jax.grad(loss))({p: a for p, a in own.items() if p not in fixed})
    assert len(found) >= len(ALL["llama-biases"])
    for path, gradient in found.items():
        assert close(gradient, flatten(expected.params)[path]) <= 6e-4, path  # theirs in float32, too


FUSED = ("blocks/attention/(query|value)", "blocks/mlp/.*")
OURS = {
    "miss": Miss(5, 0.0, FUSED),
    "gralora": Gralora(4, 8.0, 2, 0, 0.0, FUSED),
    "bd_lora": BdLora(4, 8.0, 2, 0.0, FUSED),
    "osf": Osf(0.5, FUSED),
    "hira": Hira(3, 0.0, FUSED),
}


@pytest.mark.parametrize("kind, name", [(k, n) for k in OURS for n in ("gpt2", "phi3")])
def test_fused_modules_get_the_plain_lora_that_does_the_same(kind, name, bases, tmp_path):  # noqa: F811
    """PEFT's own OSF would train nothing of GPT-2, and say nothing."""
    import peft as theirs

    torch_model, plain, base, names, *_ = bases(name)
    model = Transformer(plain.spec, OURS[kind])
    params = moved(model.init(jax.random.key(0), base))
    ours = np.asarray(jax.jit(model)(params, TOKENS))
    peft.write(tmp_path / "ours", OURS[kind], params, names, task=None)
    adapted = theirs.PeftModel.from_pretrained(torch_model, tmp_path / "ours").eval()
    assert type(adapted.peft_config["default"]).__name__ == ("HiraConfig" if kind == "hira" else "LoraConfig")
    assert close(torch_logits(adapted, TOKENS), ours) <= 1e-4


def test_shira_of_fused_modules_is_refused(bases, tmp_path):  # noqa: F811
    _, plain, base, names, *_ = bases("gpt2")
    method = Shira(2, FUSED)
    params = Transformer(plain.spec, method).init(jax.random.key(0), base)
    with pytest.raises(UserError, match="PEFT has ShiRA of whole linear modules alone"):
        peft.write(tmp_path / "ours", method, params, names)


@pytest.mark.parametrize("tokens", [TOKENS[:1], TOKENS])
def test_why_lily_is_not_here(tokens, bases, tmp_path):  # noqa: F811
    """Of PEFT's Lily, a later token changes what earlier ones get."""
    import peft as theirs

    torch_model, _, base, names, *_ = bases("llama-biases")
    adapted = randomized(theirs.get_peft_model(torch_model, theirs.LilyConfig(r=4, target_modules=ALL["llama-biases"])))
    changed = tokens.copy()
    changed[:, -1] = (changed[:, -1] + 7) % 97
    before, after = torch_logits(adapted, tokens), torch_logits(adapted, changed)
    assert np.abs(before[:, 0] - after[:, 0]).max() > 1e-6 * np.abs(before).max()
    adapted.save_pretrained(tmp_path / "lily")
    with pytest.raises(UserError, match="peft_type 'LILY': its routing is a mean over all tokens of a batch"):
        peft.read(tmp_path / "lily", names, base)
