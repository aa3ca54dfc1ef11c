"""Processes that are started, asked, given up on and ended, so that none is left behind."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import msgspec

from placer.errors import PlacerError, UsageError
from placer.tf import _wire

START_SECONDS = 120.0
"""How long a process may take to start: it imports TensorFlow, perhaps on a busy machine."""

MOST_SECONDS = 1_000_000
"""The longest that an answer may be waited for; what waits takes no endless time."""

_NOTE = re.compile(r"[IW]\d{4} |WARNING: All log messages before absl")  # of TensorFlow's libraries


def check_seconds_limit(seconds_limit: float) -> None:
    """Checks how long an answer may take.

    Raises:
        UsageError: It is no number above 0, or more than :data:`MOST_SECONDS`.
    """
    if not 0 < seconds_limit <= MOST_SECONDS:
        raise UsageError(
            f"seconds_limit is {seconds_limit}; expected more than 0, at most {MOST_SECONDS:,}"
        )


class LostError(PlacerError):
    """A process gave no answer; the message says why."""


class Process:
    """A Python module that runs in a process of its own and speaks :mod:`placer.tf._wire`.

    It has a process group of its own, so that an interrupt from the keyboard does not reach it. It
    ends when its standard input does, so that it does not outlive this process, however that ends.

    Args:
        module: The module.
        *arguments: What to give it.
        log: Where it writes its errors.
    """

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        self.log = log
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with log.open("wb") as errors:
            self._popen = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # errors end in exceptions; the log is for what ends the process
                env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": path},
                start_new_session=True,
                bufsize=0,
            )
        os.set_blocking(_pipe(self._popen.stdin).fileno(), False)  # it may have stopped reading
        self._received = b""

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen.poll() is None

    def ask(
        self,
        message: msgspec.Struct | None,
        seconds: float,
        others: Mapping[str, Process] = MappingProxyType({}),
    ) -> _wire.Reply:
        """Sends a message, if any, and waits for one.

        Args:
            message: What to send.
            seconds: How long that may take in all.
            others: Processes that it needs for its reply, by what to call them.

        Raises:
            LostError: None came in that time, or one of the processes has ended.
        """
        unsent = _wire.frame(message) if message else b""
        stdin, stdout = _pipe(self._popen.stdin).fileno(), _pipe(self._popen.stdout).fileno()
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            for name, process in others.items():  # they say no more, so it is their end
                selector.register(_pipe(process._popen.stdout), selectors.EVENT_READ, name)
            if unsent:
                selector.register(stdin, selectors.EVENT_WRITE)
            while (found := _wire.split_frame(self._received)) is None:
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    raise LostError(f"no result within {seconds:g} s")
                for key, _ in events:
                    if key.data is not None:
                        raise LostError(f"{key.data}: {others[key.data].last_words()}")
                    if key.fd == stdin:
                        unsent = self._send(unsent)
                        if not unsent:
                            selector.unregister(stdin)
                    elif data := os.read(stdout, 1 << 20):
                        self._received += data
                    else:
                        raise LostError(self.last_words())
        content, self._received = found
        return _wire.decode_reply(content)

    def _send(self, data: bytes) -> bytes:
        """Sends as much as fits; returns the rest."""
        try:
            return data[os.write(_pipe(self._popen.stdin).fileno(), data) :]
        except BrokenPipeError:
            raise LostError(self.last_words()) from None

    def last_words(self) -> str:
        """How the process, which is ending or has ended, came to its end."""
        try:
            code = self._popen.wait(5)
        except subprocess.TimeoutExpired:
            return "the process closed its output"
        if code == -signal.SIGKILL:
            return "the process was killed, as the system does where memory runs out"
        how = f"ended with {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
        said = [line[:300] for line in lines if line and not _NOTE.match(line)]
        return f"the process {how}" + (f": {said[-1]}" if said else "")

    def kill(self) -> None:
        """Ends the process and all in its group at once, and waits for it."""
        if self._popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            _pipe(pipe).close()


def started(
    process: Process,
    what: str,
    message: msgspec.Struct | None,
    others: Mapping[str, Process] = MappingProxyType({}),
) -> _wire.Ready:
    """Waits for a process, which may need to be told something before it is ready.

    Raises:
        PlacerError: It does not start; `what` says which one it is.
    """
    try:
        reply = process.ask(message, START_SECONDS, others)
    except LostError as error:
        raise PlacerError(f"{what} did not start: {error}") from None
    if not isinstance(reply, _wire.Ready):
        raise PlacerError(f"{what} did not start: {getattr(reply, 'reason', reply)}")
    return reply


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - Popen was told to make one
    return stream
