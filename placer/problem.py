"""Problem: what heuristics, searches, environments and policies know of a placement task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer.cluster import Cluster
from placer.costs import allowed_devices, op_seconds
from placer.errors import InfeasibleError, UsageError
from placer.graph import OpGraph
from placer.grouping import OpGroups, group_ops
from placer.placement import Evaluations, Order
from placer.simulator import Simulator


class Evaluator(Protocol):
    """Anything that can tell the step time of placements."""

    def evaluate(self, placements: NDArray[np.int32]) -> Evaluations:
        """Evaluates a batch of placements ``[batch, num_ops]``; never raises for one of them."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """Where to run the op groups of a graph on a cluster, and who says how well that goes.

    Attributes:
        graph: The graph.
        cluster: The cluster.
        groups: Its op groups: what one decision places.
        evaluator: Tells step times of placements.
        order: Which ready op a device starts first under this evaluator.
        priorities: With order ``"priority"``, a figure per op, highest first, ``[num_ops]``; None
            for the simulator's own.
    """

    graph: OpGraph
    cluster: Cluster
    groups: OpGroups
    evaluator: Evaluator
    order: Order = "fifo"
    priorities: NDArray[np.float64] | None = None

    @classmethod
    def build(
        cls,
        graph: OpGraph,
        cluster: Cluster,
        *,
        num_groups: int | None = None,
        order: Order = "fifo",
        num_threads: int = 1,
    ) -> Problem:
        """A problem with simulated step times.

        Args:
            graph: The graph.
            cluster: The cluster.
            num_groups: At most so many op groups; None for the grouping's own choice.
            order: Which ready op a device starts first.
            num_threads: How many placements to simulate at once.

        Raises:
            UsageError: An argument outside its range.
            ClusterError: An op that no device of the cluster can run.
        """
        simulator = Simulator(graph, cluster, order=order, num_threads=num_threads)
        return cls(graph, cluster, group_ops(graph, num_groups), simulator, order)

    @property
    def takes_priorities(self) -> bool:
        """Whether step times are simulated with order ``"priority"``."""
        return self.order == "priority" and isinstance(self.evaluator, Simulator)

    def with_priorities(self, priorities: NDArray[np.float64]) -> Problem:
        """The same problem with other priorities, ``[num_ops]``.

        Raises:
            UsageError: Step times that are not simulated with order ``"priority"``.
        """
        if not self.takes_priorities or not isinstance(self.evaluator, Simulator):
            raise UsageError("priorities need step times simulated with order 'priority'")
        simulator = Simulator(
            self.graph,
            self.cluster,
            order=self.order,
            priorities=priorities,
            num_threads=self.evaluator.num_threads,
        )
        return replace(self, evaluator=simulator, priorities=simulator.priorities)

    @property
    def num_groups(self) -> int:
        """How many op groups there are."""
        return self.groups.num_groups

    @property
    def num_devices(self) -> int:
        """How many devices there are."""
        return self.cluster.num_devices

    @functools.cached_property
    def op_seconds(self) -> NDArray[np.float64]:
        """Seconds of each op on each device, ``[num_ops, num_devices]``."""
        return op_seconds(self.graph, self.cluster)

    @functools.cached_property
    def group_parameter_bytes(self) -> NDArray[np.float64]:
        """Bytes of variables in each op group, ``[num_groups]``."""
        group_of_op, num_bytes = self.groups.group_of_op, self.graph.parameter_bytes
        return np.bincount(group_of_op, num_bytes, self.num_groups).astype(np.float64)

    @functools.cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """Where each op group may go, ``[num_groups, num_devices]``.

        That is where every op of it may run and its variables alone do not exceed the memory.

        Raises:
            InfeasibleError: An op group may go nowhere.
        """
        by_kind = np.ones((self.num_groups, self.num_devices), bool)
        np.logical_and.at(
            by_kind, self.groups.group_of_op, allowed_devices(self.graph, self.cluster)
        )
        memory = np.array([device.memory_bytes for device in self.cluster.devices])
        allowed = by_kind & (self.group_parameter_bytes[:, None] <= memory)
        for group in np.flatnonzero(~allowed.any(axis=1)):
            name = self.groups.names[group]
            if not by_kind[group].any():
                raise InfeasibleError(
                    f"op group {name!r}: no device of cluster {self.cluster.name!r} has a kind "
                    "that all of its ops can run on"
                )
            raise InfeasibleError(
                f"op group {name!r} has {self.group_parameter_bytes[group]:,.0f} bytes of "
                f"variables; no device that can run it has so much memory"
            )
        allowed.setflags(write=False)
        return allowed

    @functools.cached_property
    def reference_seconds(self) -> float:
        """What step times are divided by in rewards: all op times in sequence on the best device.

        On a device that runs one op at a time, this is its single-device step time.
        """
        return float(np.maximum(self.op_seconds, 1e-9).sum(axis=0).min())

    def expand(self, choices: ArrayLike) -> NDArray[np.int32]:
        """The placements that choices of a device per op group stand for.

        Args:
            choices: Device indices, ``[num_groups]`` or ``[batch, num_groups]``.

        Returns:
            Device index per op, ``[num_ops]`` or ``[batch, num_ops]``.

        Raises:
            UsageError: Another shape, not integers, or an index of no device.
        """
        try:
            array = np.asarray(choices)
        except ValueError as error:  # rows of unlike lengths
            raise UsageError(f"choices are no array: {error}") from None
        if array.ndim not in (1, 2) or array.shape[-1] != self.num_groups:
            raise UsageError(
                f"choices have shape {array.shape}; expected ({self.num_groups},) or "
                f"(batch, {self.num_groups}), a device index per op group"
            )
        if array.dtype.kind not in "iu":
            raise UsageError(f"choices have dtype {array.dtype}; expected integers")
        if array.size and not (array.min() >= 0 and array.max() < self.num_devices):
            raise UsageError(
                f"choices reach from {array.min()} to {array.max()}; "
                f"expected device indices from 0 to {self.num_devices - 1}"
            )
        # take() keeps the result C-contiguous, as the simulator wants it
        return array.astype(np.int32).take(self.groups.group_of_op, axis=-1)

    def check_start(self, start: ArrayLike) -> NDArray[np.int32]:
        """Returns choices that a search may start from, ``[num_groups]``.

        Raises:
            UsageError: As :meth:`expand`, a batch, or an op group where it may not go.
        """
        self.expand(start)
        placed = np.asarray(start)
        if placed.ndim != 1:
            raise UsageError(f"start has shape {placed.shape}; expected ({self.num_groups},)")
        for group in np.flatnonzero(~self.allowed[np.arange(self.num_groups), placed]):
            raise UsageError(
                f"start puts op group {self.groups.names[group]!r} on "
                f"{self.cluster.device_names[placed[group]]}, where it may not go"
            )
        return placed.astype(np.int32)

    def evaluate(self, choices: ArrayLike) -> Evaluations:
        """Evaluates a batch of choices ``[batch, num_groups]``.

        Raises:
            UsageError: As :meth:`expand`, or not a batch.
        """
        placements = self.expand(choices)
        if placements.ndim != 2:
            raise UsageError(
                f"choices have shape {np.shape(choices)}; expected (batch, {self.num_groups})"
            )
        return self.evaluator.evaluate(placements)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found.

    Attributes:
        method: Name of the search.
        choices: Best feasible choices, ``[num_groups]``.
        step_time_seconds: Their step time.
        evaluations: How many placements were evaluated.
        seconds: Wall-clock seconds taken.
        best_so_far: Best step time after each evaluation, infinite before the first feasible
            one, ``[evaluations]``.
        seconds_so_far: Wall-clock seconds taken until after each evaluation, ``[evaluations]``.
    """

    method: str
    choices: NDArray[np.int32]
    step_time_seconds: float
    evaluations: int
    seconds: float
    best_so_far: NDArray[np.float64]
    seconds_so_far: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a search stands after a batch.

    Attributes:
        evaluations: Placements evaluated so far.
        best_seconds: Best step time so far, infinite before the first feasible placement.
        mean_seconds: Mean step time of the feasible ones of the last batch, nan if none.
        choices: The best choices so far, ``[num_groups]``, or None.
    """

    evaluations: int
    best_seconds: float
    mean_seconds: float
    choices: NDArray[np.int32] | None


MOST_EVALUATIONS = 100_000_000
"""The largest budget: the curve of the best so far is kept in memory."""


def check_budget(evaluations: int, seed: int, seconds: float | None = None) -> None:
    """Checks what every search is given.

    Raises:
        UsageError: A budget that is no number from 1 to 100 million, a seed that is none from 0 to
            2**63 - 1, or seconds that are no number above 0.
    """
    for name, value, least, most in (
        ("evaluations", evaluations, 1, MOST_EVALUATIONS),
        ("seed", seed, 0, 2**63 - 1),
    ):
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_whole or not least <= value <= most:
            raise UsageError(
                f"{name} is {value!r}; expected a whole number from {least} to {most:,}"
            )
    if seconds is not None and not (isinstance(seconds, int | float | np.number) and seconds > 0):
        raise UsageError(f"seconds is {seconds!r}; expected a number above 0")


class Search(Protocol):
    """The one interface of everything that searches for a placement under a budget."""

    def __call__(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        seconds: float | None = None,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SearchResult:
        """Evaluates up to `evaluations` placements and returns the best.

        Args:
            problem: The task.
            evaluations: The budget.
            seed: All randomness comes from it.
            seconds: Where given, no batch is begun after so many seconds of wall-clock time; the
                first is always evaluated. How far a search gets then depends on the machine.
            start: Choices to start from, ``[num_groups]``; evaluating them again counts.
            on_progress: Called after each batch.

        Raises:
            UsageError: A budget that is none, or a start that may not be.
            InfeasibleError: No feasible placement was found.
        """
        ...
