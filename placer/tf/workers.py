"""Workers: TensorFlow servers in processes of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

from placer.errors import UsageError
from placer.tf._processes import Process, started

_SERVING = "placer.tf._serving"


class LocalWorkers(Sequence[str]):
    """Where the workers are, ``"host:port"`` each: processes, each on a core of its own.

    Each has one thread per op and runs two ops at once. With more workers than cores, they share
    cores. They end with :meth:`close`, with the ``with`` block, and with this process.

    Args:
        count: How many.
        shares: The share of the time that each may run, in (0, 1]: one with 0.5 is half as fast.
            None for all of it.

    Raises:
        UsageError: An argument outside its range.
        PlacerError: A worker does not start.

    Example:
        >>> with LocalWorkers(2, shares=(1, 0.5)) as workers:
        ...     evaluator = MeasuredEvaluator(step, cluster, workers=workers)
    """

    def __init__(self, count: int, *, shares: Sequence[float] | None = None) -> None:
        if count < 1:
            raise UsageError(f"{count} workers; expected at least 1")
        self.shares = tuple(shares or [1.0] * count)
        check_shares(self.shares, count)
        self._addresses: tuple[str, ...] = ()
        # they have no reference to this object, whose end is theirs
        self._processes = _Processes(Path(tempfile.mkdtemp(prefix="placer-")))
        self._close = weakref.finalize(self, self._processes.close)

    def start(self) -> tuple[str, ...]:
        """Starts the workers unless all run; returns where they are.

        Raises:
            PlacerError: One does not start.
        """
        if not self._addresses or not all(worker.alive for worker in self.processes.values()):
            self.stop()
            self._addresses = self._processes.start(self.shares)
        return self._addresses

    def stop(self) -> None:
        """Ends the workers; :meth:`start` starts others."""
        self._addresses = ()
        self._processes.stop()

    def close(self) -> None:
        """Ends the workers for good."""
        self._addresses = ()
        self._close()

    @property
    def processes(self) -> Mapping[str, Process]:
        """The processes that run, by what to call them."""
        return {f"worker {i}": worker for i, worker in enumerate(self._processes.running)}

    def __len__(self) -> int:
        return len(self.shares)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.start()[index]

    def __enter__(self) -> LocalWorkers:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_shares(shares: Sequence[float], count: int) -> None:
    """Checks the shares of the time that so many workers may run.

    Raises:
        UsageError: They are another number, or one is outside its range.
    """
    if len(shares) != count or not all(0 < share <= 1 for share in shares):
        raise UsageError(
            f"shares of the workers are {tuple(shares)}; expected {count} numbers in (0, 1]"
        )


class _Processes:
    """The processes of workers, and the folder of their logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = os.getpid()
        self.running: list[Process] = []

    def start(self, shares: Sequence[float]) -> tuple[str, ...]:
        cores = _cores()
        try:
            for index, share in enumerate(shares):
                core = str(cores[index % len(cores)])
                log = self.folder / f"worker-{index}.log"
                arguments = ("--core", core, "--share", repr(float(share)))
                self.running.append(Process(_SERVING, *arguments, log=log))
            return tuple(
                started(worker, f"worker {index}", None).address
                for index, worker in enumerate(self.running)
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if os.getpid() == self.owner:  # else a copy of it, and the original still needs them
            for process in self.running:
                process.kill()
            self.running = []

    def close(self) -> None:
        if os.getpid() == self.owner:
            self.stop()
            shutil.rmtree(self.folder, ignore_errors=True)


def _cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
