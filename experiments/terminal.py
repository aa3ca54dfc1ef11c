"""What the command line shows: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import math
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


@contextmanager
def training_progress(strategy: str, evaluations: int) -> Iterator[tuple[OnHeuristics, OnProgress]]:
    """A progress bar; gives what to call after the heuristics and after each batch."""
    from rich import progress
    from rich.console import Console

    from experiments.tables import format_seconds
    from placer.api import best_heuristic

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("evaluations{task.fields[state]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("heuristics", total=evaluations, state="")
        reference = math.nan

        def on_heuristics(heuristics: Sequence[HeuristicResult]) -> None:
            nonlocal reference
            best = best_heuristic(heuristics)
            reference = best.step_time_seconds if best else math.nan
            bar.update(task, description=strategy)

        def on_progress(now: Progress) -> None:
            state = f", best {format_seconds(now.best_seconds)}"
            state += f", mean {format_seconds(now.mean_seconds)}"
            if math.isfinite(reference) and math.isfinite(now.best_seconds):
                state += f", {reference / now.best_seconds:.2f}x the best heuristic"
            bar.update(task, completed=now.evaluations, state=state)

        yield on_heuristics, on_progress


def tracked(rows: Iterable[T], total: int) -> Iterator[T]:
    """Passes rows on and shows how many are done."""
    from rich.console import Console
    from rich.progress import track

    yield from track(rows, "comparing", total=total, console=Console(stderr=True))
