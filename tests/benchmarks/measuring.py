"""Interleaved timing, and what a section of a benchmark reports."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case(Generic[T]):
    """Subjects that are timed on the same input.

    Attributes:
        warm: An input of the same kind that no repetition has.
        prepare: Makes the input of a repetition; not timed.
        subjects: What is timed, by name.
        prepare_for: Makes of an input what a subject is given, by name of those that are not given
            the input itself; not timed.
    """

    warm: T
    prepare: Callable[[int], T]
    subjects: Mapping[str, Callable[[Any], object]]
    prepare_for: Mapping[str, Callable[[T], object]] = field(default_factory=dict)


def measure(
    cases: Mapping[Any, Case[Any]],
    repetitions: int,
    clock_ns: Callable[[], int] = time.process_time_ns,
) -> dict[Any, dict[str, Floats]]:
    """Times all subjects of all cases in turn, once per repetition.

    What slows the machine for a while then slows all of them; ratios of one repetition compare
    neighbours. Right before it is timed, a subject runs on the warm input: its tables are then as
    near to the processor as they get, whoever ran before, and it has learned nothing by heart.

    Returns:
        Seconds of each subject of each case, ``[repetitions]``.
    """
    seconds = {
        key: {name: np.empty(repetitions) for name in case.subjects} for key, case in cases.items()
    }
    for repetition in range(repetitions):
        for key, case in cases.items():
            given = case.prepare(repetition)
            for name, run in case.subjects.items():
                warm, timed = case.warm, given
                if name in case.prepare_for:
                    warm, timed = map(case.prepare_for[name], (warm, timed))
                run(warm)
                start = clock_ns()
                run(timed)
                seconds[key][name][repetition] = (clock_ns() - start) / 1e9
    return seconds


def time_calls(function: Callable[..., object], arguments: Iterable[tuple[Any, ...]]) -> Floats:
    """CPU seconds of each call, without what reading the clock takes, ``[num_calls]``."""
    clock_ns = time.thread_time_ns
    reads = np.diff([clock_ns() for _ in range(100)])
    taken = []
    for given in arguments:
        start = clock_ns()
        function(*given)
        taken.append(clock_ns() - start)
    return np.maximum(np.array(taken) - np.median(reads), 0) / 1e9


@dataclass(frozen=True)
class Criterion:
    """A figure that the simulator must reach.

    Attributes:
        text: What must hold.
        measured: The figure, and where it was found.
        holds: Whether it holds; None where it was not measured or is not judged.
    """

    text: str
    measured: str
    holds: bool | None

    @classmethod
    def at_most(cls, text: str, limit: float, ratios: Mapping[str, float]) -> Criterion:
        """Holds if the greatest ratio is at most `limit`; ratios by what they are of."""
        return cls._of_worst(text, ratios, max, lambda worst: worst <= limit)

    @classmethod
    def at_least(cls, text: str, limit: float, ratios: Mapping[str, float]) -> Criterion:
        """Holds if the least ratio is at least `limit`; ratios by what they are of."""
        return cls._of_worst(text, ratios, min, lambda worst: worst >= limit)

    @classmethod
    def shown(
        cls, text: str, ratios: Mapping[str, float], pick: Callable[..., str] = min
    ) -> Criterion:
        """The least ratio, or another one, not judged; ratios by what they are of."""
        return cls._of_worst(text, ratios, pick, lambda _: None)

    @classmethod
    def _of_worst(
        cls,
        text: str,
        ratios: Mapping[str, float],
        pick: Callable[..., str],
        holds: Callable[[float], bool | None],
    ) -> Criterion:
        if not ratios:
            return cls(text, "not measured at this size", None)
        worst = pick(ratios, key=lambda name: ratios[name])
        return cls(text, f"{ratios[worst]:.2f}x: {worst}", holds(ratios[worst]))

    def verdict(self) -> str:
        """In a word."""
        return {True: "ok", False: "MISS", None: "-"}[self.holds]


@dataclass(frozen=True)
class Table:
    """A table of figures; columns named with a leading ``>`` are aligned to the right.

    Attributes:
        title: What it shows.
        columns: Names of the columns.
        rows: The cells.
        in_page: Whether each row is in the page of the documentation, too; None for all.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    in_page: Sequence[bool] | None = None

    def markdown(self) -> str:
        """The rows that are in the page, as a Markdown table."""
        shown = [True] * len(self.rows) if self.in_page is None else self.in_page
        lines = [
            [column.removeprefix(">") for column in self.columns],
            ["--:" if column.startswith(">") else "---" for column in self.columns],
            *(row for row, is_shown in zip(self.rows, shown, strict=True) if is_shown),
        ]
        return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


@dataclass(frozen=True)
class Report:
    """What a section found."""

    name: str
    criteria: Sequence[Criterion]
    tables: Sequence[Table]
    machine: str = field(default_factory=lambda: describe_machine())

    def markdown(self) -> str:
        """For the page of the documentation."""
        must = criteria_table(self.criteria).markdown()
        tables = (f"\n{table.title}:\n\n{table.markdown()}" for table in self.tables)
        return f"{self.machine}\n\n{must}{''.join(tables)}"


def criteria_table(criteria: Iterable[Criterion]) -> Table:
    """What must hold, what was measured, and whether it holds."""
    rows = [(c.text, c.measured, c.verdict()) for c in criteria]
    return Table("Must show", ("must show", "measured", ""), rows)


def describe_machine() -> str:
    """Processor, versions, and how busy the machine was in the last minute."""
    import numba

    names = [
        line.partition(":")[2].strip()
        for line in _read_lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{os.cpu_count()} cores of {processor}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}, numba {numba.__version__}; load average {os.getloadavg()[0]:.2f}."
    )


def _read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
