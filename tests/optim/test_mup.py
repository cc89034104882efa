"""muP by its table and its promises: the base width is the standard parametrization, updates do not grow with the width, and what is
exported is the same model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.adapters.lora import Lora
from ptft_jax.errors import UserError
from ptft_jax.interop import mup as exported
from ptft_jax.model.spec import ModelSpec, contradictions
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import mup, optimizers
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, unflatten
from tests.helpers import EVERYTHING, LLAMA, SPEC, VOCAB, optimizer_config, random_batch

# Of a model 4 times as wide as its base: what divides initial weights, what divides their updates (table 8; scores of tokens, classes and
# experts with both multiplied by the table's factor on their product).
HIDDEN, OUTPUT, VECTOR = (2, 4), (4, 4), (1, 1)
TABLE = {
    "gpt2": (
        {},
        {
            "embed/tokens/embedding": VECTOR, "embed/positions/embedding": VECTOR,
            "blocks/attention/query/kernel": HIDDEN, "blocks/attention/key/kernel": HIDDEN, "blocks/attention/value/kernel": HIDDEN,
            "blocks/attention/out/kernel": HIDDEN, "blocks/mlp/up/kernel": HIDDEN, "blocks/mlp/down/kernel": HIDDEN,
        },
    ),
    "experts": (
        {**LLAMA, "experts": 2},
        {
            "embed/tokens/embedding": VECTOR, "head/kernel": OUTPUT, "blocks/mlp/router/kernel": OUTPUT,
            "blocks/attention/query/kernel": HIDDEN, "blocks/attention/key/kernel": HIDDEN, "blocks/attention/value/kernel": HIDDEN,
            "blocks/attention/out/kernel": HIDDEN,
            "blocks/mlp/experts/gate/kernel": HIDDEN, "blocks/mlp/experts/up/kernel": HIDDEN, "blocks/mlp/experts/down/kernel": HIDDEN,
        },
    ),
}  # fmt: skip


def spec_of(width=128, base=32, **changes):
    return dataclasses.replace(SPEC, width=width, layers=1, mup_base_width=base, **changes)


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    changes, table = TABLE[name]
    spec = spec_of(**changes)
    shapes = Transformer(spec).shapes()
    found = mup.divisors("adamw", Partition.of(shapes, EVERYTHING), spec.width_ratio)
    assert found == {path: table.get(path, VECTOR)[1] for path in flatten(shapes)}
    ours, plain = (
        flatten(Transformer(s).init(jax.random.key(0))) for s in (spec, dataclasses.replace(spec, mup_base_width=0))
    )
    for path, array in ours.items():  # by the same draws
        np.testing.assert_allclose(array * table.get(path, VECTOR)[0], plain[path], rtol=1e-6)


def one_update(spec, optimizer, seed=0):
    """Gradients, and parameters before and after one update."""
    model = Transformer(spec)
    params = model.init(jax.random.key(seed))
    batch = random_batch(seed, rows=2)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model(params, batch["inputs"]), batch["targets"]).mean()

    @jax.jit
    def update(params):
        gradients = jax.grad(loss)(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return gradients, optax.apply_updates(params, updates), model(params, batch["inputs"])

    return params, *update(params)


def built(spec, **config):
    partition = Partition.of(Transformer(spec).shapes(), EVERYTHING)
    ratio = spec.width_ratio if spec.mup_base_width else 0.0
    return optimizers.build(optimizer_config(**config), lambda _: 0.01, partition, ratio=ratio)


def test_the_base_width_is_the_standard_parametrization():
    spec = spec_of(32, mup_base_head_dim=8)
    plain = dataclasses.replace(spec, mup_base_width=0, mup_base_head_dim=0)
    ours, theirs = (one_update(s, built(s)) for s in (spec, plain))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_decay_does_not_depend_on_the_width():
    """Of a kernel with rate / ratio, weight decay * ratio: the rule of the authors' MuAdamW."""
    spec = spec_of()
    config = dict(clip_norm=0.0, decay_rules=EVERYTHING, eps=1e-8)
    params, gradients, after, _ = one_update(spec, built(spec, **config))
    for path, divisor in mup.divisors("adamw", Partition.of(params, EVERYTHING), 4.0).items():
        theirs = optax.adamw(0.01 / divisor, 0.9, 0.95, 1e-8, weight_decay=0.1 * divisor)
        own = flatten(params)[path]
        updates, _ = theirs.update(flatten(gradients)[path], theirs.init(own), own)
        np.testing.assert_allclose(flatten(after)[path], own + updates, rtol=1e-5, atol=1e-7)


