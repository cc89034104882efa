"""How the process keeps memory that a step has freed."""

from __future__ import annotations

import glob
import importlib.util
import os
import sys


def accelerator(platforms: str | None, root: str = "/") -> bool:
    """Whether JAX will find an accelerator: a device of the machine and a plugin for it. JAX itself is not asked, since it must
    not have started when processes that share a run join. `platforms`: what the user chose ($JAX_PLATFORMS), if anything."""
    if platforms:
        return not platforms.startswith("cpu")
    plugins = importlib.util.find_spec("jax_plugins") or importlib.util.find_spec("libtpu")
    devices = ("dev/nvidia[0-9]*", "dev/kfd", "dev/accel*", "dev/vfio/[0-9]*")
    return bool(plugins) and any(glob.glob(os.path.join(root, pattern)) for pattern in devices)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed buffers for the next step.

    A compiled program on a CPU allocates its temporary buffers again at every call. By default glibc gives large ones
    back to the kernel each time, and a quarter of a small model's step is spent in page faults. The price: the
    process holds its peak memory. Does nothing elsewhere, or where a MALLOC_ variable says what the user wants.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # M_ARENA_MAX, ... of malloc.h
    mallopt(arena_max, 1)  # other arenas cannot grow beyond 64 MiB and fall back to mapping
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 2**31 - 1)
