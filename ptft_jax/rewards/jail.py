"""The process that `ptft_jax.rewards.lockdown` starts: shuts itself in, then runs a program. It imports nothing of the package."""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import resource
import struct
import sys
import types

# Numbers of Linux' system calls.
_DENIED = {
    "x86_64": {
        "socket": 41, "connect": 42, "bind": 49, "fork": 57, "vfork": 58, "execve": 59, "chmod": 90, "fchmod": 91, "chown": 92,
        "fchown": 93, "lchown": 94, "ptrace": 101, "setpgid": 109, "setsid": 112, "rt_sigqueueinfo": 129, "setpriority": 141,
        "sched_setparam": 142, "sched_setscheduler": 144, "chroot": 161, "mount": 165, "tkill": 200, "sched_setaffinity": 203,
        "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "fchownat": 260, "fchmodat": 268, "unshare": 272,
        "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
        "sched_setattr": 314, "bpf": 321, "execveat": 322, "userfaultfd": 323, "shmget": 29, "semget": 64, "msgget": 68,
        "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_open": 434, "fchmodat2": 452,
    },
    "aarch64": {
        "chroot": 51, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "mount": 40, "unshare": 97, "ptrace": 117,
        "sched_setparam": 118, "sched_setscheduler": 119, "sched_setaffinity": 122, "tkill": 130, "rt_sigqueueinfo": 138,
        "setpriority": 140, "setpgid": 154, "setsid": 157, "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194,
        "socket": 198, "bind": 200, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221,
        "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "sched_setattr": 274, "bpf": 280, "execveat": 281, "userfaultfd": 282, "pidfd_send_signal": 424, "io_uring_setup": 425,
        "pidfd_open": 434, "fchmodat2": 452,
    },
}  # fmt: skip
# Those that are allowed to itself alone: their first argument is a process.
_OWN = {
    "x86_64": {"kill": 62, "tgkill": 234, "prlimit64": 302},
    "aarch64": {"kill": 129, "tgkill": 131, "prlimit64": 261},
}
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_THREAD = 0x00010000  # of clone's flags: the new one is a thread
_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NO_NEW_PRIVILEGES, _PARENT_DIES, _SECCOMP, _FILTER = 38, 1, 22, 2  # of prctl
_LANDLOCK = 444  # the first of three calls, of the same numbers everywhere
_WRITE_FILE, _READ_FILE = 0b10, 0b100  # of Landlock's rights
_READ, _RIGHTS = (
    0b1101,
    {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1},
)  # with folders and execution; all, by version


def limit(request: dict) -> None:
    """Bounds of memory, computing time, open files and their size."""
    cpu = request["cpu_seconds"]
    bounds = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: (request["memory"],) * 2,
        resource.RLIMIT_FSIZE: (request["output"],) * 2,
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, (soft, hard) in bounds.items():
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(what, (soft, hard))


def shut_files(library: ctypes.CDLL, folder: str) -> bool:
    """Files outside of `folder` can be read where Python has its own, and not be written. Whether the kernel can do that."""

    def call(number: int, *words: object) -> int:
        whole = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
        return library.syscall(ctypes.c_long(_LANDLOCK + number), *whole)

    version = call(0, None, 0, 1)
    if version < 1:
        return False
    rights = _RIGHTS[min(version, 3)]
    handled = struct.pack("Q", rights)
    ruleset = call(0, ctypes.c_char_p(handled), len(handled), 0)
    if ruleset < 0:
        return False
    own = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), "/usr", "/lib", "/lib64", "/etc")
    places = {os.path.realpath(path): _READ for path in own}
    places |= {"/dev/null": _READ_FILE | _WRITE_FILE, "/dev/urandom": _READ_FILE, folder: rights}
    for path, allowed in places.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", allowed, place)
        if call(1, ruleset, 1, ctypes.c_char_p(rule), 0) < 0:
            return False
        os.close(place)
    done = call(2, ruleset, 0) == 0
    os.close(ruleset)
    return done


def shut_calls(library: ctypes.CDLL) -> bool:
    """No sockets, processes, signals to others, and the like. Whether the kernel can do that."""
    machine = os.uname().machine
    if machine not in _DENIED:
        return False
    load, equal, above, masked, give = 0x20, 0x15, 0x35, 0x54, 0x06
    number, architecture, first = 0, 4, 16  # places of what is looked at; of the first argument the lower half

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        """An instruction; `yes` and `no`: how many to leave out after it."""
        return struct.pack("HBBI", code, yes, no, value)

    deny, allow = line(give, _ERRNO | _EPERM), line(give, _ALLOW)

    def of(call: int, *lines: bytes) -> list[bytes]:
        """What becomes of one call."""
        return [line(equal, call, 0, len(lines)), *lines]

    lines = [line(load, architecture), line(equal, _ARCHITECTURE[machine], 1, 0), line(give, _KILL), line(load, number)]
    if machine == "x86_64":
        lines += [line(above, 0x40000000, 0, 1), deny]  # the calls of x32
    for call in _DENIED[machine].values():
        lines += of(call, deny)
    lines += of(_CLONE3, line(give, _ERRNO | _ENOSYS))  # what starts threads takes clone instead
    lines += of(_CLONE[machine], line(load, first), line(masked, _THREAD), line(equal, _THREAD, 1, 0), deny, allow)
    for name, call in _OWN[machine].items():
        itself = [line(equal, 0, 1, 0)] if name == "prlimit64" else []
        lines += of(call, line(load, first), line(equal, os.getpid(), 1 + len(itself), 0), *itself, deny, allow)
    lines += [allow]
    code = ctypes.create_string_buffer(b"".join(lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    return library.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(program), 0, 0) == 0


def shut(folder: str) -> list[str]:
    """Shuts this process in, and says what it could not be shut off from."""
    files = calls = False
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        library.syscall.restype = ctypes.c_long
        library.prctl(_PARENT_DIES, 9, 0, 0, 0)  # it is killed where the process that watches it is
        library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        files, calls = shut_files(library, folder), shut_calls(library)
    found = [] if files else ["other files"]
    if not calls:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        found += ["the network", "other processes"]
    return found


def main() -> None:
    asked, tell = int(sys.argv[1]), int(sys.argv[2])
    with open(asked, encoding="utf-8", errors="surrogatepass") as file:
        request = json.load(file)
    os.set_inheritable(tell, False)
    token = request.pop("token")
    limit(request)
    os.write(tell, json.dumps(shut(os.getcwd())).encode() + b"\n")
    sys.argv[:] = ["program.py"]
    builtins.exit = builtins.quit = sys.exit  # what the module `site` gives, which is not loaded
    name = "__main__" if request["main"] else "program"
    module = types.ModuleType(name)
    sys.modules[name] = module
    for part, file in ((request["code"], "program.py"), (request["tests"], "tests.py")):
        exec(compile(part, file, "exec", dont_inherit=True), module.__dict__)
    sys.stdout.flush()
    os.write(tell, token.encode())


if __name__ == "__main__":
    main()
