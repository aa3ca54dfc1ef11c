"""Generated problems: what they promise, and that a seed gives them again."""

from __future__ import annotations

import numpy as np
import pytest

from policies.generating import _FAMILIES, generate_problem


@pytest.mark.parametrize("seed", range(12))
def test_problems_are_sound(seed: int) -> None:
    """At most so many groups, numbered by first op; some placement of them has a step time."""
    problem = generate_problem(np.random.default_rng(seed), 40)
    assert 2 <= problem.num_groups <= 40
    assert 2 <= problem.num_devices <= 8
    order = problem.graph.topological_order
    _, first = np.unique(problem.groups.group_of_op[order], return_index=True)
    assert (np.diff(first) > 0).all()
    assert problem.allowed.any(axis=1).all()
    best = problem.op_seconds.sum(axis=0).argmin()
    spread = np.arange(problem.num_groups) % problem.num_devices
    choices = np.array([np.full(problem.num_groups, best), spread])
    assert (problem.evaluate(choices).step_time_seconds > 0).all()


def test_a_seed_gives_the_same_problem() -> None:
    """Graph and cluster, and others for another seed."""
    first, again, other = (generate_problem(np.random.default_rng(seed), 30) for seed in (5, 5, 6))
    assert first.graph.fingerprint == again.graph.fingerprint
    assert first.cluster.fingerprint == again.cluster.fingerprint
    assert first.graph.fingerprint != other.graph.fingerprint


def test_there_is_variety() -> None:
    """All families come up; splitting pays on some problems and not on others; memory is tight."""
    problems = [generate_problem(np.random.default_rng(seed), 30) for seed in range(60)]
    assert {problem.graph.name for problem in problems} == {name for name, _ in _FAMILIES}
    gains = []
    for problem in problems:
        rng = np.random.default_rng(0)
        devices = np.tile(np.arange(problem.num_devices)[:, None], problem.num_groups)
        drawn = rng.integers(0, problem.num_devices, (50, problem.num_groups))
        gains.append(
            problem.evaluate(devices).step_time_seconds.min()
            / problem.evaluate(drawn).step_time_seconds.min()
        )
    assert np.nanmin(gains) < 0.8
    assert np.nanmax(gains) > 1.2
    assert any(np.isfinite(p.cluster.devices[-1].memory_bytes) for p in problems)
