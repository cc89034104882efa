"""Learning from a teacher: beside formulas in numpy, where it leads to in closed form, and however batches are cut."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ptft_jax.config import objectives as specs
from ptft_jax.objectives.distill import IDS, LOG_PROBS, Distill
from tests.helpers import VOCAB, random_batch, repeats, train

SIZE, KEPT = 9, 3


class Bigrams:
    """A model whose parameters are the logits of what follows each token."""

    context_parts = 1

    def run(self, params, inputs):
        return (params[inputs.values],)

    def logits(self, params, hidden):
        return hidden


def tables(*seeds, scale=2.0):
    return [jnp.asarray(scale * np.random.default_rng(s).standard_normal((SIZE, SIZE)), jnp.float32) for s in seeds]


def batch_of(seed, rows=3, length=8):
    batch = random_batch(seed, rows, length)
    return batch | {name: batch[name] % SIZE for name in ("inputs", "targets")}


def taught(objective, teacher, batch):
    return batch | objective.reference_of(Bigrams(), teacher, batch)


def buckets(log_probs, kept):
    """Of probabilities over all tokens those of the tokens `kept` and of all others together."""
    p = np.exp(log_probs)
    return np.append(p[kept], np.delete(p, kept).sum()) if len(kept) < len(p) else p


def entropy_between(p, q):
    return (p * np.log(p / q)).sum()


def between(name, p, q, beta):
    if name == "forward_kl":
        return entropy_between(p, q)
    if name == "reverse_kl":
        return entropy_between(q, p)
    m = beta * p + (1 - beta) * q
    return beta * entropy_between(p, m) + (1 - beta) * entropy_between(q, m)


def logs(row, heat=1.0):
    return row / heat - np.log(np.exp(row / heat).sum())


def expected(objective, student, teacher, batch):
    """Sums of each metric, target by target."""
    names = objective.metrics
    sums = dict.fromkeys(names, 0.0)
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    for token, target, weight in zip(*(batch[n].ravel() for n in ("inputs", "targets", "weights"))):
        order = np.argsort(-teacher[token])
        kept = order[: objective.top] if 0 < objective.top < SIZE else np.arange(SIZE)
        p, q = (buckets(logs(table[token], objective.temperature), kept) for table in (teacher, student))
        nll = -logs(student[token])[target]
        apart = between(objective.divergence_from, p, q, objective.beta)
        share = objective.data_weight
        values = {
            "loss": share * nll + (1 - share) * objective.temperature**2 * apart,
            "nll": nll,
            "accuracy": student[token].argmax() == target,
            "kl": entropy_between(p, q),
            "agreement": student[token].argmax() == order[0],
            "teacher_mass": p[:-1].sum() if len(kept) < SIZE else 1.0,
        }
        for name in names:
            sums[name] += weight * values[name]
    return sums


OBJECTIVES = {
    "all tokens": Distill(data_weight=0.0),
    "top": Distill(top=KEPT, temperature=2.0),
    "reverse": Distill(top=KEPT, divergence_from="reverse_kl", data_weight=0.2),
    "jensen_shannon": Distill(top=SIZE + 5, divergence_from="jensen_shannon", beta=0.3, temperature=0.7),
    "one": Distill(top=1, divergence_from="jensen_shannon", beta=0.8),
}


@pytest.mark.parametrize("name", repeats(OBJECTIVES, "top", "jensen_shannon"))
def test_formulas(name):
    """Whether positions are scored at once or in chunks, and where a target that counts for nothing is not finite."""
    objective, (student, teacher), batch = OBJECTIVES[name], tables(0, 1), batch_of(2)
    found = expected(objective, student, teacher, batch)
    for chunk in (0, 3):
        cut = dataclasses.replace(objective, chunk=chunk)
        made = jax.jit(lambda params, cut=cut: taught(cut, params, batch))(teacher)
        assert (IDS in made) == (0 < cut.top < SIZE) and made[LOG_PROBS].shape[:2] == batch["inputs"].shape
        loss = jax.jit(lambda params, cut=cut, made=made: cut.loss(Bigrams(), params, made))(student)
        assert float(loss.weight) == batch["weights"].sum()
        for metric, value in found.items():
            np.testing.assert_allclose(loss.metrics[metric][0], value, rtol=1e-5, atol=1e-5, err_msg=metric)
    hollow = batch["inputs"] == batch["inputs"][0, 0]
    masked = batch | {"weights": np.where(hollow, 0, batch["weights"]).astype(np.float32)}
    infinite = teacher.at[batch["inputs"][0, 0]].set(jnp.inf), student.at[batch["inputs"][0, 0]].set(jnp.inf)
    made = jax.jit(lambda params: taught(objective, params, masked))(infinite[0])
    total, slope = jax.jit(jax.value_and_grad(lambda p: objective.loss(Bigrams(), p, made).total))(infinite[1])
    assert np.isfinite(total) and np.isfinite(slope).all() and np.isfinite(made[LOG_PROBS]).all()


@pytest.mark.parametrize("top", [0, KEPT])
def test_nothing_is_learned_from_a_teacher_that_is_the_same(top):
    (teacher,), batch = tables(1), batch_of(2)
    for name in ("forward_kl", "reverse_kl", "jensen_shannon"):
        objective = Distill(top=top, divergence_from=name, data_weight=0.0, temperature=1.5)
        made = taught(objective, teacher, batch)
        loss, slope = jax.jit(jax.value_and_grad(lambda p, o=objective, b=made: o.loss(Bigrams(), p, b).total))(teacher)
        assert abs(loss) < 1e-5 and abs(slope).max() < 1e-5, name


def test_a_teacher_that_is_sure_keeps_what_it_gives_to_others():
    """1 less the sum of the first is lost in rounding where they have nearly all; the mass of the others is not."""
    logits = np.full((SIZE, SIZE), -30.0, np.float32)
    logits[:, 0] = 0
    batch = batch_of(0) | {"weights": np.ones((3, 8), np.float32)}
    made = taught(Distill(top=2), jnp.asarray(logits), batch)
    np.testing.assert_allclose(made[LOG_PROBS][..., -1], np.log(7) - 30, rtol=1e-5)


def test_the_optimum_is_the_mixture_of_data_and_teacher():
    """w cross-entropy + (1 - w) KL(teacher || model) is least where the model is w times the data's shares and 1 - w times the
    teacher's."""
    (start, teacher), weight = tables(0, 1, scale=1.0), 0.3
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(SIZE), SIZE)
    inputs, targets = (x.reshape(1, -1).astype(np.int32) for x in np.meshgrid(range(SIZE), range(SIZE), indexing="ij"))
    batch = {"inputs": inputs, "targets": targets, "weights": shares.reshape(1, -1).astype(np.float32)}
    objective = Distill(data_weight=weight)
    made, optimizer = taught(objective, teacher, batch), optax.adam(optax.cosine_decay_schedule(0.05, 500))

    def step(carry, _):
        params, state = carry
        slope = jax.grad(lambda p: objective.loss(Bigrams(), p, made).total)(params)
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=500))((start, optimizer.init(start)))
    best = weight * shares + (1 - weight) * np.asarray(jax.nn.softmax(teacher))
    np.testing.assert_allclose(jax.nn.softmax(params), best, atol=2e-4)


