"""place() and solve(): the one call, its guard and its errors."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

import placer
from placer.api import best_heuristic, solve
from placer.cluster import Cluster, Device, Link
from placer.errors import InfeasibleError, UnknownNameError, UsageError
from placer.heuristics import HEURISTICS, HeuristicResult
from placer.placement import Evaluations
from placer.problem import Problem, SearchResult
from placer.search import random
from tests.toys import make_toy


def _small_gpus(graph: placer.OpGraph, share: float) -> Cluster:
    """Three devices, each with a share of the memory that the graph needs on one device."""
    everything = placer.Simulator(graph, Cluster.load("cpu-gpu")).schedule(
        np.ones(graph.num_ops, int)
    )
    memory = share * everything.peak_memory_bytes["gpu:0"]
    rates = {"flops": 1e13, "memory_bandwidth": 1e12, "op_overhead_seconds": 1e-6}
    names = ("gpu:0", "gpu:1", "gpu:2")
    devices = tuple(Device(name, "gpu", memory_bytes=memory, **rates) for name in names)
    return Cluster("small", devices, (Link(names, 1e10, 1e-5),))


@pytest.fixture(scope="module")
def rnnlm() -> placer.OpGraph:
    return placer.OpGraph.load("rnnlm")


def test_a_placement_comes_with_its_time_and_its_finder(rnnlm, tmp_path) -> None:
    """The step time is that of the placement, simulated anew; it is saved and loads again."""
    placement = placer.place(rnnlm, "p100x4", strategy="random", evaluations=30)
    simulator = placer.Simulator(rnnlm, placement.cluster)
    assert placement.step_time == simulator.step_time(placement.devices)
    one_gpu = simulator.step_time(np.ones(rnnlm.num_ops, int))
    assert placement.speedup == one_gpu / placement.step_time
    assert placement.found_by in {*HEURISTICS, "single_device:gpu:0"}
    assert placement.device_of(rnnlm.op_names[0]) in placement.cluster.device_names
    placement.save(tmp_path / "p.json")
    assert placer.Placement.load(tmp_path / "p.json", rnnlm, placement.cluster) == placement


def test_no_search_starts_where_an_op_group_may_not_go() -> None:
    """Also where it ran there when it was measured; as an outcome, that counts."""
    toy = make_toy(6, 2)
    small, large = toy.cluster.devices
    small = msgspec.structs.replace(small, memory_bytes=1.0)  # an op has a million
    cluster = Cluster("small", (small, large), toy.cluster.links)

    class Measured:
        """Says that everything runs, fastest on the small device."""

        def evaluate(self, placements) -> Evaluations:
            seconds = 1.0 + placements.sum(axis=1)
            return Evaluations(
                seconds, np.ones(len(seconds), bool), (None,) * len(seconds), 0 * seconds
            )

    problem = Problem(toy.graph, cluster, toy.groups, Measured())
    found = solve(problem, strategy="hill_climbing", evaluations=60)
    assert found.search is not None
    assert (found.search.choices == 1).all()
    assert found.step_time_seconds == 1.0
    assert not found.choices.any()


@pytest.mark.parametrize("strategy", ["exact", "pretrained"])
def test_more_slots_than_ops_are_as_many_as_ops(strategy: str) -> None:
    """To heuristics, bounds, searches and policies."""
    toy = make_toy(6, 2)
    found = []
    for num_slots in (6, 10**12):
        devices = tuple(msgspec.structs.replace(d, slots=num_slots) for d in toy.cluster.devices)
        problem = Problem.build(toy.graph, Cluster("many", devices, toy.cluster.links))
        solution = solve(problem, strategy=strategy, evaluations=100)
        assert solution.search is not None
        times = [row.step_time_seconds for row in solution.heuristics]
        found.append((*times, *solution.search.best_so_far, *solution.choices))
    assert found[0] == found[1]


def test_seconds_are_a_budget_too(rnnlm) -> None:
    """The search is told what is left of them, and not begun where nothing is."""
    told = []

    def wait(problem, *, evaluations, seed, seconds, start, on_progress) -> SearchResult:
        told.append(seconds)
        return SearchResult("wait", start, 1.0, 1, 0.0, np.ones(1), np.zeros(1))

    problem = Problem.build(rnnlm, Cluster.load("p100x4"))
    solve(problem, strategy=wait, evaluations=50, seconds=1000.0)
    assert solve(problem, strategy=wait, evaluations=50, seconds=1e-9).search is None
    assert len(told) == 1
    assert 0 < told[0] < 1000
    with pytest.raises(UsageError, match=r"seconds is 0; expected a number above 0"):
        solve(problem, strategy=wait, seconds=0)


def test_no_strategy_does_worse_than_the_best_heuristic(rnnlm) -> None:
    """A search that finds only bad placements does not hide the heuristics'."""

    def stubborn(problem, *, evaluations, seed, start=None, on_progress=None) -> SearchResult:
        choices = np.zeros(problem.num_groups, np.int32)  # everything on the CPU
        seconds = float(problem.evaluate(choices[None]).step_time_seconds[0])
        return SearchResult("stubborn", choices, seconds, 1, 0.0, np.array([seconds]), np.zeros(1))

    problem = Problem.build(rnnlm, Cluster.load("p100x4"))
    solution = solve(problem, strategy=stubborn, evaluations=50)
    best = best_heuristic(solution.heuristics)
    assert best is not None
    assert solution.search is not None
    assert solution.search.step_time_seconds > best.step_time_seconds
    assert (solution.found_by, solution.step_time_seconds) == (best.name, best.step_time_seconds)
    assert solution.evaluations == len(solution.heuristics) + 1


