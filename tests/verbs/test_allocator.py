"""Whether a machine computes on an accelerator, told by what lies in /dev and what is installed."""

import importlib.util

import pytest

from ptft_jax.verbs.allocator import accelerator


@pytest.mark.parametrize(
    "platforms, device, plugin, expected",
    [
        (None, "nvidia0", "jax_plugins", True),
        (None, "accel0", "libtpu", True),
        (None, "vfio/3", "libtpu", True),
        (None, "nvidiactl", "jax_plugins", False),  # the driver without a card
        (None, "nvidia0", None, False),  # a card that JAX cannot use
        (None, None, "libtpu", False),  # to compile for one that is elsewhere
        ("cpu", "nvidia0", "jax_plugins", False),
        ("cuda,cpu", None, None, True),
    ],
)
def test_an_accelerator_is_a_device_and_its_plugin(tmp_path, monkeypatch, platforms, device, plugin, expected):
    if device:
        (tmp_path / "dev" / device).parent.mkdir(parents=True)
        (tmp_path / "dev" / device).touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == plugin else None)
    assert accelerator(platforms, str(tmp_path)) is expected
