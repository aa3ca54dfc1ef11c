"""The folder of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.comparison.asked import Comparison
from experiments.comparison.journal import Journal
from experiments.comparison.rows import ComparisonRow
from experiments.comparison.summaries import summarize, write_rows, write_summaries
from placer import files
from placer.errors import UsageError


class ComparisonFolder:
    """Where a comparison keeps what was run, tables and plots.

    Args:
        path: The folder; None to write nothing.

    Raises:
        UsageError: It is no folder, or one of something else.
    """

    JOURNAL = "runs.jsonl"
    ROWS = "runs.csv"
    SUMMARIES = "summary.json"
    BY_EVALUATIONS = "evaluations.png"
    BY_SECONDS = "seconds.png"

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is None or not path.exists():
            return
        if not path.is_dir():
            raise UsageError(f"{path}: is a file; expected a folder")
        if not (path / self.JOURNAL).exists() and any(path.iterdir()):
            raise UsageError(f"{path}: not empty, and has no {self.JOURNAL} to go on with")

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """What was run, and where to enter what is, while no other process does.

        Raises:
            FormatError: The file is none of a comparison.
            UsageError: Another process is writing there.
            PlacerError: The folder cannot be made.
        """
        if self.path is None:
            yield Journal(None)
            return
        with files.sole_writer(self.path):
            yield Journal(self.path / self.JOURNAL)

    def write(
        self, comparison: Comparison, rows: Sequence[ComparisonRow], journal: Journal
    ) -> None:
        """Writes tables and plots.

        Args:
            comparison: What was compared.
            rows: Its rows, sorted.
            journal: What was run.

        Raises:
            PlacerError: A file cannot be written.
        """
        if self.path is None:
            return
        from experiments.comparison.plots import collect_panels, plot_panels

        write_rows(rows, self.path / self.ROWS)
        write_summaries(summarize(rows), self.path / self.SUMMARIES)
        panels = collect_panels(comparison, journal)
        plot_panels(panels, self.path / self.BY_EVALUATIONS, "evaluations")
        plot_panels(panels, self.path / self.BY_SECONDS, "seconds")
