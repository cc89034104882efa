"""What functions of others do that the package calls, and none should."""

import os
import time


def misbehave(how):
    """Fails, hangs or ends its process where `how` names that, and returns otherwise."""
    match how:
        case "raise":
            raise KeyError("nothing here")
        case "hang":
            while True:
                time.sleep(0.01)
        case "exit":
            raise SystemExit("enough")
        case "end":
            os._exit(3)
