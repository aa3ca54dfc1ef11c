"""place(): a placement for a graph or a TensorFlow function, in one call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster
from placer.errors import InfeasibleError, UsageError
from placer.graph import OpGraph
from placer.heuristics import HeuristicResult, evaluate_heuristics
from placer.placement import Order, Placement
from placer.problem import Problem, Progress, Search, SearchResult, check_budget
from placer.strategies import STRATEGIES, resolve


@dataclass(frozen=True, eq=False)
class Solution:
    """What was tried on a problem, and the best of it.

    Attributes:
        problem: The problem, with the priorities of what was searched from.
        heuristics: Every heuristic with its step time or the reason why it has none.
        search: What the search found; None if it found nothing feasible or had no budget left.
        choices: The best choices evaluated, ``[num_groups]``.
        step_time_seconds: Their step time.
        found_by: The method that found them first.
        evaluations: How many placements were evaluated, heuristics included.
    """

    problem: Problem
    heuristics: Sequence[HeuristicResult]
    search: SearchResult | None
    choices: NDArray[np.int32]
    step_time_seconds: float
    found_by: str
    evaluations: int

    @property
    def reference_step_time(self) -> float | None:
        """Step time of the best feasible single device, or else of the best heuristic, if any."""
        single = [r for r in self.heuristics if r.name.startswith("single_device:")]
        best = best_heuristic(single) or best_heuristic(self.heuristics)
        return best.step_time_seconds if best else None

    def placement(self) -> Placement:
        """The best choices as a placement of the graph's ops."""
        reference = self.reference_step_time
        return Placement(
            self.problem.graph,
            self.problem.cluster,
            self.problem.expand(self.choices),
            order=self.problem.order,
            priorities=self.problem.priorities,
            step_time=self.step_time_seconds,
            speedup=reference / self.step_time_seconds if reference else None,
            found_by=self.found_by,
        )


def place(
    target: Any,
    cluster: Cluster | str | os.PathLike[str],
    *,
    specs: Sequence[Any] = (),
    strategy: str | Search = "reinforce",
    evaluations: int = 3000,
    seconds: float | None = None,
    seed: int = 0,
    order: Order = "fifo",
    num_groups: int | None = None,
    num_threads: int = 1,
) -> Placement:
    """Finds where each op of a graph should run so that a step takes the least time.

    Args:
        target: An :class:`OpGraph`, the path of a graph file, the name of a bundled graph, or
            anything that ``placer.tf.read`` takes, such as a ``tf.function``.
        cluster: A :class:`Cluster`, the path of a cluster file, or the name of a preset.
        specs: For a TensorFlow target that was not traced yet, its ``tf.TensorSpec``s.
        strategy: A name of :data:`placer.strategies.STRATEGIES`, or a search of your own.
        evaluations: The budget, heuristics included.
        seconds: A second budget, of wall-clock time: no batch is begun after it. How far a search
            gets in it depends on the machine.
        seed: All randomness comes from it: the same seed gives the same placement.
        order: Which ready op a device starts first.
        num_groups: At most so many op groups; None for the grouping's own choice.
        num_threads: How many placements to simulate at once.

    Returns:
        The best placement that was evaluated, single devices and heuristics included.

    Raises:
        PlacerError: A target, cluster or argument that cannot be used; the message says which.
        InfeasibleError: No feasible placement was found.
    """
    graph = load_graph(target, specs)
    if not isinstance(cluster, Cluster | str | os.PathLike):
        raise UsageError(f"cluster is {cluster!r}; expected a Cluster, a file or a name")
    cluster = cluster if isinstance(cluster, Cluster) else Cluster.load(cluster)
    problem = Problem.build(
        graph, cluster, num_groups=num_groups, order=order, num_threads=num_threads
    )
    return solve(
        problem, strategy=strategy, evaluations=evaluations, seconds=seconds, seed=seed
    ).placement()


