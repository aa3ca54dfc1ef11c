"""List scheduling on examples that are published or worked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placer.errors import UsageError
from placer.heuristics._list_scheduling import (
    Tasks,
    schedule,
    schedule_earliest,
    static_levels,
    upward_ranks,
)
from placer.heuristics.m_sct import favourite_children, m_sct
from placer.heuristics.peft import mean_costs, optimistic_costs
from tests.heuristics.builders import candidates, gpus, op, problem_of


def _tasks(costs: Sequence[Sequence[float]], edges: Mapping[tuple[int, int], float]) -> Tasks:
    """Tasks numbered from 0 in a topological order, each its own group, at one byte a second."""
    seconds = np.array(costs, float)
    num_tasks, num_devices = seconds.shape
    ends = np.array(list(edges), np.int32).reshape(-1, 2)
    numbers = np.arange(num_tasks, dtype=np.int32)
    return Tasks(
        seconds=seconds,
        order=numbers,
        producers=ends[:, 0],
        consumers=ends[:, 1],
        bytes=np.array(list(edges.values()), float),
        latency_seconds=np.zeros((num_devices, num_devices)),
        bandwidth=np.where(np.eye(num_devices, dtype=bool), np.inf, 1.0),
        slots=(1,) * num_devices,
        memory_bytes=np.full(num_devices, np.inf),
        group_of_task=numbers,
        allowed=np.ones((num_tasks, num_devices), bool),
        kept_bytes=np.zeros(num_tasks),
    )


def _equal(seconds: Sequence[float], edges: Mapping[tuple[int, int], float]) -> Tasks:
    """Tasks on two equal devices."""
    return _tasks([(each, each) for each in seconds], edges)


# Topcuoglu, Hariri and Wu (2002), figure 2: ten tasks on three processors.
TOPCUOGLU = _tasks(
    [
        (14, 16, 9),
        (13, 19, 18),
        (11, 13, 19),
        (13, 8, 17),
        (12, 13, 10),
        (13, 16, 9),
        (7, 15, 11),
        (5, 11, 14),
        (18, 12, 20),
        (21, 7, 16),
    ],
    {
        (0, 1): 18,
        (0, 2): 12,
        (0, 3): 9,
        (0, 4): 11,
        (0, 5): 14,
        (1, 7): 19,
        (1, 8): 16,
        (2, 6): 23,
        (3, 7): 27,
        (3, 8): 23,
        (4, 8): 13,
        (5, 7): 15,
        (6, 9): 17,
        (7, 9): 11,
        (8, 9): 13,
    },
)

# The example of Arabnejad and Barbosa (2014): ten tasks on three processors.
ARABNEJAD = _tasks(
    [
        (22, 21, 36),
        (22, 18, 18),
        (32, 27, 43),
        (7, 10, 4),
        (29, 27, 35),
        (26, 17, 24),
        (14, 25, 30),
        (29, 23, 36),
        (15, 21, 8),
        (13, 16, 33),
    ],
    {
        (0, 1): 17,
        (0, 2): 31,
        (0, 3): 29,
        (0, 4): 13,
        (0, 5): 7,
        (1, 7): 3,
        (1, 8): 30,
        (2, 6): 16,
        (3, 7): 11,
        (3, 8): 7,
        (4, 8): 57,
        (5, 7): 5,
        (6, 9): 9,
        (7, 9): 42,
        (8, 9): 7,
    },
)


def test_upward_ranks_are_those_of_the_paper() -> None:
    """Table 1 of Topcuoglu et al. (2002)."""
    expected = [108, 77, 80, 80, 69, 63.333, 42.667, 35.667, 44.333, 14.667]
    assert upward_ranks(TOPCUOGLU) == pytest.approx(expected, abs=1e-3)


def test_heft_s_schedule_is_that_of_the_paper() -> None:
    """Figure 3(a) of Topcuoglu et al. (2002): a makespan of 80, and who runs where."""
    result = schedule(TOPCUOGLU, upward_ranks(TOPCUOGLU))
    assert result.finish_seconds.max() == 80
    assert result.device_of_group.tolist() == [2, 0, 2, 1, 2, 1, 2, 0, 1, 1]
    assert result.start_seconds[[0, 9]].tolist() == [0, 73]


def test_optimistic_costs_are_those_of_the_paper() -> None:
    """The table of Arabnejad and Barbosa (2014) for their example."""
    assert optimistic_costs(ARABNEJAD).tolist() == [
        [64, 68, 86],
        [42, 39, 42],
        [27, 41, 43],
        [42, 39, 50],
        [28, 37, 28],
        [42, 39, 44],
        [13, 16, 22],
        [13, 16, 33],
        [13, 16, 20],
        [0, 0, 0],
    ]


def test_peft_s_schedule_is_that_of_the_paper() -> None:
    """The schedule of Arabnejad and Barbosa (2014): 122, where HEFT needs 133."""
    table = optimistic_costs(ARABNEJAD)
    result = schedule(ARABNEJAD, mean_costs(ARABNEJAD, table), lookahead=table)
    assert result.device_of_group.tolist() == [0, 0, 0, 0, 2, 1, 0, 1, 2, 1]
    assert result.start_seconds.tolist() == [0, 29, 51, 22, 35, 29, 83, 54, 81, 106]
    assert result.finish_seconds.max() == 122
    assert schedule(ARABNEJAD, upward_ranks(ARABNEJAD)).finish_seconds.max() == 133


def test_optimistic_costs_keep_a_group_together_and_off_forbidden_devices() -> None:
    """A task of the same group stays on the device, however slow; others go where they may."""
    # a and b are one group, b slow on device 1; c may not go to device 0
    tasks = _tasks([(1, 1), (1, 9), (2, 3)], {(0, 1): 0, (1, 2): 5})
    tasks = _with(tasks, group_of_task=[0, 0, 1], allowed=[[True, True], [False, True]])
    assert optimistic_costs(tasks).tolist() == [[9, 12], [8, 3], [np.inf, 0]]


def _with(
    tasks: Tasks, *, group_of_task: Sequence[int], allowed: Sequence[Sequence[bool]]
) -> Tasks:
    return replace(
        tasks,
        group_of_task=np.array(group_of_task, np.int32),
        allowed=np.array(allowed),
        kept_bytes=np.zeros(len(allowed)),
    )


def test_a_task_fills_a_gap_with_insertion_alone() -> None:
    """A short task of low rank runs in the idle time before a long one that waits for data."""
    # a and b are first; c waits on device 0 for b's data until 5; d (rank 2) fits before it
    tasks = _tasks([(1, 9), (9, 1), (4, 40), (2, 90)], {(0, 2): 4, (1, 2): 4})
    result = schedule(tasks, np.array([9.0, 8, 7, 6]))
    assert result.device_of_group.tolist() == [0, 1, 0, 0]
    assert result.start_seconds.tolist() == [0, 0, 5, 1]
    result = schedule(tasks, np.array([9.0, 8, 7, 6]), insertion=False)
    assert result.device_of_group.tolist() == [0, 1, 0, 0]
    assert result.start_seconds.tolist() == [0, 0, 5, 9]


def test_a_priority_never_overtakes_a_dependency() -> None:
    """A task whose priority exceeds that of what it reads still comes after it."""
    result = schedule(_equal([2, 3], {(0, 1): 9}), np.array([1.0, 5]))
    assert result.start_seconds.tolist() == [0, 2]


def test_static_levels_leave_transfers_out() -> None:
    """A diamond whose short side has the large tensors."""
    tasks = _equal([1, 2, 5, 1], {(0, 1): 90, (0, 2): 1, (1, 3): 90, (2, 3): 1})
    assert static_levels(tasks).tolist() == [7, 3, 6, 1]
    assert upward_ranks(tasks).tolist() == [184, 93, 7, 1]


def test_critical_path_takes_the_longest_path_first() -> None:
    """The head of the longer chain, given last, gets the fast device; the other waits or leaves."""
    ops = [op("short", "", 3.0), op("long", "", 3.0), op("tail", "long", 4.0)]
    # on a GPU and a CPU ten times as slow all run on the GPU: long, tail, short
    assert candidates("critical_path", problem_of(ops, gpus(1, cpu=True))).tolist() == [[1, 1, 1]]
    # on two GPUs, long takes the first
    assert candidates("critical_path", problem_of(ops, gpus(2))).tolist() == [[1, 0, 0]]


def test_etf_takes_what_can_start_first() -> None:
    """Worked by hand: a, then d beside it; b stays with a; c starts sooner where d has ended."""
    tasks = _equal([2, 4, 3, 1], {(0, 1): 3, (0, 2): 3})
    result = schedule_earliest(tasks)
    assert result.device_of_group.tolist() == [0, 0, 1, 1]
    assert result.start_seconds.tolist() == [0, 2, 5, 0]


def test_etf_breaks_ties_by_the_static_level() -> None:
    """Of two tasks that can start at once, that with a long one behind it chooses first."""
    result = schedule_earliest(_equal([1, 1, 5], {(1, 2): 9}))
    assert result.device_of_group.tolist() == [1, 0, 0]


# a (2 s) sends 10 bytes to f and 1 to x; e (3 s) sends 1 byte to f
FAVOURED = _equal([2, 3, 4, 5], {(0, 2): 10, (1, 2): 1, (0, 3): 1})


def test_the_program_names_the_child_of_the_large_tensor() -> None:
    """Worked by hand: with s = 2/11 on the edge from a to f, the least makespan is 8 - s."""
    assert favourite_children(FAVOURED).tolist() == [2, -1, -1, -1]


def test_sct_waits_for_a_favourite() -> None:
    """ETF starts x at once where a ended, and f must wait for it; SCT sends x elsewhere."""
    result = schedule_earliest(FAVOURED)
    assert result.start_seconds.tolist() == [0, 0, 7, 2]
    assert result.finish_seconds.max() == 11
    result = schedule_earliest(FAVOURED, favourite_children(FAVOURED))
    assert result.device_of_group.tolist() == [0, 1, 0, 1]
    assert result.start_seconds.tolist() == [0, 0, 4, 3]
    assert result.finish_seconds.max() == 8


@st.composite
def _random_tasks(draw: st.DrawFn) -> Tasks:
    num_tasks = draw(st.integers(1, 7))
    pairs = [(a, b) for b in range(num_tasks) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    whole = st.integers(1, 6)
    return _tasks(
        [(draw(whole), draw(whole)) for _ in range(num_tasks)], {e: draw(whole) for e in edges}
    )


@given(_random_tasks(), st.booleans())
def test_schedules_keep_to_devices_and_dependencies(tasks: Tasks, favoured: bool) -> None:
    """No two tasks at once on a device; nothing starts before its inputs are there."""
    table = optimistic_costs(tasks)
    schedules = [
        schedule(tasks, upward_ranks(tasks)),
        schedule(tasks, static_levels(tasks), insertion=False),
        schedule(tasks, mean_costs(tasks, table), lookahead=table),
        schedule_earliest(tasks, favourite_children(tasks) if favoured else None),
    ]
    numbers = np.arange(len(tasks.seconds))
    for result in schedules:
        devices, start, finish = result.device_of_group, result.start_seconds, result.finish_seconds
        assert np.array_equal(finish, start + tasks.seconds[numbers, devices])
        for device in range(2):
            on = np.flatnonzero(devices == device)
            on = on[np.argsort(start[on])]
            assert (start[on[1:]] >= finish[on[:-1]]).all()
        sent = np.where(devices[tasks.producers] == devices[tasks.consumers], 0, tasks.bytes)
        assert (start[tasks.consumers] >= finish[tasks.producers] + sent).all()


@given(_random_tasks())
def test_favourites_are_one_to_one_along_edges(tasks: Tasks) -> None:
    """A task has at most one favourite, and is that of at most one task."""
    favourites = favourite_children(tasks)
    edges = set(zip(tasks.producers.tolist(), tasks.consumers.tolist(), strict=True))
    named = [(task, child) for task, child in enumerate(favourites.tolist()) if child >= 0]
    assert set(named) <= edges
    assert len({child for _, child in named}) == len(named)


def test_m_sct_says_that_there_are_too_many_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear program too large is an error that says what helps."""
    monkeypatch.setattr("placer.heuristics.m_sct.MOST_EDGES", 1)
    problem = problem_of([op("a"), op("b", "a"), op("c", "b")], gpus(2))
    with pytest.raises(UsageError, match="at most 1 edges .* there are 2: use fewer op groups"):
        m_sct(problem, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["heft", "peft", "critical_path", "m_etf", "m_sct"])
def test_a_device_without_memory_left_is_no_candidate(name: str) -> None:
    """Two ops with variables that do not fit one device go to two, whatever the transfer."""
    ops = [op("a", size=99, parameter_bytes=600), op("b", "a", parameter_bytes=600)]
    choices = candidates(name, problem_of(ops, gpus(2, memory_bytes=1000)))
    assert choices.tolist() == [[0, 1]]


@pytest.mark.parametrize("name", ["m_etf", "m_sct"])
def test_m_etf_and_m_sct_leave_the_cpu_to_what_needs_it(name: str) -> None:
    """A CPU that is free at once gets nothing else."""
    ops = [op("decode", device_kinds=("cpu",)), op("a"), op("b"), op("c")]
    (choices,) = candidates(name, problem_of(ops, gpus(1, cpu=True)))
    assert choices.tolist() == [0, 1, 1, 1]
