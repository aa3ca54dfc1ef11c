"""The process that measures and its workers: started, asked, replaced where they fail, ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from placer.errors import PlacerError
from placer.tf import _load, _wire
from placer.tf._devices import check_there
from placer.tf._processes import LostError, Process, started
from placer.tf.measurements import BUSY_SHARE, Measurement
from placer.tf.workers import LocalWorkers, check_reachable

_MEASURING = "placer.tf._measuring"
_POLL_SECONDS = 1.0
_STARTS = 3


@dataclass
class Team:
    """The process that measures, and where the workers are.

    Attributes:
        step: How to run the step, but for where the workers are.
        folder: Where the program and the logs are.
        local: The workers that are processes of this machine, if any.
        lent: Whether these end with their owner, not with this team.
        addresses: Where the others are.
        owner: The process that started it.
        measuring: The process that measures, if it runs.
    """

    step: _wire.Step
    folder: Path
    local: LocalWorkers | None = None
    lent: bool = False
    addresses: tuple[str, ...] = ()
    owner: int = field(default_factory=os.getpid)
    measuring: Process | None = None

    def start(self) -> None:
        """Starts all.

        Raises:
            UsageError: TensorFlow does not have a device.
            PlacerError: A process does not start, or a server is not there.
        """
        try:
            log = self.folder / "measuring.log"
            self.measuring = Process(_MEASURING, os.fspath(self.folder), log=log)
            for address in self.addresses:
                check_reachable(address)
            addresses = self.local.start() if self.local else self.addresses
            step = msgspec.structs.replace(self.step, workers=addresses)
            ready = started(self.measuring, "the process that measures", step, self._workers())
            check_there(step.devices, ready.devices)
        except BaseException:
            self.stop()
            raise

    def measure(self, request: _wire.Request, seconds_limit: float) -> Measurement:
        """Measures; where that fails, nothing that it may have left is there for the next one.

        Raises:
            PlacerError: As :meth:`start`.
        """
        workers = self._workers()
        if self.measuring is None or not all(p.alive for p in (*workers.values(), self.measuring)):
            self._restart()
            workers = self._workers()
        assert self.measuring is not None  # noqa: S101
        before = self._cpu_times()
        try:
            reply = self.measuring.ask(request, seconds_limit, workers)
        except LostError as error:
            self.stop()
            return Measurement(reason=str(error))
        except BaseException:  # an interrupt leaves an answer that nobody takes
            self.stop()
            raise
        if isinstance(reply, _wire.Times):
            share = _load.share_of_others(before, self._cpu_times())
            return Measurement(reply.step_seconds, reply.warmup_seconds, None, share, reply.trace)
        assert isinstance(reply, _wire.Failure)  # noqa: S101
        if reply.ran:
            self.stop()
        return Measurement(reason=reply.reason)

    def _restart(self) -> None:
        """Starts all anew; one that does not start is given more chances, as others may use it."""
        for _ in range(_STARTS - 1):
            self.stop()
            try:
                self.start()
            except PlacerError:
                time.sleep(_POLL_SECONDS)
            else:
                return
        self.stop()
        self.start()

    def wait_for_quiet(self, deadline: float) -> None:
        """Returns once others leave the machine alone for a second, at the latest at `deadline`."""
        share: float | None = 1.0
        while share is not None and share > BUSY_SHARE and time.monotonic() < deadline:
            before = self._cpu_times()
            time.sleep(_POLL_SECONDS)
            share = _load.share_of_others(before, self._cpu_times())

    def stop(self) -> None:
        """Ends all processes."""
        if os.getpid() != self.owner:  # a copy of this process; the original still needs them
            return
        if self.measuring is not None:
            self.measuring.kill()
        self.measuring = None
        if self.local is not None:
            self.local.stop()

    def close(self) -> None:
        """Ends all processes and removes their files."""
        if os.getpid() != self.owner:
            return
        if self.measuring is not None:
            self.measuring.kill()
        self.measuring = None
        if self.local is not None and not self.lent:
            self.local.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _workers(self) -> Mapping[str, Process]:
        return self.local.processes if self.local else {}

    def _cpu_times(self) -> _load.CpuTimes | None:
        """The times of this machine; None where workers run that are not known here."""
        if self.addresses:
            return None
        own = [process.pid for process in (self.measuring, *self._workers().values()) if process]
        return _load.read_cpu_times([os.getpid(), *own])