def best_start(problem: Problem, rows: Sequence[HeuristicResult]) -> HeuristicResult | None:
    """What to search from: the best or, where none is feasible, what lacks the least memory.

    Measured, a placement may be feasible though an op group is where it may not go by its figures;
    no search starts from there.

    Args:
        problem: The problem.
        rows: Its heuristics.
    """
    groups = np.arange(problem.num_groups)
    allowed = [
        row
        for row in rows
        if row.choices is not None and problem.allowed[groups, row.choices].all()
    ]
    lacking = [row for row in allowed if row.excess_bytes > 0]
    nearest = min(lacking, key=lambda row: row.excess_bytes, default=None)
    return best_heuristic(allowed) or nearest


def solve(
    problem: Problem,
    *,
    strategy: str | Search = "reinforce",
    evaluations: int = 3000,
    seconds: float | None = None,
    seed: int = 0,
    on_heuristics: Callable[[Sequence[HeuristicResult]], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """Evaluates the heuristics, then searches from the best one with the rest of the budget.

    Where none is feasible, it searches from the one that lacks the least memory.

    Args:
        problem: The problem.
        strategy: As in :func:`place`.
        evaluations: The budget. All heuristics are evaluated, even where it is smaller.
        seconds: A second budget, of wall-clock time. All heuristics are evaluated, even where it
            is over before; no batch of the search is begun after it.
        seed: All randomness comes from it.
        on_heuristics: Called once the heuristics are evaluated.
        on_progress: Called by the search after each batch.

    Raises:
        UsageError: As :func:`placer.problem.check_budget`, or no strategy.
        UnknownNameError: No such strategy.
        InfeasibleError: No feasible placement was found.
    """
    check_budget(evaluations, seed, seconds)
    if not (isinstance(strategy, str) or callable(strategy)):
        raise UsageError(f"strategy is {strategy!r}; expected a name or a search")
    began = time.perf_counter()
    name = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", "search")
    search = resolve("strategy", strategy, STRATEGIES) if isinstance(strategy, str) else strategy
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    heuristics = evaluate_heuristics(problem, rng)
    if on_heuristics is not None:
        on_heuristics(heuristics)
    best = best_heuristic(heuristics)
    start = best_start(problem, heuristics)
    own = None if start is None else start.priorities
    if own is not None and own is not problem.priorities:
        problem = problem.with_priorities(own)
    found, num_found = None, 0
    num_evaluated = sum(row.choices is not None for row in heuristics)
    left = np.inf if seconds is None else seconds - (time.perf_counter() - began)
    if num_evaluated < evaluations and left > 0:
        # a search of the user's own need not know the word
        limit = {} if seconds is None else {"seconds": left}
        try:
            found = search(
                problem,
                evaluations=evaluations - num_evaluated,
                seed=seed,
                start=None if start is None else start.choices,
                on_progress=on_progress,
                **limit,
            )
        except InfeasibleError as error:
            if best is None:
                raise
            num_found = error.evaluations
        else:
            num_found = found.evaluations
    if best is None and found is None:
        reasons = "; ".join(f"{row.name}: {row.reason}" for row in heuristics)
        raise InfeasibleError(f"no feasible placement was found: {reasons}")
    # a heuristic that ties with the search came first
    if found is None or (best is not None and best.step_time_seconds <= found.step_time_seconds):
        assert best is not None  # noqa: S101  (for the type checker)
        assert best.choices is not None  # noqa: S101
        chosen = best.choices, best.step_time_seconds, best.name
    else:
        chosen = found.choices, found.step_time_seconds, name
    return Solution(problem, heuristics, found, *chosen, num_evaluated + num_found)


def load_graph(target: Any, specs: Sequence[Any] = ()) -> OpGraph:
    """Returns the graph that `target` is, names or can be read into; see :func:`place`."""
    if isinstance(target, OpGraph):
        return target
    is_path = isinstance(target, str | os.PathLike)
    if is_path and not specs and not Path(target).is_dir():  # a folder is a SavedModel
        return OpGraph.load(target)
    from placer import tf

    return tf.read(target, *specs)


def best_heuristic(rows: Sequence[HeuristicResult]) -> HeuristicResult | None:
    """The feasible heuristic with the least step time, the first among equals, if any."""
    return min(
        (row for row in rows if row.feasible), key=lambda row: row.step_time_seconds, default=None
    )
