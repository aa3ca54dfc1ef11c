"""How much is measured, and on what."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placer.graph import OpGraph
from placer.grouping import OpGroups, group_ops
from tests.benchmarks.families import FAMILIES, make_graph
from tests.benchmarks.measuring import Case

NUM_GROUPS = 200
PLACEMENTS = ("grouped", "random")


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        sizes: Ops of the graphs, about; sections that need one size take the second.
        devices: Numbers of devices.
        repetitions: Rounds of the interleaved run.
        rows: Placements in each round; every round has others.
        batch: Placements that threads share.
        moves: Moves tried in each round.
        warm_rows: Placements that a subject simulates right before it is timed.
        reference_ops: Ops of the graphs for the pure-Python reference.
        worth_judging: The least ops of a graph on which the criteria are judged.
        large: The least ops of a graph on which less is measured; see :meth:`at`.
    """

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    devices: tuple[int, ...] = (2, 8, 64)
    repetitions: int = 8
    rows: int = 64
    warm_rows: int = 8
    batch: int = 512
    moves: int = 256
    reference_ops: int = 500
    worth_judging: int = 10_000
    large: int = 50_000

    def at(self, num_ops: int) -> Scale:
        """What is measured on graphs of so many ops: on large ones fewer placements and moves."""
        if num_ops < self.large:
            return self
        rows, warm_rows = max(1, self.rows // 4), max(1, self.warm_rows // 4)
        return dataclasses.replace(
            self, rows=rows, warm_rows=warm_rows, moves=max(1, self.moves // 2)
        )


FULL = Scale()
QUICK = Scale(sizes=(1_000, 10_000), devices=(2, 8), repetitions=3, rows=16, batch=64, moves=64)


@dataclass(frozen=True)
class Model:
    """A family with a direction."""

    family: str
    training: bool

    def words(self) -> tuple[str, str]:
        """Family and direction, for a row of a table."""
        return self.family, "training" if self.training else "forward"

    def __str__(self) -> str:
        return " ".join(self.words())


MODELS = tuple(itertools.starmap(Model, itertools.product(FAMILIES, (False, True))))


@dataclass(frozen=True)
class Workload:
    """A graph with its op groups."""

    graph: OpGraph
    groups: OpGroups

    def placements(self, kind: str, num_devices: int, count: int, seed: int) -> NDArray[np.int32]:
        """Draws placements ``[count, num_ops]``: a device per op, or per op group if grouped."""
        rng = np.random.default_rng([seed, num_devices])
        num_ops, num_groups = self.graph.num_ops, self.groups.num_groups
        if kind == "random":
            return rng.integers(num_devices, size=(count, num_ops), dtype=np.int32)
        choices = rng.integers(num_devices, size=(count, num_groups), dtype=np.int32)
        return np.ascontiguousarray(choices[:, self.groups.group_of_op])


@functools.lru_cache(maxsize=4)
def workload(model: Model, num_ops: int) -> Workload:
    """The graph of a model and its at most `NUM_GROUPS` op groups."""
    graph = make_graph(model.family, num_ops, training=model.training)
    return Workload(graph, group_ops(graph, NUM_GROUPS))


def case(
    work: Workload,
    kind: str,
    num_devices: int,
    scale: Scale,
    subjects: Mapping[str, Callable[[NDArray[np.int32]], object]],
) -> Case[NDArray[np.int32]]:
    """Subjects that simulate `scale.rows` other placements in each repetition."""
    return Case(
        work.placements(kind, num_devices, scale.warm_rows, seed=scale.repetitions),
        functools.partial(work.placements, kind, num_devices, scale.rows),
        subjects,
    )
