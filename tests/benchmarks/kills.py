"""Kills a run with SIGKILL, again and again: ``python -m tests.benchmarks.kills --kills 20``.

One run of ``placer train`` is left alone. Another one, of the same seed, is killed at random points
and begun again with ``--resume``; in the end both must have left the same, but for what the clock
says. Most of the kills come after a random batch, at a random moment of the next; the others while
the command is still starting. Checkpoints are written after every batch in some sessions, so that
kills hit the writing, and rarely in others, so that batches are lost.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.run import RunFolder
from policies import checkpoint
from tests.benchmarks.measuring import Criterion, Report, Table
from tests.experiments.reading import same_events, without_wall_clock

PATIENCE_SECONDS = 300.0
_STARTING_SECONDS = 5.0
_PLACER = (
    "from experiments import training; training.SECONDS_BETWEEN_CHECKPOINTS = float({}); "
    "from experiments.cli import main; main()"
)


class Point(NamedTuple):
    """When a session is killed.

    Attributes:
        row: After it wrote this row of the metrics; 0 for after it started.
        delay_seconds: So much later.
        between_seconds: How much time it lets pass between two checkpoints.
    """

    row: int
    delay_seconds: float
    between_seconds: float


@dataclass(frozen=True)
class Kill:
    """What a kill met.

    Attributes:
        point: When.
        num_rows: Rows of metrics on disk, but for the heuristics'.
        num_kept: How many of them are in the checkpoint.
        torn: Files that were being written.
        seconds: How long the session lasted.
    """

    point: Point
    num_rows: int
    num_kept: int
    torn: tuple[str, ...]
    seconds: float


def draw_points(
    num_kills: int, num_rows: int, seconds_per_row: float, rng: np.random.Generator
) -> list[Point]:
    """Points in the order of their rows; one of five kills comes while the command starts."""
    rows = np.sort(rng.integers(1, max(num_rows - 3, 2), num_kills))
    rows[rng.random(num_kills) < 0.2] = 0
    latest = np.where(rows == 0, _STARTING_SECONDS, seconds_per_row)
    delays = rng.uniform(0, latest)
    between = rng.choice([0.0, 0.0, 10 * seconds_per_row], num_kills)
    return [
        Point(int(row), float(delay), float(seconds))
        for row, delay, seconds in zip(rows, delays, between, strict=True)
    ]


def kills(
    arguments: Sequence[str], num_kills: int, seed: int, *, alone: Path, killed: Path
) -> Report:
    """Kills a run of ``placer train`` with these arguments.

    Args:
        arguments: Of the command.
        num_kills: How often.
        seed: Of the points at which it is killed.
        alone: A run with these arguments that came to its end without a stop.
        killed: The folder of the run to kill.
    """
    metrics = RunFolder(alone).read_metrics()
    per_row = float(np.median(np.diff(metrics["wall_seconds"])))
    rng = np.random.default_rng(seed)
    points = draw_points(num_kills, len(metrics["step"]) - 1, per_row, rng)
    met = [_kill(arguments, killed, point) for point in points]
    finish(arguments, killed)
    same = {
        "metrics": without_wall_clock(killed) == without_wall_clock(alone),
        "events": same_events(killed, alone),
        "files": {path.name for path in killed.iterdir()} == {p.name for p in alone.iterdir()},
        **{
            name: (killed / name).read_bytes() == (alone / name).read_bytes()
            for name in ("placement.json", "heuristics.csv", "config.toml")
        },
    }
    unlike = [name for name, is_same in same.items() if not is_same]
    text = f"killed {len(met)} times and resumed, a run leaves what one left alone does"
    measured = f"differs in {', '.join(unlike)}" if unlike else "the same"
    columns = ("kill", "at", ">checkpoint every", ">session", ">batches", ">kept", "while writing")
    rows = [_row(number, kill) for number, kill in enumerate(met, start=1)]
    title = f"`placer train {' '.join(arguments)}`, {len(metrics['step']) - 1} batches"
    return Report("kills", [Criterion(text, measured, not unlike)], [Table(title, columns, rows)])


def finish(arguments: Sequence[str], folder: Path) -> None:
    """Lets a run come to its end."""
    subprocess.run(_command(arguments, folder), check=True, stdout=subprocess.DEVNULL)


def _kill(arguments: Sequence[str], folder: Path, point: Point) -> Kill:
    """Begins the run or goes on with it, and kills it.

    Raises:
        RuntimeError: It ended before, or never came so far.
    """
    torn, before = set(_aside(folder)), _inode(folder)
    began = time.perf_counter()
    process = subprocess.Popen(
        _command(arguments, folder, point.between_seconds),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # the rows of the session before stay until this one has read its checkpoint
        while point.row and (_inode(folder) == before or _num_rows(folder) < point.row):
            late = time.perf_counter() - began > PATIENCE_SECONDS
            if late or process.poll() is not None:
                errors = process.communicate(timeout=5)[1] if not late else ""
                raise RuntimeError(f"no row {point.row} to kill the run after: {errors}")
            time.sleep(0.001)
        time.sleep(point.delay_seconds)
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed; give it more evaluations")
    finally:
        process.kill()
        process.communicate()
    kept = 0
    if RunFolder(folder).checkpoint.exists():
        kept = len(checkpoint.load(RunFolder(folder).checkpoint)[0]["rows"])
    return Kill(
        point,
        max(_num_rows(folder), kept),
        kept,
        tuple(sorted(set(_aside(folder)) - torn)),
        time.perf_counter() - began,
    )


def _command(arguments: Sequence[str], folder: Path, between_seconds: float = 10.0) -> list[str]:
    """``placer train``, with another time between checkpoints."""
    start = [sys.executable, "-c", _PLACER.format(between_seconds)]
    return [*start, "train", *arguments, "--out", str(folder), "--resume"]


def _inode(folder: Path) -> int:
    path = folder / "metrics.csv"
    return path.stat().st_ino if path.exists() else 0


def _num_rows(folder: Path) -> int:
    """Rows of metrics, but for the heuristics'; one that is cut off does not count."""
    path = folder / "metrics.csv"
    return max(path.read_bytes().count(b"\n") - 2, 0) if path.exists() else 0


def _aside(folder: Path) -> list[str]:
    """Files that were being written."""
    return [path.name for path in folder.glob(".*")] if folder.exists() else []


def _row(number: int, kill: Kill) -> tuple[object, ...]:
    point = kill.point
    after = f"batch {point.row}" if point.row else "the start"
    return (
        number,
        f"{1e3 * point.delay_seconds:,.0f} ms after {after}",
        f"{point.between_seconds:.2f} s" if point.between_seconds else "batch",
        f"{kill.seconds:.1f} s",
        kill.num_rows,
        kill.num_kept,
        ", ".join(name.split(".")[1] for name in kill.torn) or "-",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Kills and prints what happened; exits with 1 if it made a difference."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the points at which it is killed")
    parser.add_argument("--workload", default="rnnlm")
    parser.add_argument("--cluster", default="p100x4")
    parser.add_argument("--evaluations", type=int, default=2000)
    options = parser.parse_args(arguments)
    asked = ("workload", "cluster", "evaluations")
    train = [word for name in asked for word in (f"--{name}", str(getattr(options, name)))]
    with tempfile.TemporaryDirectory() as where:
        alone, killed = Path(where, "alone"), Path(where, "killed")
        finish(train, alone)
        report = kills(train, options.kills, options.seed, alone=alone, killed=killed)
    print(report.markdown())
    if not all(criterion.holds for criterion in report.criteria):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
