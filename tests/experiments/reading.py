"""Reads what a run left, but for what the clock says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.metrics import COLUMNS, WALL_CLOCK_COLUMNS


def without_wall_clock(folder: Path) -> str:
    """The metrics but for the columns that differ from run to run."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [i for i, name in enumerate(rows[0]) if name not in WALL_CLOCK_COLUMNS]
    assert len(kept) == len(COLUMNS) - len(WALL_CLOCK_COLUMNS)
    return "\n".join(",".join(row[i] for i in kept) for row in rows)


def read_events(folder: Path) -> dict[str, list[tuple[int, NDArray[np.floating]]]]:
    """Steps and values of what TensorBoard shows, by tag, but for the clock's."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found: dict[str, list[tuple[int, NDArray[np.floating]]]] = {}
    for path in sorted((folder / "events").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag not in WALL_CLOCK_COLUMNS:
                    row = event.step, make_ndarray(value.tensor)
                    found.setdefault(value.tag, []).append(row)
    return found


def same_events(one: Path, other: Path) -> bool:
    """Whether TensorBoard shows the same of two runs, bit for bit and once each."""
    found, expected = read_events(one), read_events(other)
    return found.keys() == expected.keys() and all(
        [step for step, _ in rows] == [step for step, _ in expected[tag]]
        and all(np.array_equal(a[1], b[1]) for a, b in zip(rows, expected[tag], strict=True))
        for tag, rows in found.items()
    )
