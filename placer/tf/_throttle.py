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
    ran = PERIOD_SECONDS * share
    while os.getppid() == pid:
        os.kill(pid, signal.SIGSTOP)
        # a busy core wakes this process late: stop for as long as the process has run too long
        time.sleep(ran * (1 - share) / share)
        continued = time.perf_counter()  # before, as the process may take the core at once
        os.kill(pid, signal.SIGCONT)
        time.sleep(PERIOD_SECONDS * share)
        ran = time.perf_counter() - continued


if __name__ == "__main__":
    main()
