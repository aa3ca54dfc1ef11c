"""Options of the commands that measure, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from experiments.measuring import MeasuringConfig
    from placer.cluster import Cluster

SizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--size", help="A size that differs from the bundled graph's.", metavar="NAME=NUMBER"
    ),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers",
        help="How many processes to start, or where 'placer worker' runs, with commas between; "
        "otherwise the addresses in the cluster file or, without, the devices of this machine.",
        metavar="N|HOST:PORT,...",
    ),
]
SharesOption = Annotated[
    str | None,
    typer.Option(
        "--shares",
        help="Throttle the processes: the share of the time that each may run.",
        metavar="SHARE,...",
    ),
]
DevicesOption = Annotated[
    str | None,
    typer.Option(
        "--devices",
        help="TensorFlow's device for each of the cluster's, with commas between.",
        metavar="DEVICE,...",
    ),
]
WarmupOption = Annotated[
    int | None, typer.Option("--warmup", help="Steps before.  [default: 3]", min=0)
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", help="Steps to time.  [default: 10]", min=1)
]
SecondsLimitOption = Annotated[
    float | None,
    typer.Option("--seconds-limit", help="For building and all steps.  [default: 60]"),
]
PatienceOption = Annotated[
    float,
    typer.Option(
        "--patience",
        help="Seconds to wait for a machine that is too busy to tell, each time.",
        min=0,
    ),
]
ProfiledOption = Annotated[
    Path | None,
    typer.Option("--graph", help="What 'placer profile' wrote of the workload.", metavar="FILE"),
]
DEFAULT_PATIENCE = 30.0


def measuring_config(
    workload: str,
    sizes: list[str] | None = None,
    workers: str | None = None,
    shares: str | None = None,
    devices: str | None = None,
    warmup: int | None = None,
    steps: int | None = None,
    seconds_limit: float | None = None,
    cluster: Cluster | None = None,
) -> MeasuringConfig:
    """What the options say, and where they do not say the workers, the addresses of the cluster.

    Raises:
        PlacerError: One is not what it should be.
    """
    from experiments.measuring import MeasuringConfig, parse_shares, parse_sizes

    if workers is None and cluster is not None:
        workers = ",".join(cluster.addresses)
    given: dict[str, Any] = {"warmup": warmup, "steps": steps, "seconds_limit": seconds_limit}
    config = MeasuringConfig(
        workload,
        parse_sizes(sizes or []),
        workers or "",
        parse_shares(shares),
        tuple(devices.split(",")) if devices else (),
        **{name: value for name, value in given.items() if value is not None},
    )
    config.check()
    return config


def say_waiting(share: float) -> None:
    """Says on stderr that the machine is too busy."""
    typer.echo(f"waiting: others take {share:.0%} of the processors", err=True)


@contextmanager
def counting(total: int, done: int) -> Iterator[Callable[[object], None]]:
    """A progress bar; gives what to call after each measurement."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("measuring", total=total, completed=done)
        yield lambda _: bar.advance(task)