def test_settings():
    made = {
        (teacher, share): functools.partial(_made, teacher=teacher, data_weight=share)
        for teacher in ("", "runs/a")
        for share in (0.0, 0.25)
    }
    with pytest.raises(Exception, match="config.objective.distill.data_weight = 0: the run starts as its own teacher"):
        made["", 0.0]()
    assert made["", 0.25]().needs_reference and not made["runs/a", 0.25]().needs_reference
    assert made["runs/a", 0.0]() == Distill(top=64, data_weight=0.0)
    assert specs.OBJECTIVES["distill"].kinds == specs.OBJECTIVES["causal_lm"].kinds


def _made(**changes):
    from ptft_jax import config as configs
    from ptft_jax import objectives

    return objectives.build(configs.check({"objective": {"name": "distill", "distill": changes}}).objective)


@pytest.mark.slow  # steps on meshes are those of tests/parallel/test_invariance.py
def test_the_same_on_a_mesh_and_in_parts():
    """Losses of steps do not depend on devices, shards and micro-batches."""
    objective = Distill(top=5, divergence_from="jensen_shannon", temperature=2.0)
    rng = np.random.default_rng(0)

    def with_teacher(batch):
        logits = jnp.asarray(rng.standard_normal((*batch["inputs"].shape, VOCAB)), jnp.float32)
        model = type("Given", (Bigrams,), {"run": lambda self, params, inputs: (params,)})()
        return {k: np.asarray(v) for k, v in (batch | objective.reference_of(model, logits, batch)).items()}

    batches = [with_teacher(random_batch(n)) for n in range(2)]
    one = train(objective=objective, batches=batches)
    other = train(objective=dataclasses.replace(objective, chunk=5), batches=batches, devices=8, fsdp=2, micro=2)
    np.testing.assert_allclose(other.losses, one.losses, atol=5e-6, rtol=0)
    np.testing.assert_allclose(other.grad_norms, one.grad_norms, rtol=1e-5)
    assert one.losses[0] != one.losses[1]
