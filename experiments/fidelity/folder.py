"""The folder in which predicted and measured step times are kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from experiments.fidelity.figures import ROUNDS, Comparison, Repetition
from experiments.fidelity.misses import Miss
from experiments.fidelity.placements import Candidate
from experiments.fidelity.report import draw
from experiments.measuring import MeasuringConfig
from placer import files
from placer.cluster import Cluster
from placer.errors import FormatError, UsageError
from placer.graph import OpGraph
from placer.placement import Order, Placement
from placer.tf import MeasuredEvaluator


class FidelityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was asked.

    Attributes:
        placements: How many placements.
        seed: All randomness comes from it.
        misses: How many of the largest misses are explained.
        measuring: Which step is measured, on what and how.
        graph: Fingerprint of the graph that was given; empty where the ops are profiled.
        cluster: Fingerprint of the cluster that was given; empty where the devices are described.
        order: Which ready op a device starts first.
    """

    FORMAT: ClassVar[str] = "placer.fidelity/1"

    format: Literal["placer.fidelity/1"]
    placements: int
    seed: int
    misses: int
    measuring: MeasuringConfig
    graph: str = ""
    cluster: str = ""
    order: Order = "fifo"


class FidelityFolder:
    """The folder of a comparison.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def began(self) -> bool:
        """Whether it says what was asked."""
        return (self.path / "config.toml").is_file()

    def begin(self, config: FidelityConfig) -> None:
        """Writes what was asked, or checks that what is there was asked the same.

        Raises:
            UsageError: The folder has something else.
        """
        there = self.path / "config.toml"
        if there.is_file():
            began = files.decode_toml(files.read_bytes(there), FidelityConfig, str(there))
            has_more = any(path != there for path in self.path.iterdir())
            if began != config and has_more:
                raise UsageError(f"{there}: was asked otherwise; give another --out")
            files.write_bytes(there, msgspec.toml.encode(config))
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"{self.path}: not empty; expected a new folder")
        else:
            files.write_bytes(there, msgspec.toml.encode(config))

    def model(self, make: Callable[[], tuple[OpGraph, Cluster]]) -> tuple[OpGraph, Cluster]:
        """The graph and the cluster that predict, made if they are not there yet."""
        graph_path, cluster_path = self.path / "graph.json.gz", self.path / "cluster.toml"
        if not (graph_path.exists() and cluster_path.exists()):
            graph, cluster = make()
            graph.save(graph_path)
            cluster.save(cluster_path)
        return OpGraph.load(graph_path), Cluster.load(cluster_path)

    def candidates(self, make: Callable[[], list[Candidate]]) -> list[Candidate]:
        """The placements, chosen if they are not there yet."""
        path = self.path / "placements.jsonl"
        if not path.exists():
            files.write_bytes(path, b"".join(msgspec.json.encode(c) + b"\n" for c in make()))
        return files.read_json_lines(path, Candidate)

    def fitted(self, make: Callable[[], Cluster]) -> Cluster:
        """The cluster with links fitted to all that was measured, made if it is not there yet."""
        path = self.path / "fitted.toml"
        if not path.exists():
            make().save(path)
        return Cluster.load(path)

    def repetitions(self) -> dict[tuple[int, int], Repetition]:
        """What was measured so far, by round and placement."""
        rows = files.read_json_lines(self.path / "measurements.jsonl", Repetition)
        return {(row.round, row.placement): row for row in rows}

    def append(self, row: Repetition) -> None:
        """Adds what was measured.

        Raises:
            PlacerError: The file cannot be written.
        """
        files.append_json_line(self.path / "measurements.jsonl", row)

    def misses(self, make: Callable[[], list[Miss]]) -> list[Miss]:
        """What explains the largest misses, found out if it is not there yet.

        Raises:
            FormatError: The file has something else.
        """
        path = self.path / "misses.json"
        if not path.exists():
            content = msgspec.json.format(msgspec.json.encode(make()), indent=1)
            files.write_bytes(path, content + b"\n")
        try:
            return msgspec.json.decode(files.read_bytes(path), type=list[Miss])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: {error}") from None

    def write(
        self, config: FidelityConfig, comparison: Comparison, misses: list[Miss]
    ) -> dict[str, Any]:
        """Writes the figures, the rows and the picture; returns the figures."""
        result = {
            "workload": config.measuring.workload,
            "measuring": msgspec.to_builtins(config.measuring),
            "seed": config.seed,
            "order": config.order,
            **comparison.figures(),
            "misses": msgspec.to_builtins(misses),
        }
        content = msgspec.json.format(msgspec.json.encode(result), indent=1)  # nan as null
        files.write_bytes(self.path / "fidelity.json", content + b"\n")
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        names = ("alone", "predicted", "measured", "first_half", "second_half")
        rows.writerow(("placement", "kind", *(f"{name}_seconds" for name in names)))
        columns = (comparison.alone, comparison.predicted, comparison.measured, *comparison.halves)
        rows.writerows(zip(comparison.numbers, comparison.kinds, *columns, strict=True))
        files.write_bytes(self.path / "fidelity.csv", text.getvalue().encode())
        draw(comparison.points(), result, self.path / "fidelity.png")
        return msgspec.json.decode(content, type=dict[str, Any])


def measure_all(
    evaluator: MeasuredEvaluator,
    cluster: Cluster,
    candidates: Sequence[Candidate],
    folder: FidelityFolder,
    seed: int,
    on_measured: Callable[[Repetition], None],
) -> None:
    """Measures what is not measured yet: all placements once, then all again, in another sequence.

    What slows the machine for a while so meets each kind alike, and both halves of the
    repetitions of a placement are far apart, each with a session of its own.
    """
    done = folder.repetitions()
    for number in range(ROUNDS):
        turns = np.random.default_rng([seed, number]).permutation(len(candidates))
        for index in turns.tolist():
            if (number, index) not in done:
                devices = np.array(candidates[index].devices, np.int32)
                placement = Placement(evaluator.graph, cluster, devices, evaluator.order)
                found = evaluator.measure(placement, again=True)
                row = Repetition(
                    number, index, found.step_seconds, found.reason, found.others_share, found.busy
                )
                folder.append(row)
                on_measured(row)
