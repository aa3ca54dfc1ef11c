"""What measuring placements gave, and the file that keeps it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from placer import files
from placer.cluster import Cluster
from placer.errors import FormatError
from placer.graph import OpGraph
from placer.tf._wire import OpTimes

BUSY_SHARE = 0.1
"""Other processes that take more of the processors' time than this make a measurement busy."""


@dataclass(frozen=True)
class Measurement:
    """What measuring a placement gave.

    Attributes:
        step_seconds: Seconds of each step that counts; none if it failed.
        warmup_seconds: Seconds of each step before.
        reason: Why it failed, if it did.
        others_share: The share of this machine's processors that other processes took meanwhile;
            None where that is not known.
        trace: When each op ran in one more step, if that was asked for.
    """

    step_seconds: tuple[float, ...] = ()
    warmup_seconds: tuple[float, ...] = ()
    reason: str | None = None
    others_share: float | None = None
    trace: tuple[OpTimes, ...] = ()

    @property
    def step_time_seconds(self) -> float:
        """The median; infinite if the placement failed."""
        return float("inf") if self.reason is not None else float(np.median(self.step_seconds))

    @property
    def spread_seconds(self) -> float:
        """From the first to the third quartile; nan if the placement failed."""
        if self.reason is not None:
            return float("nan")
        first, third = np.percentile(self.step_seconds, [25, 75])
        return float(third - first)

    @property
    def busy(self) -> bool:
        """Whether the machine was too busy to tell: others took more than :data:`BUSY_SHARE`."""
        return self.others_share is not None and self.others_share > BUSY_SHARE


def key_of(devices: Sequence[int], previous: Sequence[int]) -> bytes:
    """What tells a placement in an order from others of the same graph.

    Args:
        devices: Device index of each op, ``[num_ops]``.
        previous: Index of the op that each op follows, ``[num_ops]``; empty for TensorFlow's own
            order.
    """
    return np.array([*devices, *previous], np.int32).tobytes()


def _check_indices(where: str, values: list[int], length: int, first: int, end: int) -> None:
    if len(values) != length:
        raise FormatError(f"{where} has {len(values)} entries; expected {length}, one for each op")
    for position, value in enumerate(values):
        if not first <= value < end:
            raise FormatError(
                f"{where}[{position}] is {value}; expected one from {first} to {end - 1}"
            )


class MeasurementLog:
    """A file with a line of JSON for each measurement of a graph on a cluster.

    Args:
        path: The file; need not exist yet.
        graph: The graph.
        cluster: The cluster.
    """

    class Line(msgspec.Struct, frozen=True):
        """A line: fingerprints, device of each op, the op that it follows, what was measured."""

        graph: str
        cluster: str
        devices: list[int]
        warmup_seconds: tuple[float, ...]
        step_seconds: tuple[float, ...]
        reason: str | None = None
        others_share: float | None = None
        previous: list[int] = []

    def __init__(self, path: str | os.PathLike[str], graph: OpGraph, cluster: Cluster) -> None:
        self.path, self._graph, self._cluster = Path(path), graph, cluster

    def read(self) -> dict[bytes, Measurement]:
        """What was measured last of each placement in each order, by its :func:`key_of`.

        A last line that is cut off, as where its writer was killed, is removed.

        Raises:
            FormatError: Another line is not of this format, or does not fit the graph and the
                cluster that it names.
        """
        found = {}
        for number, line in enumerate(files.read_json_lines(self.path, self.Line), start=1):
            if (line.graph, line.cluster) == (self._graph.fingerprint, self._cluster.fingerprint):
                self._check(f"{self.path}:{number}", line)
                found[key_of(line.devices, line.previous)] = Measurement(
                    line.step_seconds, line.warmup_seconds, line.reason, line.others_share
                )
        return found

    def _check(self, where: str, line: Line) -> None:
        num_ops = self._graph.num_ops
        _check_indices(f"{where}: devices", line.devices, num_ops, 0, self._cluster.num_devices)
        if line.previous:
            _check_indices(f"{where}: previous", line.previous, num_ops, -1, num_ops)
        if line.reason is None and not line.step_seconds:
            raise FormatError(f"{where}: step_seconds is empty; expected some, or a reason")

    def append(self, devices: Sequence[int], previous: Sequence[int], found: Measurement) -> None:
        """Adds a measurement.

        Args:
            devices: Device index of each op, ``[num_ops]``.
            previous: Index of the op that each op followed, -1 for none, ``[num_ops]``; empty for
                TensorFlow's own order.
            found: What was measured.

        Raises:
            PlacerError: The file cannot be written.
        """
        line = self.Line(
            self._graph.fingerprint,
            self._cluster.fingerprint,
            list(devices),
            found.warmup_seconds,
            found.step_seconds,
            found.reason,
            found.others_share,
            list(previous),
        )
        files.append_json_line(self.path, line)
