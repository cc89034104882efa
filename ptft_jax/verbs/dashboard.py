"""Shows a folder of runs live in a browser while they train: the list of runs, curves, experiments with their graphs, logs, samples, and what of this
machine is in use. It reads, and writes nothing.

ptft dashboard runs
ptft dashboard runs --port=8600

It prints an address with a token, without which nobody is answered, and listens on this machine alone. From another machine, lead a port there by ssh:
ssh -L 8600:127.0.0.1:8600 HOST.
"""

from __future__ import annotations

import signal
from typing import Any

from absl import flags

from ptft_jax.config.field import natural
from ptft_jax.errors import UserError
from ptft_jax.verbs import folders
from ptft_jax.verbs.command import define_number, launch, say

WORDS = "folder"


def define() -> None:
    flags.DEFINE_multi_string("folder", [], "The folder of the runs; also without --folder=. '' = this one.")
    define_number("port", 8600, natural(8600, ""), "Where it listens; 0 = any port that is free.")
    flags.DEFINE_string("host", "127.0.0.1", "The address that it listens on.")
    flags.DEFINE_bool(
        "allow_remote",
        False,
        "Let --host be one that other machines reach. What is sent, the token too, is not encrypted.",
    )


def main() -> None:
    args = flags.FLAGS
    if args.port > 65535:
        raise UserError(f"--port={args.port}: expected 0 to 65535")
    folder = folders.chosen()
    from ptft_jax.dashboard.server import Server
    from ptft_jax.dashboard.views import Views

    with Server(Views(folder), args.host, args.port, remote=args.allow_remote) as server:
        print(server.url, flush=True)
        say("Ctrl-C ends it")
        signal.signal(signal.SIGTERM, _leave)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")


def _leave(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    launch(define, main, words=WORDS)
