"""The walk: which moves it tries, which it makes, and that it goes on where it stopped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator
from policies.walk import Walk
from tests.toys import make_toy

TOY = make_toy(12, 3)


def _new(problem: Problem = TOY, part_share: float = 0.4, preference_rate: float = 0.3) -> Walk:
    return Walk(problem, part_share, preference_rate)


def _walk(choices: np.ndarray, reward: float = -1.0) -> Walk:
    walk = _new()
    walk.begin(choices.astype(np.int32), reward)
    return walk


@given(seed=st.integers(0, 2**32), start=st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_a_move_sends_op_groups_to_one_device(seed: int, start: list[int]) -> None:
    """It changes something, and whatever it changes is then on one device."""
    here = np.array(start)
    moved = _walk(here).propose(np.random.default_rng(seed))
    changed = moved != here
    assert changed.any()
    assert len(set(moved[changed].tolist())) == 1


def test_moves_take_one_op_group_or_several() -> None:
    """Here most move one; some take others along, and not only those of the same device."""
    here = np.arange(12) % 3
    walk, rng = _walk(here), np.random.default_rng(0)
    moves = np.array([walk.propose(rng) for _ in range(500)])
    sizes = (moves != here).sum(axis=1)
    assert 0.5 < (sizes == 1).mean() < 0.95
    assert (sizes > 2).any()
    origins = [len(set(here[row != here].tolist())) for row in moves]
    assert max(origins) > 1


def test_op_groups_go_to_their_neighbours() -> None:
    """By how many there are, and by the bytes that they exchange."""
    small, large = (
        Op(name, "Op", outputs=(Output(size),)) for name, size in (("a", 1), ("b", 1e6))
    )
    graph = OpGraph.from_ops("v", [small, large, Op("c", "Op", ("a:0", "b:0"))])
    cluster = TOY.cluster
    groups = OpGroups(graph, np.arange(3, dtype=np.int32), ("a", "b", "c"))
    walk = _new(Problem(graph, cluster, groups, Simulator(graph, cluster)), part_share=0.0)
    walk.begin(np.array([1, 2, 0], np.int32), -1.0)
    rng = np.random.default_rng(4)
    reader = np.array([walk.propose(rng)[2] for _ in range(4000)])
    to_small, to_large = (reader == 1).sum(), (reader == 2).sum()
    # 0.85 of the weight is that of neighbours, half of it by their number; the rest is uniform
    expected = (0.425 * 0.5 + 0.15 / 2) / (0.425 * 1.5 + 0.15 / 2)
    assert to_small / to_large == pytest.approx(expected, rel=0.1)


def test_op_groups_go_where_they_may_only() -> None:
    """Neither the op group that is drawn nor those that it takes along."""
    toy = make_toy(12, 3)
    allowed = np.ones((12, 3), bool)
    allowed[4:8, 2] = False
    toy.__dict__["allowed"] = allowed
    walk, rng = _new(toy), np.random.default_rng(1)
    walk.begin(np.zeros(12, np.int32), -1.0)
    for _ in range(300):
        moved = walk.propose(rng)
        assert allowed[np.arange(12), moved].all()


def test_credit_is_what_a_move_gained_over_the_usual_loss() -> None:
    """Three at most; it is added to the preferences for what the move chose, and soon counts."""
    walk, rng = _walk(np.zeros(12), reward=-1.0), np.random.default_rng(3)
    one, two = np.eye(2, 12, dtype=np.int32)  # op group 0, or 1, on device 1
    assert walk.take(one, -1.2, 0.0, 1.0) == (False, -1.0)
    assert walk.take(one, -1.1, 0.0, 1.0)[1] == pytest.approx(-0.5)
    assert walk.take(two, -5.0, 0.0, 1.0)[1] == -3.0
    expected = np.zeros((12, 3))
    expected[0, 1], expected[1, 1] = -0.3 * (0.999 + 0.5) * 0.999, -0.9
    np.testing.assert_allclose(walk.preferences, expected)
    for _ in range(20):
        walk.take(two, -5.0, 0.0, 1.0)
    moves = np.array([walk.propose(rng) for _ in range(400)])
    alone = moves[(moves != 0).sum(axis=1) == 1]
    assert (alone[:, 1] == 1).sum() < 0.3 * (alone[:, 2] == 1).sum()


def test_credit_is_shared_by_the_decisions_of_a_move() -> None:
    """Each preference gains what one decision would, over their number."""
    walk = _walk(np.zeros(12), reward=-1.0)
    walk.take(np.repeat([1, 0], [4, 8]).astype(np.int32), -1.5, 0.0, 1.0)
    np.testing.assert_allclose(walk.preferences[:4, 1], -0.3 / 4)


def _takes(walk: Walk, reward: float, spent: float, chance: float) -> bool:
    """Whether it makes a move of such a reward; then sent back to where it was."""
    choices, before = walk.choices, walk.reward
    made, _ = walk.take(np.ones(12, np.int32), reward, spent, chance)
    walk.choices, walk.reward = choices, before
    return made


def test_what_is_no_worse_is_made_and_what_is_worse_by_chance() -> None:
    """The median of fifty losses is accepted with a chance of 1e-3 at first, and less later."""
    walk = _walk(np.zeros(12), reward=-1.0)
    assert _takes(walk, -1.0, 0.0, 0.5)
    assert _takes(walk, -0.9, 0.0, 0.5)
    assert not any(_takes(walk, -1.2, 0.0, 0.0) for _ in range(50)), "samples are not made"
    assert _takes(walk, -1.2, 0.0, 0.9e-3)
    assert not _takes(walk, -1.2, 0.0, 1.1e-3)
    assert _takes(walk, -1.1, 0.0, 0.9e-3**0.5)
    assert not _takes(walk, -1.2, 0.5, 0.9e-3)


def test_a_move_that_is_made_is_where_the_next_starts() -> None:
    """Choices and reward are then those of the move."""
    walk = _walk(np.zeros(12))
    assert walk.take(np.ones(12, np.int32), -0.5, 0.0, 0.0) == (True, 1.0)
    assert walk.reward == -0.5
    assert walk.choices is not None
    assert walk.choices.tolist() == [1] * 12


def test_it_is_stuck_after_as_many_moves_as_there_are() -> None:
    """Of 12 op groups to two other devices each; a gain or a new beginning starts the count."""
    walk = _walk(np.zeros(12))

    def try_one(reward: float, spent: float, chance: float) -> None:
        assert walk.choices is not None
        walk.take(1 - walk.choices, reward, spent, chance)

    for _ in range(23):
        try_one(-2.0, 0.0, 1.0)
    assert not walk.is_stuck
    try_one(-1.0, 0.0, 1.0)
    assert walk.is_stuck, "a move to what is as good is no gain"
    try_one(-0.9, 0.0, 1.0)
    assert not walk.is_stuck
    for _ in range(24):
        try_one(-2.0, 0.0, 1.0)
    assert walk.is_stuck
    walk.begin(np.zeros(12, np.int32), -3.0)
    assert not walk.is_stuck


def test_it_goes_on_where_it_stopped() -> None:
    """From its arrays comes a walk that does the same."""
    walk = _walk(np.arange(12) % 3, reward=-2.0)
    for step in range(60):
        walk.take(np.ones(12, np.int32), -2.1 - step / 100, 0.0, 1.0)
    again = _new()
    assert again.to_arrays() == {}
    again.restore(walk.to_arrays())
    assert again.reward == -2.0
    assert again.is_stuck is walk.is_stuck is True
    np.testing.assert_array_equal(again.choices, walk.choices)
    rng = np.random.default_rng(0)
    for reward, chance in zip(-2 - rng.random(40), rng.random(40) ** 6, strict=True):
        assert _takes(again, reward, 0.1, chance) == _takes(walk, reward, 0.1, chance)
    for name, array in again.to_arrays().items():
        np.testing.assert_array_equal(array, walk.to_arrays()[name])


def test_one_device_leaves_nothing_to_move() -> None:
    """Then it says so."""
    assert not _new(make_toy(4, 1)).can_move
    assert _new().can_move


def test_it_has_no_reward_before_it_begins() -> None:
    """Any sample is better."""
    assert _new().choices is None
    assert pytest.approx(-np.inf) == _new().reward
