"""Jobs on Cloud TPU, by gcloud: a queued resource, the same command on all of its machines, and new ones where these are taken away."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

from ptft_jax.jobs import bundle
from ptft_jax.jobs.failures import UNANSWERED, Failed, kind, told
from ptft_jax.jobs.record import Job
from ptft_jax.jobs.shell import Done, Shell

# States of a queued resource (QueuedResourceState.State), and of a node, from which nothing comes any more.
_GONE = ("SUSPENDING", "SUSPENDED", "DELETING", "FAILED", "")
_NODE_GONE = ("PREEMPTED", "TERMINATED", "DELETING", "STOPPING", "STOPPED", "")
_BAD_INPUT = 2  # exit status
# A host that is taken away ends the command on the others, with whatever status, before it is known that it is gone.
_LOOKS = 3
_TRIES = 6  # of what may be gone when one tries again


class _Gone(Exception):
    """Machines that were taken away, or could not be had."""


class CloudTPU:
    """Drives a job, from wherever it is: what is there already is not made again."""

    def __init__(self, job: Job, shell: Shell, pause: Callable[[], None]):
        """`pause` waits between two looks."""
        self._job, self._shell, self._pause = job, shell, pause
        self._request = job.request
        shell.needs("gcloud")

    # Commands.

    def _gcloud(self, *words: str) -> list[str]:
        r = self._request
        return ["gcloud", "compute", "tpus", *words, f"--project={r.project}", f"--zone={r.zone}", "--quiet"]

    def _create(self) -> list[str]:
        r = self._request
        more = ["--spot"] if r.spot else []
        more += [f"--valid-until-duration={int(r.max_wait)}s"] if r.max_wait else []
        more += [f"--service-account={r.service_account}"] if r.service_account else []
        made_by = [f"--runtime-version={r.runtime or r.slice.runtime}", f"--node-id={r.name}"]
        return self._gcloud("queued-resources", "create", r.name, *r.slice.accelerator(), *made_by, *more, *r.extra)

    def _describe(self) -> list[str]:
        return self._gcloud("queued-resources", "describe", self._request.name, "--format=json")

    def _describe_node(self) -> list[str]:
        return self._gcloud("tpu-vm", "describe", self._request.name, "--format=value(state)")

    def _delete(self) -> list[str]:
        return self._gcloud("queued-resources", "delete", self._request.name, "--force")

    def _copy(self, archive: str) -> list[str]:
        return self._gcloud("tpu-vm", "scp", archive, f"{self._request.name}:{self._archive}", "--worker=all")

    def _ssh(self, command: str, worker: str = "all") -> list[str]:
        alive = "--ssh-flag=-o ServerAliveInterval=30 -o ServerAliveCountMax=4"
        return self._gcloud("tpu-vm", "ssh", self._request.name, f"--worker={worker}", alive, f"--command={command}")

    @property
    def _folder(self) -> str:
        return f"ptft-{self._request.name}"

    @property
    def _archive(self) -> str:
        return f"{self._folder}.tar.gz"

    def _unpack(self) -> str:
        # Removed when it is unpacked: the command may be asked for again.
        return f"[ ! -f {self._archive} ] || {{ mkdir -p {self._folder} && tar -xzf {self._archive} -C {self._folder} && rm {self._archive}; }}"

    def _start(self) -> str:
        # Detached: a connection that is lost takes nothing along. Once: the command may be asked for again.
        once = "mkdir started 2> /dev/null && (setsid nohup bash run.sh > log 2>&1 < /dev/null &)"
        return f"cd {self._folder} && {{ {once} || true; }}"

    def _read(self, line: int) -> str:
        wait = "until [ -s pid ]; do sleep 1; done"
        tail = f"tail -n +{line} -F --pid=$(cat pid) log 2> /dev/null"
        return f"cd {self._folder} && {wait} && echo {bundle.BEGIN} && {tail}; echo {bundle.STATUS} $(cat status || echo none)"

    # What is done.

    def show(self) -> None:
        """Prints every command and file, with a dry shell."""
        say = self._shell.say
        archive = bundle.make(self._job, self._shell)
        self._shell.run(self._create())
        say("# until its state is ACTIVE:")
        self._shell.run(self._describe())
        self._shell.run(self._copy(str(archive)))
        for command in (self._unpack(), f"bash {self._folder}/install.sh", self._start()):
            self._shell.run(self._ssh(command))
        say("# again from the line after the last, where the connection is lost:")
        self._shell.run(self._ssh(self._read(1), "0"))
        if self._request.keep:
            return
        say("# at the end; and where machines were taken away, before all of this is done again:")
        self._shell.run(self._delete())

    def make(self) -> None:
        """Makes the files. Raises Failed."""
        bundle.make(self._job, self._shell)

    def drive(self) -> int:
        """Exit status of the command, once it has ended and its machines are gone (unless they are kept). Raises Failed."""
        job, say = self._job, self._shell.say
        while True:
            try:
                self._obtain()
                self._begin()
                status = self._follow()
                break
            except _Gone as e:
                if not self._request.spot or job.attempt > self._request.retries:
                    self.delete()
                    raise Failed(f"{e}{'' if self._request.spot else '; --spot begins again by itself'}") from None
                say(f"{e}\nnew machines are asked for ({job.attempt} of {self._request.retries} times)")
                self.delete()
                job.become(attempt=job.attempt + 1, started=False, state="waiting")
                self._pause()
        if status:
            self._tell_all()
        if self._request.keep:
            say(f"the machines are kept: ptft launch --name={job.request.name} --delete")
        else:
            self.delete()
        return status

    def delete(self) -> None:
        """Deletes the machines, and the request for them. Raises Failed."""
        if not self._job.there:
            return
        done = self._tried(self._delete())
        if done.status and kind(done.said).name != "missing":
            raise Failed(
                told(f"{self._request.name} could not be deleted, and costs as long as it is there", done.said)
            )
        self._job.become(there=False)

    def _tried(self, words: list[str]) -> Done:
        """A command, again as long as it fails for what passes."""
        for _ in range(_TRIES - 1):
            done = self._shell.run(words)
            if not done.status or kind(done.said).name not in (*UNANSWERED, "ssh"):
                return done
            self._pause()
        return self._shell.run(words)

    def _state(self) -> tuple[str, str]:
        """State of the queued resource, "" where there is none, and what is said of it. Raises Failed."""
        done = self._tried(self._describe())
        if done.status:
            if kind(done.said).name == "missing":
                return "", ""
            raise Failed(told(f"nothing is known of {self._request.name}", done.said))
        try:
            found = json.loads(done.out).get("state", {})
        except (ValueError, AttributeError) as e:
            raise Failed(f"gcloud described {self._request.name} in words that are no JSON: {done.out[:200]}") from e
        reason = next(
            (
                v.get("error", {}).get("message", "")
                for k, v in found.items()
                if k.endswith("Data") and isinstance(v, dict) and v
            ),
            "",
        )
        return found.get("state", ""), reason

    def _obtain(self) -> None:
        """Asks for machines, unless that is done, and waits until they are there. Raises _Gone, Failed."""
        job, name, say = self._job, self._request.name, self._shell.say
        if not job.there:
            job.become(state="waiting", there=True)  # before: a process that is killed here leaves what --delete finds
            self._ask()
        last, missing = None, 0
        while True:
            state, reason = self._state()
            if not state and missing < _LOOKS:  # what was made just now may not be seen yet
                missing += 1
                self._pause()
                continue
            if state != last:
                say(f"{name}: {state or 'not there'}{f' ({reason})' if reason else ''}")
            if state == "ACTIVE":
                return
            if state in _GONE:
                self._refused(state, reason)
            last = state
            self._pause()

    def _ask(self) -> None:
        """Creates the queued resource. Raises _Gone, Failed."""
        for number in range(_TRIES):
            done = self._shell.run(self._create())
            found = kind(done.said)
            if not done.status or (number and found.name == "exists"):  # made by what was not answered
                return
            if found.name not in UNANSWERED:
                break
            self._pause()
        self._job.become(there=False)
        problem = told(f"{self._request.name} could not be created", done.said)
        raise (_Gone if found.name == "stockout" and self._request.spot else Failed)(problem)

    def _refused(self, state: str, reason: str) -> None:
        """Raises _Gone where machines may be had later, else Failed, once the request for them is gone."""
        name = self._request.name
        found = kind(reason)
        if state != "FAILED" or (found.passes and self._request.spot):
            raise _Gone(told(f"{name} is {state or 'not there any more'}", reason))
        self.delete()
        raise Failed(told(f"{name}: no machines", reason))

    def _check_there(self) -> None:
        """Raises _Gone where the machines are not there any more."""
        state, reason = self._state()
        if state in _GONE:
            raise _Gone(f"{self._request.name} was taken away{f' ({reason})' if reason else ''}")
        node = self._tried(self._describe_node())
        if (not node.status and node.out.strip() in _NODE_GONE) or (node.status and kind(node.said).name == "missing"):
            raise _Gone(f"{self._request.name} was taken away ({node.out.strip() or 'no machine'})")

    def _begin(self) -> None:
        """Copies, installs and starts, unless that is done. Raises _Gone, Failed."""
        job, say = self._job, self._shell.say
        if job.started:
            return
        say(f"copying to {self._request.hosts} host(s)")
        self._done(self._copy(str(job.files / bundle.ARCHIVE)), "the files could not be copied")
        for what, command in (("unpacking", self._unpack()), ("installing", f"bash {self._folder}/install.sh")):
            say(what)
            self._done(self._ssh(command), f"{what} failed")
        self._done(self._ssh(self._start()), "the command could not be started")
        job.become(started=True, state="running")

    def _done(self, words: list[str], problem: str) -> None:
        """Runs a command on the machines; again, where the connection is lost."""
        for _ in range(_TRIES):
            done = self._shell.run(words)
            if not done.status:
                return
            if not kind(done.said).passes:
                break
            self._check_there()
            self._shell.say("the connection was lost: again")
            self._pause()
        self._check_there()
        raise Failed(
            told(f"{problem}; the machines are there still (--follow tries again, --delete ends it)", done.said)
        )

    def _follow(self) -> int:
        """Says what host 0 says until the command ends; its exit status. Raises _Gone, Failed."""
        seen, lost = 0, 0
        while True:
            status, begun, before = None, False, seen

            def line(text: str) -> None:
                nonlocal status, begun, seen
                if text.startswith(f"{bundle.STATUS} "):
                    status = text.split()[-1]
                elif text == bundle.BEGIN:
                    begun = True
                elif begun:  # what gcloud says of itself comes before
                    seen += 1
                    self._shell.say(text)

            done = self._shell.follow(self._ssh(self._read(seen + 1), "0"), line)
            if status is not None and status.isdigit():
                if self._request.spot and int(status) not in (0, _BAD_INPUT):
                    for _ in range(_LOOKS):
                        self._pause()
                        self._check_there()
                return int(status)
            self._check_there()
            if status == "none":
                raise Failed("the command was killed on host 0, and left no exit status; the machines are there still")
            lost = 0 if seen > before else lost + 1
            if lost >= _TRIES:
                raise Failed(told("host 0 is not reached; the command goes on there (--follow tries again)", done.said))
            self._shell.say("the connection was lost; the command goes on, and is followed again")
            self._pause()

    def _tell_all(self) -> None:
        """Says how the log of each host ends: the one that failed first is seldom host 0."""
        if self._request.hosts > 1:
            done = self._shell.run(self._ssh(f'echo "== $(hostname)"; tail -n 15 {shlex.quote(self._folder)}/log'))
            self._shell.say(done.out.rstrip())
