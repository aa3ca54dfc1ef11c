"""Events for TensorBoard: rows of metrics as scalars, and what batches looked like."""

from __future__ import annotations

import itertools
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from placer.errors import PlacerError

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

MetricsRow = Mapping[str, float]
"""A row of ``metrics.csv``: some of :data:`policies.metrics.COLUMNS` by name."""

Histograms = Mapping[str, NDArray[np.floating[Any]]]
"""Figures of a batch by name, each to be counted in a histogram; of any shape."""

_NUMBERS = itertools.count()  # of the files that this process writes


class Events:
    """Writes a file of events, an event per row; their step is the number of evaluations.

    The file is new, so that there are never rows in it that a resumed run takes back. What only
    the files before it know, histograms of rows that stay, is taken over; then they are removed.
    TensorBoard's own writer writes in a thread, which says on stderr what went wrong there.

    Args:
        folder: Where to write.
        rows: The rows so far.

    Raises:
        PlacerError: The file cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, rows: Sequence[MetricsRow]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        before = sorted(folder.glob("events.out.tfevents.*"))
        histograms = _read_histograms(before)
        made = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._path = folder / f"events.out.tfevents.{made}"
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        for row in rows:
            self._add(row, histograms.get(int(row["evaluations"])))
        self.flush()
        for path in before:
            path.unlink()

    def add(self, row: MetricsRow, histograms: Histograms) -> None:
        """Adds a row; figures that are not finite are left out."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        summary = Summary()
        for name, values in histograms.items():
            finite = values[np.isfinite(values)]
            if finite.size:
                summary.MergeFrom(histogram_pb(name, finite))
        self._add(row, summary)

    def _add(self, row: MetricsRow, histograms: Summary | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        event = Event(wall_time=time.time(), step=int(row["evaluations"]), summary=histograms)
        for name, value in row.items():
            if name != "evaluations" and math.isfinite(value):
                event.summary.MergeFrom(scalar_pb(name, value))
        self._write(event)

    def _write(self, event: Event) -> None:
        with self._writing():
            self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Brings all events to disk."""
        with self._writing():
            self._file.flush()

    def close(self) -> None:
        """Brings all events to disk; no more will come."""
        with self._writing():
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = error.strerror or error
            raise PlacerError(f"{self._path}: cannot be written ({what})") from None


def _read_histograms(paths: Iterable[Path]) -> dict[int, Summary]:
    """The histograms in files of events, by their step."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.histogram.metadata import PLUGIN_NAME

    found: dict[int, Summary] = {}
    for path in paths:
        for event in EventFileLoader(str(path)).Load():
            values = [
                value
                for value in event.summary.value
                if value.metadata.plugin_data.plugin_name == PLUGIN_NAME
            ]
            if values:
                found[event.step] = Summary(value=values)
    return found
