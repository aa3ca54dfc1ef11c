"""The process that measures, with faults: ``python -m tests.tf.faults FOLDER``.

The variable ``FAULTS`` of the environment says, in JSON, which fault comes with which devices of
the first ops, such as ``{"3,1": "crash"}``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path

from placer.tf import _measuring, _wire


def children(pid: int) -> list[int]:
    """The processes of placer that a process has started and that are there."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdecimal():
                continue
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            command = (entry / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if int(parent) == pid and (".tf._" in command or "faults" in command):
            found.append(int(entry.name))
    return sorted(found)


def _signal_a_worker(number: int) -> None:
    """The process that measures is the last one that was started."""
    workers = [pid for pid in children(os.getppid()) if pid != os.getpid()]
    os.kill(workers[-1], number)


def _hang() -> None:
    time.sleep(1000)


def _crash() -> None:
    ctypes.string_at(0)


def _run_out_of_memory() -> None:
    bytearray(1 << 62)


FAULTS = {
    "crash": _crash,
    "hang": _hang,
    "memory": _run_out_of_memory,
    "worker crashes": lambda: _signal_a_worker(signal.SIGKILL),
    "worker hangs": lambda: _signal_a_worker(signal.SIGSTOP),
}


class FaultyRunner(_measuring.StepRunner):
    """A step that fails under some placements."""

    def measure(self, request: _wire.Request) -> _wire.Times:
        for devices, fault in json.loads(os.environ["FAULTS"]).items():
            given = [int(device) for device in devices.split(",")]
            if request.devices[: len(given)] == given:
                self.ran = True
                FAULTS[fault]()
        return super().measure(request)


if __name__ == "__main__":
    _measuring.StepRunner = FaultyRunner
    _measuring.main()
