"""What nodes of test graphs call on machines of a cluster."""

import os
import signal


def preempted(folder):
    """The first time its machine is told to go: `ptft node`, whose process began this one's, is asked to leave."""
    if not (folder / "once").exists():
        (folder / "once").touch()
        os.kill(os.getppid(), signal.SIGTERM)
        signal.pause()
    return {"sum": 1}
