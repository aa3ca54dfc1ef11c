"""A file of finished tasks, so that a comparison that was stopped goes on where it stood."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from experiments.comparison.tasks import Outcome, Task
from placer import files


class Journal:
    """What came of tasks: JSON lines, of which one counts once it is complete.

    Args:
        path: The file; None to keep all in memory.

    Raises:
        FormatError: A line is none of a journal, and not one that was cut off.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        done = [] if path is None else files.read_json_lines(path, Outcome)
        self._outcomes = {outcome.task: outcome for outcome in done}
        self._failures: dict[Task, str] = {}

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
        if self.path is not None:
            files.append_json_line(self.path, outcome)

    def fail(self, task: Task, reason: str) -> None:
        """Notes what has failed."""
        self._failures[task] = reason
