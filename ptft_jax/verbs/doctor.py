"""Checks this machine: versions, devices, cache, a compiled training step. Exits with 1 where something is wrong.

python -m ptft_jax.verbs.doctor
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from absl import flags

from ptft_jax import environment
from ptft_jax.verbs.command import launch, prepare_jax


def define() -> None:
    flags.DEFINE_bool("offline", False, "Do not try to fetch the embedded texts.")


def main() -> int:
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("packages", lambda: ", ".join(f"{k} {v}" for k, v in environment.versions().items())),
        ("cache", _cache),
        ("devices", _devices),
        ("compiled step", _step),
    ]
    if not flags.FLAGS.offline:
        checks.append(("embedded text", _text))
    prepare_jax()
    failed = 0
    for name, check in checks:
        try:
            print(f"ok    {name}: {check()}", flush=True)
        except Exception as e:  # whatever is broken on this machine, report it and go on
            failed += 1
            print(f"FAIL  {name}: {e}", flush=True)
    return 1 if failed else 0


def _python() -> str:
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be run without installing it
        raise RuntimeError(f"Python {sys.version.split()[0]}: 3.11 or newer is needed")
    versions = environment.versions().items()
    missing = [name for name, version in versions if version == "-" and name not in environment.EXTRAS]
    if missing:
        raise RuntimeError(f"packages are missing: pip install {' '.join(missing)}")
    return sys.version.split()[0]


def _cache() -> str:
    from ptft_jax.data import cache

    probe = cache.root() / "doctor"
    cache.write_atomic(probe, lambda temporary: temporary.write_text("ok", encoding="utf-8"))
    probe.unlink()
    free = shutil.disk_usage(cache.root()).free / 2**30
    return f"{cache.root()} is writable, {free:.1f} GiB free"


def _devices() -> str:
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].platform} ({jax.devices()[0].device_kind})"


def _step() -> str:
    import tempfile

    from ptft_jax import config
    from ptft_jax.reporting.progress import Reporter
    from ptft_jax.training import assembly

    with tempfile.TemporaryDirectory() as folder:
        tiny = config.default()
        tiny.model.update(layers=1, width=32, heads=2, max_length=16)
        tiny.data.update(source="stdlib:prose", length=16, batch_size=assembly.device_rows(4))
        tiny.training.steps = 2
        tiny.eval.update(tokens=64, test=False)
        began = time.monotonic()
        summary = assembly.train(tiny, f"{folder}/run", reporter=Reporter(quiet=True))
    return f"loss {summary['last']['validation/nll']:.3f} after 2 steps, {time.monotonic() - began:.1f} s with compiling and saving"


def _text() -> str:
    from ptft_jax.data import assets

    return f"{len(assets.plays())} plays of Shakespeare"


if __name__ == "__main__":
    launch(define, main)
