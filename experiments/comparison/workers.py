"""Work spread over processes, where what goes wrong in one piece does not end the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_CONTEXT = multiprocessing.get_context("spawn")  # compiled code and TensorFlow do not survive fork


class FailedError(Exception):
    """A piece of work has failed; the message says how."""


class Workers(Generic[T, R]):
    """Processes that each do one piece of work at a time.

    Pieces, results and the function travel by pickle, within this program alone.

    Args:
        work: What to do with a piece; a function of a module. What it keeps stays in its process.
        jobs: How many processes; with one, the work is done in this process.
    """

    def __init__(self, work: Callable[[T], R], jobs: int) -> None:
        self._work = work
        self._jobs = jobs
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, T]] = {}

    def __enter__(self) -> Workers[T, R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.end()

    def map(self, pieces: Iterable[T]) -> Iterator[tuple[T, R | FailedError]]:
        """Does the pieces, and gives each with its result as soon as there is one.

        A piece fails if the work raises, or if its process ends, as for lack of memory; another
        takes its place.
        """
        if self._jobs == 1:
            for piece in pieces:
                yield piece, _try(self._work, piece)
            return
        waiting = deque(pieces)
        while waiting or self._busy:
            while waiting and len(self._busy) < self._jobs:
                worker = self._idle.pop() if self._idle else _Worker(self._work)
                piece = waiting.popleft()
                self._busy[worker.connection] = worker, piece
                worker.give(piece)
            for connection in wait(list(self._busy)):
                assert isinstance(connection, Connection)  # noqa: S101  (for the type checker)
                worker, piece = self._busy[connection]
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    result = FailedError(f"its process ended with exit code {worker.end()}")
                else:
                    self._idle.append(worker)
                del self._busy[connection]
                yield piece, result


class _Worker:
    """A process, and the connection to it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        # a daemon is ended with this process
        self._process: SpawnProcess = _CONTEXT.Process(
            target=_serve, args=(work, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def give(self, piece: object) -> None:
        """Sends a piece; if the process has ended, reading the result will tell."""
        try:
            self.connection.send(piece)
        except OSError:
            return

    def end(self) -> int | None:
        """Ends the process, if it has not ended, and tells its exit code."""
        self.connection.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


def _serve(work: Callable[[Any], Any], connection: Connection) -> None:
    """Works until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's interrupt is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            piece = connection.recv()
        except (EOFError, OSError):
            return
        result = _try(work, piece)
        try:
            connection.send(result)
        except OSError:
            return


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # in the middle of a piece that nobody waits for


def _try(work: Callable[[T], R], piece: T) -> R | FailedError:
    try:
        return work(piece)
    except Exception as error:
        return FailedError(f"{type(error).__name__}: {' '.join(str(error).split())}")
