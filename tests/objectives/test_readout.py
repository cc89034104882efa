"""What is read off logits, by NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ptft_jax.objectives.readout import read

# Below two blocks of 128, of whole blocks, and with a rest.
SIZES = (1, 5, 255, 256, 300, 1024, 1153)


@pytest.mark.parametrize("size", SIZES)
def test_the_readout_is_what_scipy_and_numpy_say(size):
    rng = np.random.default_rng(size)
    logits = np.round(rng.normal(size=(3, 7, size)) * 4).astype(np.float32)  # many are equal: the first counts
    targets = rng.integers(0, size, (3, 7))
    log_z, target, best = read(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose(log_z, scipy.special.logsumexp(logits.astype(np.float64), axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(target, np.take_along_axis(logits, targets[..., None], -1)[..., 0])
    np.testing.assert_array_equal(best, logits.argmax(-1))


@pytest.mark.parametrize("size", (5, 300))
def test_its_gradient_is_the_softmax_and_the_target(size):
    rng = np.random.default_rng(size)
    logits, targets = rng.normal(size=(6, size)).astype(np.float32), rng.integers(0, size, 6)
    of_z, of_target = rng.normal(size=(2, 6)).astype(np.float32)

    def total(logits):
        found = read(logits, jnp.asarray(targets))
        return jnp.sum(found.log_z * of_z + found.target * of_target)

    expected = scipy.special.softmax(logits.astype(np.float64), axis=-1) * of_z[:, None]
    expected[np.arange(6), targets] += of_target
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(logits)), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("size", (5, 300))
def test_infinite_logits_make_no_nan_where_one_is_finite(size):
    logits = np.full((2, size), -np.inf, np.float32)
    logits[0, 3], logits[1, 4] = 2.0, np.inf
    log_z, target, best = read(jnp.asarray(logits), jnp.asarray([3, 4]))
    assert log_z.tolist() == [2.0, np.inf] and target.tolist() == [2.0, np.inf] and best.tolist() == [3, 4]
