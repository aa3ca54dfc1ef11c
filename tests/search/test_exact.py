"""Exact search against enumeration."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placer.cluster import Cluster, Device, Link
from placer.errors import InfeasibleError, UnprovenError, UsageError
from placer.graph import OpGraph
from placer.problem import Problem
from placer.search import _ledger
from placer.search.exact import interchangeable_devices, search
from tests.heuristics.builders import chain, gpus, op, problem_of
from tests.search.tiny import problems
from tests.toys import all_choices, make_toy


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems(), start=st.booleans())
def test_exact_search_equals_enumeration(problem: Problem, start: bool) -> None:
    """Any graph, constraints, memory, channels, slots and both orders."""
    result = problem.evaluate(all_choices(problem))
    origin = problem.allowed.argmax(axis=1).astype(np.int32)[::1] if start else None
    if not result.feasible.any():
        with pytest.raises(InfeasibleError):
            search(problem, evaluations=10_000, seed=0, start=origin)
        return
    found = search(problem, evaluations=10_000, seed=0, start=origin)
    assert found.step_time_seconds == result.step_time_seconds.min()
    assert problem.evaluate(found.choices[None]).step_time_seconds[0] == found.step_time_seconds


def test_op_groups_without_a_choice_are_no_depth() -> None:
    """Thousands of them, which may go to the CPU only, around two that may go to a GPU, too."""
    free = [700, 2100]
    ops = [
        op(f"op{i}", f"op{i - 1}" if i else "", device_kinds=None if i in free else ("cpu",))
        for i in range(3000)
    ]
    problem = problem_of(ops, gpus(1, cpu=True))
    choices = np.zeros((4, 3000), np.int32)
    choices[:, free] = all_choices(make_toy(2, 2))
    best = problem.evaluate(choices).step_time_seconds.min()
    assert search(problem, evaluations=10, seed=0).step_time_seconds == best


@pytest.mark.parametrize("seed", range(3))
def test_far_fewer_placements_are_evaluated_than_there_are(seed: int) -> None:
    """8 ops on 3 unlike devices have 6,561 placements."""
    problem = make_toy(8, 3, seed=seed)
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    found = search(problem, evaluations=1000, seed=0)
    assert found.step_time_seconds == best
    assert found.evaluations < 600


def test_devices_that_can_be_exchanged_are_tried_once() -> None:
    """Independent ops on 4 equal devices: the first one's device does not matter."""
    graph = OpGraph.from_ops("free", [op(f"op{i}") for i in range(5)])
    problem = Problem.build(graph, gpus(4), num_groups=5)
    assert problem.num_groups == 5
    found = search(problem, evaluations=200, seed=0)
    assert found.step_time_seconds == 2.0
    assert (
        found.evaluations <= 52
    )  # ways to split 5 ops into at most 4 sets, and the first placement


def test_devices_are_interchangeable_if_all_they_have_is() -> None:
    """Memory, speed, links and channels count; names and addresses do not."""
    devices = tuple(
        Device(f"gpu:{i}", "gpu", memory_bytes=5 + (i == 2), address=f"host:{i}") for i in range(3)
    )
    problem = Problem.build(
        chain(2), Cluster("c", devices, (Link(("gpu:0", "gpu:1", "gpu:2"), 1),))
    )
    assert interchangeable_devices(problem).tolist() == [0, 0, 2]

    names = tuple(f"gpu:{i}" for i in range(4))
    equal = tuple(Device(name, "gpu", memory_bytes=5) for name in names)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]

    def classes(channels: dict[tuple[str, str], str], default: str) -> list[int]:
        links = tuple(Link(pair, 1.0, channel=channels.get(pair, default)) for pair in pairs)
        return interchangeable_devices(Problem.build(chain(2), Cluster("c", equal, links))).tolist()

    assert classes({}, "pair") == classes({}, "source") == classes({}, "bus") == [0, 0, 0, 0]
    assert classes({("gpu:0", "gpu:1"): "slow"}, "pair") == [0, 0, 2, 2]
    shared = {("gpu:0", "gpu:1"): "left", ("gpu:2", "gpu:3"): "right"}
    assert classes(shared, "pair") == [0, 0, 2, 2]
    assert classes({("gpu:0", "gpu:1"): "none"}, "pair") == [0, 0, 2, 2]


def test_the_seed_has_no_effect() -> None:
    """The history is the same."""
    first, second = (search(make_toy(7), evaluations=500, seed=seed) for seed in (0, 1))
    assert np.array_equal(first.best_so_far, second.best_so_far)
    assert np.array_equal(first.choices, second.choices)


def test_large_problems_are_refused_at_once() -> None:
    """The message says how large, and what to do."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load("p100x4"))
    match = r"exact search of \d+ op groups on 5 devices has some 10\^\d+ placements.*num_groups"
    with pytest.raises(UsageError, match=match):
        search(problem, evaluations=1000, seed=0)


def test_without_a_proof_there_is_no_result() -> None:
    """A budget that does not suffice is an error, not a best so far that is called exact."""
    with pytest.raises(UnprovenError, match="no proof after 1 evaluations") as refused:
        search(make_toy(8, 3), evaluations=2, seed=0)
    assert refused.value.evaluations == 1


def test_no_part_is_looked_at_after_the_time() -> None:
    """Parts of placements take time too, even where none is evaluated."""
    with pytest.raises(UnprovenError, match="no proof after 0 parts of placements, when its time"):
        search(make_toy(8, 3), evaluations=10_000, seconds=1e-9, seed=0)


def test_whenever_time_is_up_there_is_a_proof_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it gets late just before the last placements are evaluated."""
    problem = make_toy(2, 2)
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    refused = 0
    for seconds in range(1, 20):
        ticks = itertools.count()  # each look at the clock takes a second
        clock = SimpleNamespace(perf_counter=lambda ticks=ticks: float(next(ticks)))
        monkeypatch.setattr(_ledger, "time", clock)
        try:
            found = search(problem, evaluations=100, seconds=seconds, seed=0)
        except UnprovenError:
            refused += 1
        else:
            assert found.step_time_seconds == best
    assert 0 < refused < 19


def test_only_simulated_step_times_have_bounds() -> None:
    """Another evaluator may know faster steps than the simulator's."""

    class Other:
        evaluate = None

    with pytest.raises(UsageError, match="needs simulated step times"):
        search(dataclasses.replace(make_toy(3), evaluator=Other()), evaluations=10, seed=0)
