"""Eight simulated devices, and a cache of compiled programs that repeat runs share."""

import os

# Before JAX is first used. The tests in this process compile many small programs and run each a few times, so the
# compiler is told to hurry; those that start processes (tests/e2e) run what users run.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)

import hypothesis
import pytest

# A machine that has other work to do makes examples slowly; that is no mistake of theirs.
hypothesis.settings.register_profile(
    "any_speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_speed")


@pytest.fixture(autouse=True, scope="session")
def compiled_programs():
    import jax

    from ptft_jax.verbs import command as launch

    launch.prepare_jax()
    # Many tests compile the same small programs, each in less than a command keeps programs for.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PTFT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A text of 400 lines that a tiny model can learn something of."""
    path = tmp_path_factory.mktemp("text") / "verses.txt"
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "the",
        "mat",
        "and",
        "the",
        "dog",
        "lay",
        "by",
        "the",
        "fire",
        "while",
        "rain",
        "fell",
        "on",
        "the",
        "old",
        "stone",
        "roof",
    ]
    lines = [" ".join(words[(i * k + 3 * k) % len(words)] for k in range(4, 12)) for i in range(400)]
    path.write_text("\n".join(lines) + "\n")
    return path
