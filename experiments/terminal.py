"""What the command line shows: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from placer.heuristics import HeuristicResult
    from placer.problem import Progress

T = TypeVar("T")
OnHeuristics = Callable[[Sequence["HeuristicResult"]], None]
OnProgress = Callable[["Progress"], None]

_WIDTH_OF_A_PIPE = 160


def print_tables(tables: Iterable[Table]) -> None:
    """Prints tables, as wide as the terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_PIPE)
    for table in tables:
        console.print(table)


def print_json(value: Any) -> None:
    """Prints a JSON document over several lines."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_json_line(value: Any) -> None:
    """Prints a JSON document, or a msgspec struct as one, on one line."""
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())


def load_tensorflow() -> None:
    """Imports TensorFlow without the notes that its libraries write; an error still shows them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" in sys.modules:
        return
    with tempfile.TemporaryFile() as notes:  # the notes come from C++, past sys.stderr
        stderr = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf  # noqa: F401
        except ImportError:
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def training_progress(evaluations: int) -> Iterator[tuple[OnHeuristics, OnProgress]]:
    """A progress bar; gives what to call after the heuristics and after each batch.

    It shows evaluations, best step time so far, mean step time of the last batch, and the speedup
    of the best over the best heuristic.
    """
    from rich import progress
    from rich.console import Console

    from experiments.record import count_evaluations
    from experiments.tables import format_seconds
    from placer.api import best_heuristic

    with progress.Progress(
        progress.BarColumn(12),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.description}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("heuristics", total=evaluations)
        reference = math.nan

        def on_heuristics(heuristics: Sequence[HeuristicResult]) -> None:
            nonlocal reference
            best = best_heuristic(heuristics)
            reference = best.step_time_seconds if best else math.nan
            bar.update(task, completed=count_evaluations(heuristics))

        def on_progress(now: Progress) -> None:
            state = f"best {format_seconds(now.best_seconds)}"
            state += f", mean {format_seconds(now.mean_seconds)}"
            if math.isfinite(reference) and math.isfinite(now.best_seconds):
                state += f", speedup {reference / now.best_seconds:.2f}x"
            bar.update(task, completed=now.evaluations, description=state)

        yield on_heuristics, on_progress


def tracked(rows: Iterable[T], total: int) -> Iterator[T]:
    """Passes rows on and shows how many are done."""
    from rich.console import Console
    from rich.progress import track

    yield from track(rows, "comparing", total=total, console=Console(stderr=True))
