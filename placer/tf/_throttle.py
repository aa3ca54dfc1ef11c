"""Lets a process run for a share of the time only: ``python _throttle.py PID SHARE``.

It stops and continues the process that started it by turns, and ends with it. The process is then
as a slower machine is, but for what takes much less than a period.
"""

from __future__ import annotations

import os
import signal
import sys
import time

PERIOD_SECONDS = 0.002


def main() -> None:
    """Throttles; it imports nothing else, as each start of a worker waits for it."""
    pid, share = int(sys.argv[1]), float(sys.argv[2])
    while os.getppid() == pid:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(PERIOD_SECONDS * (1 - share))
        os.kill(pid, signal.SIGCONT)
        time.sleep(PERIOD_SECONDS * share)


if __name__ == "__main__":
    main()
