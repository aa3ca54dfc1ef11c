"""A file of finished tasks, so that a comparison that was stopped goes on where it stood."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from experiments.tasks import Outcome, Task
from placer.errors import FormatError, PlacerError


class Journal:
    """What came of tasks: JSON lines, of which one counts once it is complete.

    Args:
        path: The file; None to keep all in memory.

    Raises:
        FormatError: A line is none of a journal, and not one that was cut off.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._outcomes: dict[Task, Outcome] = {}
        self._failures: dict[Task, str] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def outcomes(self) -> Mapping[Task, Outcome]:
        """What is finished, now or before."""
        return MappingProxyType(self._outcomes)

    @property
    def failures(self) -> Mapping[Task, str]:
        """What has failed now, and how; it is not in the file, so that it is tried again."""
        return MappingProxyType(self._failures)

    def add(self, outcome: Outcome) -> None:
        """Enters what is finished, through to the disk.

        Raises:
            PlacerError: The file cannot be written.
        """
        self._outcomes[outcome.task] = outcome
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(outcome) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PlacerError(
                f"{self.path}: cannot be written ({error.strerror or error})"
            ) from None

    def fail(self, task: Task, reason: str) -> None:
        """Notes what has failed."""
        self._failures[task] = reason

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:complete].splitlines(), start=1):
            try:
                outcome = msgspec.json.decode(line, type=Outcome)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise FormatError(
                    f"{path}: line {number}: no outcome of a comparison ({error})"
                ) from None
            self._outcomes[outcome.task] = outcome
        if complete < len(content):  # killed while it wrote
            os.truncate(path, complete)
