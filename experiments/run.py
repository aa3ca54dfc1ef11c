"""A run on disk: one folder with what was asked, how it went and what came out.

====================  ==============================================================
``config.toml``       what was asked; :class:`RunConfig`
``manifest.json``     versions and host
``graph.json.gz``     the graph, ``cluster.toml`` the cluster: a run needs no other file
``heuristics.csv``    the step time of each heuristic
``metrics.csv``       one row per batch; the first is the heuristics
``events/``           the same for TensorBoard, and what batches looked like
``policy.npz``        the pretrained policy that it started from, if any
``checkpoint.npz``    the state of the training
``placement.json``    the best placement
``simulated/``        where step times are measured: the run on the simulator before
``measurements.jsonl``  and each measurement, with the seconds of all steps
``result.json``       the figures that ``placer train --json`` prints
====================  ==============================================================
"""

from __future__ import annotations

import csv
import io
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.events import Events, Histograms, MetricsRow
from experiments.measuring import MeasuringConfig
from placer import files
from placer.cluster import Cluster
from placer.errors import FormatError, PlacerError, UsageError
from placer.graph import OpGraph
from placer.placement import Order, Placement
from policies.metrics import COLUMNS

if TYPE_CHECKING:
    from placer.heuristics import HeuristicResult

_HEURISTICS = ("name", "step_time_seconds", "reward", "feasible", "infeasible_because")
_VERSIONS_OF = (
    "placer-rl",
    "numpy",
    "numba",
    "tensorflow",
    "keras",
    "gymnasium",
    "networkx",
    "pymetis",
)
_NAMES = {
    "run": "",
    "config": "config.toml",
    "manifest": "manifest.json",
    "graph": "graph.json.gz",
    "cluster": "cluster.toml",
    "heuristics": "heuristics.csv",
    "metrics": "metrics.csv",
    "events": "events",
    "policy": "policy.npz",
    "checkpoint": "checkpoint.npz",
    "placement": "placement.json",
    "simulated": "simulated",
    "measurements": "measurements.jsonl",
    "result": "result.json",
}
_CREATED = ("manifest.json", "graph.json.gz", "cluster.toml", "policy.npz", "config.toml")

