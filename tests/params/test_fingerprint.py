"""Checksums see every flipped bit, whatever the layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ptft_jax.parallel import mesh as meshes
from ptft_jax.params import fingerprint as fingerprints
from ptft_jax.params.fingerprint import checksums, fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_any_one_changed_element_shows(dtype):
    base = np.asarray(
        jax.random.normal(jax.random.key(0), (7, 5)) > 0
        if dtype == "bool"
        else jnp.arange(35).reshape(7, 5).astype(dtype)
    )
    original = checksums({"x": base})
    for place in [(0, 0), (3, 2), (6, 4)]:
        changed = base.copy()
        changed[place] = not changed[place] if dtype == "bool" else changed[place] + 1
        assert checksums({"x": changed}) != original


def test_swapped_elements_show():
    x = np.arange(10, dtype=np.float32)
    y = x.copy()
    y[[2, 7]] = y[[7, 2]]
    assert checksums({"x": x}) != checksums({"x": y})


def test_the_layout_does_not_matter():
    x = jax.random.normal(jax.random.key(1), (16, 8))
    mesh = meshes.make(1, 8)
    sharded = jax.device_put(x, NamedSharding(mesh, P("fsdp")))
    assert checksums({"a": {"x": x}}) == checksums({"a": {"x": sharded}})


def test_a_fingerprint_is_of_names_and_values():
    a, b = checksums({"x": np.ones(3)}), checksums({"y": np.ones(3)})
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(a) == fingerprint(checksums({"x": np.ones(3)}))


def test_leaves_in_the_memory_of_the_host_have_the_same_sums():
    """As optimizers with memory=host have them; a CPU takes the name of that memory, too."""
    leaf = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
    away = jax.device_put(leaf, leaf.sharding.with_memory_kind("pinned_host"))
    assert away.sharding.memory_kind == "pinned_host"
    assert checksums({"a": away}) == checksums({"a": leaf})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_small_leaves_have_the_sums_of_large_ones(monkeypatch, dtype):
    """By numpy, in several parts, those by XLA: a checkpoint is read by whichever a later version takes."""
    base = (np.random.default_rng(0).normal(size=(7, 9, 11)) * 50).astype(jnp.dtype(dtype))
    tree = {"x": base, "turned": jnp.asarray(base).T, "one": jnp.asarray(base[0, 0, 0]), "key": jax.random.key(3)}
    monkeypatch.setattr(fingerprints, "_AT_ONCE", 100)
    small = checksums(tree)
    monkeypatch.setattr(fingerprints, "_SMALL", -1)
    assert checksums(tree) == small
