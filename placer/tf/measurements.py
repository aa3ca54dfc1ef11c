"""What measuring placements gave, and the file that keeps it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from placer import files
from placer.cluster import Cluster
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


class MeasurementLog:
    """A file with a line of JSON for each measurement of a graph on a cluster.

    Args:
        path: The file; need not exist yet.
        graph: The graph.
        cluster: The cluster.
    """

    class Line(msgspec.Struct, frozen=True):
        """A line: fingerprints, device index of each op, and what was measured."""

        graph: str
        cluster: str
        devices: list[int]
        warmup_seconds: tuple[float, ...]
        step_seconds: tuple[float, ...]
        reason: str | None = None
        others_share: float | None = None

    def __init__(self, path: str | os.PathLike[str], graph: OpGraph, cluster: Cluster) -> None:
        self.path, self._graph, self._cluster = Path(path), graph, cluster

    def read(self) -> dict[bytes, Measurement]:
        """What was measured last of each placement, by its device indices as int32 bytes.

        A last line that is cut off, as where its writer was killed, is removed.

        Raises:
            FormatError: Another line is not of this format.
        """
        found = {}
        for line in files.read_json_lines(self.path, self.Line):
            if (line.graph, line.cluster) == (self._graph.fingerprint, self._cluster.fingerprint):
                found[np.array(line.devices, np.int32).tobytes()] = Measurement(
                    line.step_seconds, line.warmup_seconds, line.reason, line.others_share
                )
        return found

    def append(self, devices: NDArray[np.int32], found: Measurement) -> None:
        """Adds a measurement of a placement ``[num_ops]``.

        Raises:
            PlacerError: The file cannot be written.
        """
        line = self.Line(
            self._graph.fingerprint,
            self._cluster.fingerprint,
            devices.tolist(),
            found.warmup_seconds,
            found.step_seconds,
            found.reason,
            found.others_share,
        )
        files.append_json_line(self.path, line)