EndedBy = Literal["evaluations", "plateau", "seconds", "search"]
"""What ended a run: a budget, no progress, or a search that had nothing left to try."""


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a run was asked to do.

    Attributes:
        graph: Name of the graph.
        graph_fingerprint: Its fingerprint.
        cluster: Name of the cluster.
        cluster_fingerprint: Its fingerprint.
        strategy: Name of the strategy.
        evaluations: The budget, heuristics included.
        seed: All randomness comes from it.
        order: Which ready op a device starts first.
        groups: At most so many op groups; None for the grouping's own choice.
        seconds: A second budget: wall-clock seconds of heuristics and training in all sessions.
        plateau: After how many evaluations that brought nothing better the run ends.
        training: Settings of the strategy by name, if it has any.
        measuring: What is measured and how, where step times are not simulated.
    """

    FORMAT: ClassVar[str] = "placer.run/1"

    format: Literal["placer.run/1"]
    graph: str
    graph_fingerprint: str
    cluster: str
    cluster_fingerprint: str
    strategy: str
    evaluations: int
    seed: int
    order: Order = "fifo"
    groups: int | None = None
    seconds: float | None = None
    plateau: int | None = None
    training: dict[str, bool | int | float | str] = {}
    measuring: MeasuringConfig | None = None

    def check_agrees(self, asked: Mapping[str, object]) -> None:
        """Checks that a run may be resumed with these settings.

        Raises:
            UsageError: One is not what the run was started with.
        """
        for name, value in asked.items():
            if getattr(self, name) != value:
                what = name.removesuffix("_fingerprint")
                began = getattr(self, what)
                started = f"without {what}" if began is None else f"with {what} {began!r}"
                got = f"another {what}" if name != what else repr(value)
                raise UsageError(
                    f"the run was started {started}; got {got}; "
                    "leave it out to resume, or give another --out"
                )


class HeuristicRow(msgspec.Struct, frozen=True):
    """What came out of a heuristic; what is not feasible has no step time."""

    name: str
    step_time_seconds: float | None
    feasible: bool
    infeasible_because: str | None


class RunResult(msgspec.Struct, frozen=True):
    """The figures of a run that came to its end, ``placer train --json``; see ``docs/cli.md``."""

    workload: str
    cluster: str
    strategy: str
    order: Order
    seed: int
    best_step_time_seconds: float
    found_by: str
    learned_step_time_seconds: float | None
    nothing_learned_because: str | None
    speedup_over: dict[str, float | None]
    heuristics: list[HeuristicRow]
    evaluations: int
    seconds: float
    ended_by: EndedBy
    paths: dict[str, str]


class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is; need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._events: Events | None = None

    @property
    def policy(self) -> Path:
        """The pretrained policy to start from, if any."""
        return self.path / "policy.npz"

    @property
    def checkpoint(self) -> Path:
        """Where the state of the training is."""
        return self.path / "checkpoint.npz"

    @property
    def placement(self) -> Path:
        """Where the best placement is."""
        return self.path / "placement.json"

    @property
    def measurements(self) -> Path:
        """Where each measurement is."""
        return self.path / "measurements.jsonl"

    @property
    def simulated(self) -> RunFolder:
        """The run on the simulator before one whose step times are measured."""
        return RunFolder(self.path / "simulated")

    @property
    def begun(self) -> bool:
        """Whether all that was asked is there, so that the run can go on."""
        return (self.path / "config.toml").exists()

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / "result.json").exists()

    def paths(self) -> dict[str, str]:
        """What has been written, by what it is."""
        return {
            what: str(self.path / name)
            for what, name in _NAMES.items()
            if (self.path / name).exists() or what == "result"
        }

    def tidy(self) -> None:
        """Removes files that were being written when a run was killed."""
        for name in filter(None, _NAMES.values()):
            files.remove_asides(self.path / name)

    def is_empty(self) -> bool:
        """Whether there is nothing yet, or only what a kill left of :meth:`create`.

        Raises:
            UsageError: It is no folder.
        """
        if self.path.is_dir():
            aside = tuple(f".{name}." for name in _CREATED)
            names = [path.name for path in self.path.iterdir()]
            return all(name in _CREATED[:-1] or name.startswith(aside) for name in names)
        if self.path.exists():
            raise UsageError(f"{self.path}: a file; expected a folder for the run")
        return True

    def create(
        self,
        config: RunConfig,
        graph: OpGraph,
        cluster: Cluster,
        policy: Path | None = None,
    ) -> None:
        """Writes what was asked. ``config.toml`` comes last: with it, the folder is a run.

        Args:
            config: What was asked.
            graph: The graph.
            cluster: The cluster.
            policy: A pretrained policy to start from, of which the folder keeps a copy.

        Raises:
            PlacerError: The folder cannot be written.
        """
        manifest = msgspec.json.format(msgspec.json.encode(_manifest(config.seed)), indent=2)
        files.write_bytes(self.path / "manifest.json", manifest + b"\n")
        graph.save(self.path / "graph.json.gz")
        cluster.save(self.path / "cluster.toml")
        self.policy.unlink(missing_ok=True)
        if policy is not None:
            files.write_bytes(self.policy, files.read_bytes(policy))
        files.write_bytes(self.path / "config.toml", msgspec.toml.encode(config))

    def read_config(self) -> RunConfig:
        """What was asked.

        Raises:
            FormatError: The folder is no run.
        """
        path = self.path / "config.toml"
        if not path.is_file():
            raise FormatError(f"{self.path}: no run (it has no config.toml)")
        return files.decode_toml(files.read_bytes(path), RunConfig, str(path))

    def has_policy(self, policy: Path) -> bool:
        """Whether the run was started from this pretrained policy."""
        return self.policy.exists() and self.policy.read_bytes() == files.read_bytes(policy)

    def read_graph(self) -> OpGraph:
        """The graph that was given.

        Raises:
            FormatError: As :meth:`read_config`, or the file holds another graph.
        """
        path = self.path / "graph.json.gz"
        graph = OpGraph.load(path)
        if graph.fingerprint != self.read_config().graph_fingerprint:
            raise FormatError(f"{path}: another graph than that which the run was started with")
        return graph

    def read_cluster(self) -> Cluster:
        """The cluster that was given.

        Raises:
            FormatError: As :meth:`read_config`, or the file holds another cluster.
        """
        path = self.path / "cluster.toml"
        cluster = Cluster.load(path)
        if cluster.fingerprint != self.read_config().cluster_fingerprint:
            raise FormatError(f"{path}: another cluster than that which the run was started with")
        return cluster

    def write_heuristics(
        self, heuristics: Iterable[HeuristicResult], reference_seconds: float
    ) -> None:
        """Writes the step time of each heuristic, and the reward that it is worth."""
        rows = []
        for row in heuristics:
            seconds = float(row.step_time_seconds)
            reward = repr(-math.sqrt(seconds / reference_seconds)) if row.feasible else ""
            feasible = str(row.feasible).lower()
            rows.append((row.name, repr(seconds), reward, feasible, row.reason or ""))
        files.write_bytes(self.path / "heuristics.csv", _csv([_HEURISTICS, *rows]))

    def read_heuristics(self) -> list[tuple[str, float, float]]:
        """Name, step time and reward of each feasible heuristic; none before they were evaluated.

        Raises:
            FormatError: The file holds something else.
        """
        if not (self.path / "heuristics.csv").exists():
            return []
        rows = self._read_csv("heuristics.csv", _HEURISTICS)
        try:
            return [
                (row["name"], float(row["step_time_seconds"]), float(row["reward"]))
                for row in rows
                if row["feasible"] == "true"
            ]
        except ValueError as error:
            raise FormatError(f"{self.path / 'heuristics.csv'}: {error}") from None

    def read_metrics(self) -> dict[str, NDArray[np.float64]]:
        """The rows so far by column, ``[num_rows]`` each; nan where a cell is empty.

        A row that is cut off because it is being written is left out.

        Raises:
            FormatError: The file is missing or holds something else.
        """
        rows = self._read_csv("metrics.csv", COLUMNS)
        try:
            return {name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS}
        except ValueError as error:
            raise FormatError(f"{self.path / 'metrics.csv'}: {error}") from None

    def _read_csv(self, name: str, header: Sequence[str]) -> list[dict[str, str]]:
        path = self.path / name
        lines = files.read_bytes(path).decode(errors="replace").splitlines(keepends=True)
        rows = list(csv.reader(line for line in lines if line.endswith("\n")))
        if not rows or rows[0] != list(header):
            raise FormatError(f"{path}: expected the columns {', '.join(header)}")
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(header):
                raise FormatError(f"{path}:{number}: {len(row)} cells; expected {len(header)}")
        return [dict(zip(header, row, strict=True)) for row in rows[1:]]

    def start_metrics(self, rows: Sequence[MetricsRow]) -> None:
        """Begins the metrics with these rows, and drops all others that were there.

        Raises:
            PlacerError: The folder cannot be written.
        """
        content = _csv([COLUMNS, *(_cells(row) for row in rows)])
        files.write_bytes(self.path / "metrics.csv", content)
        self.close()
        self._events = Events(self.path / "events", rows)

    def append_metrics(self, row: MetricsRow, histograms: Histograms | None = None) -> None:
        """Adds a row, with the system when this returns; histograms are for TensorBoard.

        Raises:
            PlacerError: The folder cannot be written.
        """
        path = self.path / "metrics.csv"
        try:
            with path.open("ab") as file:
                file.write(_csv([_cells(row)]))
        except OSError as error:
            raise PlacerError(f"{path}: cannot be written ({error.strerror or error})") from None
        if self._events is None:
            raise AssertionError("start_metrics() comes first")
        self._events.add(row, histograms or {})

    def write_placement(self, placement: Placement) -> None:
        """Writes the best placement."""
        placement.save(self.placement)

    def write_result(self, result: RunResult) -> None:
        """Writes the figures of the finished run, and closes the events."""
        self.close()
        content = msgspec.json.format(msgspec.json.encode(result), indent=2)
        files.write_bytes(self.path / "result.json", content + b"\n")

    def read_result(self) -> RunResult:
        """The figures of the finished run, with the paths as they are now.

        Raises:
            FormatError: The file is missing or holds something else.
        """
        path = self.path / "result.json"
        try:
            result = msgspec.json.decode(files.read_bytes(path), type=RunResult)
        except msgspec.DecodeError as error:
            raise FormatError(f"{path}: {error}") from None
        return msgspec.structs.replace(result, paths=self.paths())

    def flush(self) -> None:
        """Brings all events to disk."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Brings all events to disk; no more will come."""
        if self._events is not None:
            self._events.close()
            self._events = None


def free_folder(base: Path) -> RunFolder:
    """The first of ``base``, ``base-2``, ``base-3``... that is not there yet."""
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return RunFolder(path)


def _cells(row: MetricsRow) -> list[str]:
    """A row as text that reads back the same; what it lacks or has not is empty."""
    values = (row.get(name, math.nan) for name in COLUMNS)
    return ["" if math.isnan(value) else repr(value) for value in values]


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _manifest(seed: int) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "seed": seed,
        "versions": versions,
        "host": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "num_cpus": os.cpu_count(),
        },
    }
