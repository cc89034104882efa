"""Carrying out a run that belongs into a bucket: taken from there, and copied there as it goes on, by one launch at a time."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ptft_jax.data.records import remote
from ptft_jax.errors import UserError
from ptft_jax.parallel import processes
from ptft_jax.runs import bucket as buckets
from ptft_jax.runs import owner
from ptft_jax.runs.lease import Busy, refusal
from ptft_jax.runs.workdir import Workdir

_BEAT = 10.0  # seconds between two signs of life
_EVERY = 60.0  # between two copies, where nothing is saved meanwhile
_NAMES = Workdir(pathlib.Path())


@contextlib.contextmanager
def uploaded(folder: pathlib.Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """A context in which the run in a folder is carried out, which the launch owns (`ptft_jax.runs.lease`). Where the folder stands for a
    place in a bucket, it is made what is there first, and what is new in it is copied there when the function that is given is called, every
    minute, and at the end. All processes of a run have to call it; process 0 copies.

    Raises:
      Busy: another launch has the place in the bucket.
      UserError: it cannot be read or written.
    """
    url = buckets.url_of(folder.absolute())
    upload, problem, busy = None, "", False
    if url and processes.main():
        try:
            upload = Upload(url, folder, say)
            upload.begin()
        except UserError as e:
            upload, problem, busy = None, str(e), isinstance(e, Busy)
    if url:
        problem, busy = processes.shared([problem, busy])
    if problem:
        raise (Busy if busy else UserError)(problem)
    if upload is None:
        yield lambda: None
        return
    try:
        yield upload.push
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is told
            upload.end()
        raise
    upload.end()


class Upload:
    """The copies of a run's files in a bucket, and whose they are: a file there says it (`Workdir.owner`), and changes as long as the
    launch lives, however long a copy takes. Object stores have no locks: who does not find its own name in it any more stops writing."""

    def __init__(self, url: str, folder: pathlib.Path, say: Callable[[str], None]):
        self.url, self._folder, self._say = url, folder, say
        self._bucket = buckets.Bucket(url)
        self._nonce, self._beats = uuid.uuid4().hex, 0
        self._since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._taken = ""  # what is to be said once another launch has taken the place
        self._known: dict[str, Any] = {}  # what is there as it is here, by name
        self._lock = threading.Lock()
        self._ended = threading.Event()
        # Apart from each other: signs of life wait for no copy.
        self._heart = threading.Thread(target=self._beat, name="upload heartbeat", daemon=True)
        self._copier = threading.Thread(target=self._copy, name="upload", daemon=True)

    def begin(self) -> None:
        """Takes the place, and brings the run from there. Raises Busy, UserError."""
        with self._reached("written"):
            self._wait_for_silence()
        try:
            with self._reached("written"):
                self._sign()
            self._heart.start()
            with self._reached("read"), buckets.alone(self._folder):
                there = buckets.pull(self._bucket, self._folder, lambda _: True, contents=True)
                self._known = {name: at for name, at in buckets.facts(self._folder).items() if name in there}
                # Of launches that were killed while they copied.
                halves = [n for n in there if buckets.step_of(n) is not None and n not in self._known]
                self._refuse_taken()
                self._bucket.remove(halves)
        except BaseException:
            self._leave()
            raise
        self._copier.start()
        self._say(f"{self.url}: carried out in {self._folder}, and copied at each save")

    def push(self) -> None:
        """Makes the place in the bucket what the folder is. Raises UserError where that fails, or where another launch has taken it."""
        with self._lock, self._reached("written"):
            self._refuse_taken()
            self._send()

    def end(self) -> None:
        """Copies what is new and gives the place up. Raises as `push`."""
        try:
            self.push()
        finally:
            self._leave()

    def _send(self) -> None:
        here = buckets.facts(self._folder)
        new = [name for name, at in here.items() if self._known.get(name) != at]
        ends = {buckets.marker(step) for name in here if (step := buckets.step_of(name)) is not None}

        def send(name: str) -> tuple[str, bool]:
            if self._taken:  # as the heart found meanwhile
                raise UserError(self._taken)
            try:
                self._bucket.put(self._folder / name, name)
            except FileNotFoundError:
                if self._folder.joinpath(name).exists():
                    raise  # the bucket is not there
                return name, False  # removed meanwhile
            return name, True

        late = {_NAMES.progress.name, _NAMES.summary.name}
        gone: set[int | None] = set()
        # As they are written here: the config, when all is there that is known before the first step; a checkpoint before what makes it count,
        # and both before what tells of it.
        for part in (
            lambda name, step: step is None and name not in late and name != _NAMES.config.name,
            lambda name, step: name == _NAMES.config.name,
            lambda name, step: step is not None and name not in ends,
            lambda name, step: name in ends,
            lambda name, step: name in late,
        ):
            part_of_new = [n for n in new if part(n, buckets.step_of(n)) and buckets.step_of(n) not in gone]
            if part_of_new:  # the part before may have taken long
                self._refuse_taken()
            for name, sent in buckets.together(send, part_of_new):
                if sent:
                    self._known[name] = here[name]
                elif (step := buckets.step_of(name)) is not None:
                    gone.add(step)
        removed = [name for name in self._known if name not in here]
        pinned = self._pinned() if removed else set()
        removed = [name for name in removed if buckets.step_of(name) not in pinned]
        if removed:
            self._refuse_taken()
        # What makes a checkpoint count goes first: no reader finds half of one.
        removed.sort(
            key=lambda name: buckets.step_of(name) is None or name != buckets.marker(buckets.step_of(name) or 0)
        )
        self._bucket.remove(removed)
        for name in removed:
            del self._known[name]

    def _pinned(self) -> set[int]:
        """The steps that others need, which wrote so there (`ptft_jax.runs.pins`)."""
        names = [pathlib.PurePosixPath(name).name for name in self._bucket.files(str(_NAMES.references))]
        return {int(number) for name in names if (number := name.partition("-")[0]).isdigit()}

    def _wait_for_silence(self) -> None:
        before = self._holder()
        if not before or self._is_dead(before):
            return
        self._say(f"{self.url}: was left by another launch; waiting {owner.SILENCE:.0f} s for a sign of life")
        deadline = time.monotonic() + owner.SILENCE
        while time.monotonic() < deadline:
            time.sleep(min(1.0, owner.SILENCE / 10))
            if (now := self._holder()) != before:
                if not now:
                    return
                raise Busy(refusal("--workdir", self.url, now))

    def _is_dead(self, holder: dict[str, Any]) -> bool:
        """Whether it was a process of this machine that has ended, or an earlier run of this one, which has left it."""
        return owner.ended(holder) or (owner.is_here(holder) and holder.get("nonce") in _nonces())

    def _refuse_taken(self) -> None:
        """Raises UserError where another launch has the place, or had it and has left it: of its own accord none gives it up but this one."""
        if not self._taken and (holder := self._holder()).get("nonce") != self._nonce:
            whom = (
                f"{holder.get('host')} (process {holder.get('process')})" if holder else "a launch that has ended since"
            )
            self._taken = f"{self.url}: was taken over by {whom}, which found no sign of life of this launch: nothing more is written there"
        if self._taken:
            raise UserError(self._taken)

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self._bucket.read(_NAMES.owner.name))
        except (FileNotFoundError, ValueError):
            return {}

    def _sign(self) -> None:
        self._beats += 1
        _nonces().add(self._nonce)
        said = {
            "host": socket.gethostname(),
            "machine": owner.machine(),
            "pids": owner.pids(),
            "process": os.getpid(),
            "since": self._since,
            "nonce": self._nonce,
            "beats": self._beats,
        }
        self._bucket.write(_NAMES.owner.name, json.dumps(said).encode())

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            with contextlib.suppress(Exception):  # told by the next save
                self._refuse_taken()
                self._sign()

    def _copy(self) -> None:
        while not self._ended.wait(_EVERY):
            with contextlib.suppress(Exception):  # as above
                self.push()

    def _leave(self) -> None:
        self._ended.set()
        for thread in (self._copier, self._heart):
            if thread.ident is not None:
                thread.join()
        with contextlib.suppress(Exception):
            if self._holder().get("nonce") == self._nonce:
                self._bucket.remove([_NAMES.owner.name])

    @contextlib.contextmanager
    def _reached(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as e:  # every driver has its own exceptions for networks, credentials and permissions
            remote.unreachable(self.url, e, what)


@functools.cache
def _nonces() -> set[str]:
    """Those of the launches of this process."""
    return set()