def moved(width, base):
    """How much three updates change logits, the root of the mean square."""
    spec = spec_of(width, base, mup_base_head_dim=16 if base else 0)
    model, batch, optimizer = Transformer(spec), random_batch(0, rows=4), built(spec, clip_norm=0.0, weight_decay=0.0)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model(params, batch["inputs"]), batch["targets"]).mean()

    @jax.jit
    def update(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state, model(params, batch["inputs"])

    params = model.init(jax.random.key(0))
    state, seen = optimizer.init(params), []
    for _ in range(4):  # the last one's logits are those after three
        params, state, logits = update(params, state)
        seen.append(logits)
    return float(jnp.sqrt(jnp.mean((seen[-1] - seen[0]) ** 2)))


@pytest.mark.heavy
def test_coordinates():
    """The check of appendix D: with the width what updates change grows under the standard parametrization, and not under muP."""
    ours, plain = ([moved(width, base) for width in (64, 128, 256, 512)] for base in (64, 0))
    assert ours[0] == plain[0]
    assert max(ours) < 1.3 * min(ours), ours
    assert plain == sorted(plain) and plain[-1] > 3 * plain[0], plain


FAMILIES = {
    "tied": dict(biases=("qkv", "out", "mlp", "norm")),
    "normed queries": dict(LLAMA, query_key_norm="head"),
    "scales beside one": dict(norm="rms_plus_one", positions="rotary"),
    "masked": dict(causal=False, head="masked_lm", norm_placement="post"),
}


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_a_plain_model_has_the_same_logits(changes):
    spec = spec_of(96, 32, mup_base_head_dim=8, init_std=1.0, **changes)
    model = Transformer(spec)
    flat = flatten(model.init(jax.random.key(0)))
    params = unflatten({p: a if a.ndim > 2 else a + 0.1 for p, a in flat.items()})  # biases, too
    flat, fields = exported.folded(flatten(params), dataclasses.asdict(spec))
    plain = Transformer(ModelSpec(**fields))
    assert plain.spec == dataclasses.replace(spec, mup_base_width=0, mup_base_head_dim=0)
    tokens = np.arange(SPEC.max_length)[None] % VOCAB
    ours, theirs = model(params, tokens), plain(unflatten(flat), tokens)
    np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=2e-5 * float(jnp.abs(ours).max()))
    assert not np.allclose(plain(params, tokens), ours, rtol=0.01)


def test_what_has_no_rule_is_refused():
    spec = spec_of()
    for name in ("sgd", "muon", "adafactor"):
        with pytest.raises(UserError, match=rf"optimizer.name = '{name}': expected adamw or lion"):
            built(spec, name=name)
    with pytest.raises(UserError, match="norm_placement='post'"):
        exported.folded({}, dataclasses.asdict(dataclasses.replace(spec, norm_placement="post")))
    gemma = dataclasses.asdict(dataclasses.replace(spec, embedding_scale=True))
    assert [field for field, _, _ in contradictions(gemma)] == ["mup_base_width"]


def test_what_methods_add_keeps_its_rate():
    shapes = Transformer(spec_of(), Lora(2, 4.0, False, 0.0, ("blocks/attention/query",))).shapes()
    rules = ((".*/adapter/.*", 1.0), ("blocks/mlp/up/kernel", 1.0), (".*", 0.0))
    found = mup.divisors("lion", Partition.of(shapes, rules), 4.0)
    added = "blocks/attention/query/adapter/"
    assert found == {f"{added}lora_a": 1, f"{added}lora_b": 1, "blocks/mlp/up/kernel": 4}
    alone = Partition.of(shapes, ((".*/adapter/.*", 1.0), (".*", 0.0)))
    assert set(mup.divisors("sgd", alone, 4.0).values()) == {1}, "by any optimizer, as nothing is divided"