def test_a_better_search_is_named(rnnlm) -> None:
    """What the search found wins only if it is strictly better, and then bears its name."""

    def oracle(problem, *, evaluations, seed, start=None, on_progress=None) -> SearchResult:
        return SearchResult("oracle", start, 1e-9, 1, 0.0, np.array([1e-9]), np.zeros(1))

    problem = Problem.build(rnnlm, Cluster.load("p100x4"))
    solution = solve(problem, strategy=oracle, evaluations=50)
    assert (solution.found_by, solution.step_time_seconds) == ("oracle", 1e-9)


def test_the_budget_includes_the_heuristics(rnnlm) -> None:
    """The search gets what the heuristics left, and nothing if they left nothing."""
    problem = Problem.build(rnnlm, Cluster.load("p100x4"))
    assert solve(problem, strategy="random", evaluations=40).evaluations == 40
    assert solve(problem, strategy="random", evaluations=1).search is None


def test_a_graph_too_large_for_one_device_gets_a_feasible_placement(rnnlm) -> None:
    """Single devices are reported infeasible with device and bytes; what is returned fits."""
    cluster = _small_gpus(rnnlm, 0.7)
    problem = Problem.build(rnnlm, cluster)
    solution = solve(problem, evaluations=100)
    singles = [row for row in solution.heuristics if row.name.startswith("single_device")]
    assert len(singles) == 3
    for row in singles:
        assert not row.feasible
        assert row.reason is not None
        assert row.name.removeprefix("single_device:") in row.reason
        assert "bytes" in row.reason
    schedule = placer.Simulator(rnnlm, cluster).schedule(solution.placement().devices)
    assert schedule.feasible
    assert max(schedule.peak_memory_bytes.values()) <= cluster.devices[0].memory_bytes


def test_where_nothing_fits_the_search_starts_from_what_lacks_least() -> None:
    """NMT on three devices with 60% of its need each: no heuristic fits, the search finds what does."""
    graph = placer.OpGraph.load("nmt")
    problem = Problem.build(graph, _small_gpus(graph, 0.6))
    starts: list[np.ndarray] = []
    heuristics: list[HeuristicResult] = []

    def spy(problem, *, evaluations, seed, start=None, on_progress=None) -> SearchResult:
        starts.append(start)
        raise InfeasibleError("nothing")

    with pytest.raises(InfeasibleError, match="nothing"):
        solve(problem, strategy=spy, evaluations=50, on_heuristics=heuristics.extend)
    excess = [row.excess_bytes for row in heuristics if row.choices is not None]
    assert min(excess) > 0
    lacking = problem.evaluate(starts[0][None]).excess_bytes
    assert lacking is not None
    assert lacking[0] == min(excess)


def test_what_a_search_tried_in_vain_counts(rnnlm) -> None:
    """Where a heuristic fits and nothing that the search evaluated does."""
    problem = Problem.build(rnnlm, Cluster.load("k80x2"))
    tight = Problem.build(rnnlm, _small_gpus(rnnlm, 0.05))

    def in_vain(given, *, start=None, **keywords) -> SearchResult:
        return random.search(tight, **keywords)

    solution = solve(problem, strategy=in_vain, evaluations=50)
    assert solution.search is None
    assert solution.evaluations == 50


