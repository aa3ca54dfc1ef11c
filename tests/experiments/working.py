"""Work for processes: most of it goes wrong."""

from __future__ import annotations

import os
import signal
import time


def work(piece: str) -> str:
    """Does what the piece says."""
    match piece:
        case "raise":
            raise ValueError("no\nluck")
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "process":
            return str(os.getpid())
        case "sleep":
            time.sleep(600)
    return piece.upper()
