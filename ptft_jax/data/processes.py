"""Work shared by processes of this machine, which end when the one that started them does."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ptft_jax.errors import UserError


class Ended(UserError):
    """A process was ended from outside; what others have done is sound."""


def mapped(function: Callable, *arguments: Iterable, count: int, setting: str) -> Iterator[Any]:
    """`map` by `count` processes, the results in order. To be closed if it is not read to its end.

    No process is at work any more when it has ended, in whichever way: what they wrote can be deleted.

    Raises:
      Ended: a process was ended from outside; `setting` says how many there are. Whatever the function raises.
    """
    # Not forked: the parent has threads (JAX's, the tokenizer's), and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=context, initializer=_begin)
    try:
        yield from pool.map(function, *arguments)
    except concurrent.futures.process.BrokenProcessPool as e:
        raise Ended(f"a worker process was ended, perhaps for lack of memory: try fewer with {setting} ({e})") from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    end_with_parent()


def end_with_parent() -> None:
    """Has this process end with the one that started it: else it would wait for work for ever where that was killed and could not tell
    it to end."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