def test_no_start_is_where_it_may_not_be() -> None:
    """A device that cannot even hold one variable is no start, however little it lacks."""
    graph = placer.OpGraph.from_ops(
        "two",
        [
            placer.Op("a", "MatMul", flops=1e9, parameter_bytes=60, outputs=(placer.Output(1),)),
            placer.Op("b", "MatMul", inputs=("a",), flops=1e9, parameter_bytes=90),
        ],
    )
    sizes = {"gpu:0": 95, "gpu:1": 70}
    devices = tuple(
        Device(name, "gpu", memory_bytes=size, flops=1e9, memory_bandwidth=1e9)
        for name, size in sizes.items()
    )
    cluster = Cluster("small", devices, (Link(tuple(sizes), 1e9),))
    placement = placer.place(graph, cluster, evaluations=60)
    assert placement.to_device_map() == {"a": "gpu:1", "b": "gpu:0"}


def test_an_impossible_problem_says_why(rnnlm) -> None:
    """Where nothing fits, the error has the device and the bytes."""
    with pytest.raises(InfeasibleError, match="bytes"):
        placer.place(rnnlm, _small_gpus(rnnlm, 0.05), strategy="random", evaluations=30)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"evaluations": 0}, UsageError, "evaluations is 0; expected a whole number from 1 to"),
        ({"evaluations": 10.5}, UsageError, "evaluations is 10.5; expected a whole number"),
        ({"evaluations": 10**14}, UsageError, "expected a whole number from 1 to 100,000,000"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"strategy": "reinforse"}, UnknownNameError, "did you mean 'reinforce'"),
        ({"strategy": None}, UsageError, "strategy is None; expected a name or a search"),
        ({"seconds": "3"}, UsageError, "seconds is '3'; expected a number above 0"),
        ({"num_groups": 0}, UsageError, "0"),
        ({"num_groups": 2.5}, UsageError, "num_groups is 2.5; expected a whole number >= 1"),
        ({"order": "lifo"}, placer.PlacerError, "lifo"),
        ({"num_threads": 0}, UsageError, "0"),
    ],
)
def test_bad_arguments_are_refused(rnnlm, arguments, error, message: str) -> None:
    """Each message says what was given and what was expected."""
    with pytest.raises(error, match=message):
        placer.place(rnnlm, "cpu-gpu", **arguments)


def test_unknown_targets_are_refused() -> None:
    """A target that is neither a graph, nor a file, nor of TensorFlow is a clear error."""
    with pytest.raises(UnknownNameError, match="unknown workload 'rnnml'; did you mean 'rnnlm'"):
        placer.place("rnnml", "cpu-gpu")
    with pytest.raises(placer.ReadError):
        placer.place(42, "cpu-gpu")
    with pytest.raises(UsageError, match="cluster is None; expected a Cluster, a file or a name"):
        placer.place("rnnlm", None)


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b.json"], ids=["empty", "long", "null"])
@pytest.mark.parametrize("load", [placer.OpGraph.load, Cluster.load])
def test_no_file_can_have_such_a_name(load, name: str) -> None:
    """What the system cannot look up is said to be no file."""
    with pytest.raises(placer.PlacerError, match="unknown (workload|cluster)|cannot be read"):
        load(name)


def test_the_same_seed_gives_the_same_placement(rnnlm) -> None:
    """Learning included, bit for bit; another seed gives another search."""
    first, again = (placer.place(rnnlm, "v100x8", evaluations=120, seed=3) for _ in range(2))
    assert first == again
    assert first.step_time == again.step_time


def test_one_device_and_one_op() -> None:
    """The smallest problems have the only answer there is."""
    graph = placer.OpGraph.from_ops("one", [placer.Op("a", "MatMul", flops=1e9)])
    cluster = Cluster(
        "one", (Device("cpu:0", "cpu", memory_bytes=1, flops=1e9, memory_bandwidth=1),)
    )
    placement = placer.place(graph, cluster, evaluations=20)
    assert (placement.step_time, placement.speedup) == (1.0, 1.0)


def test_priorities_of_measured_steps_are_kept() -> None:
    """Whoever evaluates knows them; only simulated problems get others."""
    simulated = make_toy(4)

    class Measured:
        def evaluate(self, placements: np.ndarray) -> Evaluations:
            return simulated.evaluator.evaluate(placements)

    priorities = np.arange(4.0)
    problem = dataclasses.replace(
        simulated, evaluator=Measured(), order="priority", priorities=priorities
    )
    solution = solve(problem, strategy="random", evaluations=60)
    assert solution.search is not None
    assert solution.placement().priorities.tolist() == priorities.tolist()
