"""Elites: the best distinct choices, in order."""

from __future__ import annotations

import numpy as np

from policies.elites import Elites


def _add(elites: Elites, *rows: tuple[int, float, bool]) -> None:
    """Adds choices of one group with a reward, feasible or not."""
    choices, rewards, feasible = zip(*rows, strict=True)
    seconds = np.where(feasible, -np.array(rewards), np.inf)
    elites.add(np.array(choices, np.int32)[:, None], np.array(rewards), seconds)


def test_the_best_distinct_are_kept_in_order() -> None:
    """Across batches, each once, ties in the order seen, and no more than there is room for."""
    elites = Elites(3, 1)
    _add(elites, (0, -5, True), (1, -2, True), (2, -2, True))
    _add(elites, (1, -2, True), (3, -1, True), (4, -7, True))
    assert elites.choices[:, 0].tolist() == [3, 1, 2]
    assert elites.step_time_seconds.tolist() == [1, 2, 2]


def test_infeasible_ones_are_kept_only_while_all_are() -> None:
    """Before anything fits the nearest to fitting are the best there is."""
    elites = Elites(2, 1)
    _add(elites, (0, -12, False), (1, -11, False), (2, -13, False))
    assert elites.choices[:, 0].tolist() == [1, 0]
    _add(elites, (3, -9, True))
    assert elites.choices[:, 0].tolist() == [3]
    _add(elites, (4, np.nan, False), (5, -8, False))
    assert elites.choices[:, 0].tolist() == [3]


def test_as_if_all_were_sorted() -> None:
    """Whatever the batches, as the best few of all that was seen, each as it was seen first."""
    rng = np.random.default_rng(0)
    rewards = -rng.integers(1, 9, 40).astype(float)  # of each choice, with ties
    elites, seen = Elites(5, 1), []
    for _ in range(60):
        batch = rng.integers(0, 40, int(rng.integers(1, 4)))
        _add(elites, *((choice, rewards[choice], True) for choice in batch))
        seen += [choice for choice in dict.fromkeys(batch.tolist()) if choice not in seen]
        expected = sorted(seen, key=lambda choice: -rewards[choice])[:5]
        assert elites.choices[:, 0].tolist() == expected
        assert elites.rewards.tolist() == rewards[expected].tolist()
