"""Workers: TensorFlow servers, in processes of this machine or elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeAlias, overload

from placer.errors import PlacerError, UsageError
from placer.tf._processes import Process, started

_SERVING = "placer.tf._serving"

Workers: TypeAlias = int | Sequence[str] | None
"""How many processes to start, or where TensorFlow servers are; None or 0 for neither."""


def check_workers(workers: Workers) -> None:
    """Refuses what says neither how many workers nor where they are.

    Raises:
        UsageError: It does not, or it says one twice.
    """
    if workers is None or isinstance(workers, LocalWorkers):
        return
    if isinstance(workers, int):
        understood = workers >= 0
    elif isinstance(workers, Sequence) and not isinstance(workers, str):
        understood = all(isinstance(address, str) for address in workers)
    else:
        understood = False
    if not understood:
        raise UsageError(f"workers is {workers!r}; expected how many, or a list of 'host:port'")
    if not isinstance(workers, int) and len(set(workers)) < len(workers):
        raise UsageError(f"workers are {', '.join(workers)}; expected each of them once")


def num_workers(workers: Workers) -> int:
    """How many workers there are."""
    return workers if isinstance(workers, int) else len(workers or ())


def cpus_of(workers: Workers) -> list[str]:
    """TensorFlow's name of the CPU of each worker."""
    return [f"/job:worker/task:{i}/device:CPU:0" for i in range(num_workers(workers))]


def check_reachable(address: str) -> None:
    """Refuses an address at which nothing listens.

    Args:
        address: ``"host:port"``.

    Raises:
        UsageError: It is no address.
        PlacerError: Nothing answers there within some seconds.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"worker {address!r} is no address; expected 'host:port'")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise PlacerError(
            f"worker {address!r} cannot be reached ({error}); expected a TensorFlow server there"
        ) from None


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
            UsageError: They were closed.
            PlacerError: One does not start.
        """
        if not self._close.alive:
            raise UsageError("the workers are closed; expected others")
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
