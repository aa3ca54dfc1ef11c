"""The sequential environment: the same task in small steps, and what its mask promises."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from envs import PlacementEnv, SequentialPlacementEnv
from envs.features import feature_names, group_features, group_traffic
from placer.cluster import Cluster
from placer.errors import UsageError
from placer.problem import Problem


def play(env: SequentialPlacementEnv, choices) -> tuple[list[float], dict, bool]:
    """Rewards, the last info, and whether all choices were within the mask."""
    env.reset()
    rewards, within = [], True
    for choice in choices:
        within &= bool(env.action_masks()[choice])
        _, reward, terminated, _, info = env.step(np.int64(choice))
        rewards.append(reward)
    assert terminated
    return rewards, info, within


def test_return_equals_the_one_step_env(problem: Problem) -> None:
    """Every placement is worth the same, whether it is made at once or group by group."""
    single, sequential = PlacementEnv(problem), SequentialPlacementEnv(problem)
    rng = np.random.default_rng(0)
    for _ in range(30):
        choices = rng.integers(problem.num_devices, size=problem.num_groups)
        rewards, info, _ = play(sequential, choices)
        _, reward, *_, single_info = single.step(choices)
        assert rewards == [0.0] * (problem.num_groups - 1) + [reward]
        del info["action_mask"]
        assert info == single_info


def test_mask_by_device_kind(problem: Problem) -> None:
    """The op that needs a CPU may go to the CPU only, and the info says the same."""
    env = SequentialPlacementEnv(problem)
    _, info = env.reset()
    assert env.action_masks().tolist() == [True, False, False]
    assert info["action_mask"].tolist() == [1, 0, 0]
    _, _, _, _, info = env.step(np.int64(0))
    assert info["action_mask"].tolist() == [1, 1, 1]
    env.action_space.seed(0)
    assert env.action_space.sample(info["action_mask"]) in env.action_space


def test_mask_by_memory(problem: Problem) -> None:
    """A GPU of 1000 bytes takes one layer of 400 + 250 working bytes, and no second."""
    env = SequentialPlacementEnv(problem)
    env.reset()
    env.step(np.int64(0))
    env.step(np.int64(1))
    assert env.action_masks().tolist() == [True, False, True]


def test_mask_without_a_way_out(problem: Problem, cluster: Cluster) -> None:
    """If memory suffices nowhere, the mask falls back on the kinds and the end is infeasible."""
    devices = tuple(
        type(d)(d.name, d.kind, memory_bytes=700, flops=1e9, memory_bandwidth=1e9)
        for d in cluster.devices
    )
    small = Cluster("small", devices, cluster.links)
    env = SequentialPlacementEnv(Problem.build(problem.graph, small, num_groups=6))
    _, info = env.reset()
    terminated = False
    masks = []
    while not terminated:
        masks.append(info["action_mask"])
        action = np.int64(np.flatnonzero(info["action_mask"])[0])
        _, reward, terminated, _, info = env.step(action)
    assert all(mask.any() for mask in masks)
    assert not info["feasible"]
    assert reward == env.reward.failing_reward


@pytest.mark.parametrize("seed", range(30))
def test_mask_leaves_out_only_infeasible_placements(seed: int, random_problem) -> None:
    """Brute force: whatever leaves the mask at some step is infeasible."""
    problem = random_problem(seed)
    env = SequentialPlacementEnv(problem)
    every = np.array(
        list(itertools.product(range(problem.num_devices), repeat=problem.num_groups)), np.int32
    )
    rng = np.random.default_rng(seed)
    every = every[rng.permutation(len(every))[:300]]
    for choices, feasible in zip(every, problem.evaluate(every).feasible, strict=True):
        if feasible:
            _, _, within = play(env, choices)
            assert within


def test_mask_helps(random_problem) -> None:
    """On problems where memory is short, masked random play fails less often than unmasked."""
    failed = {True: 0, False: 0}
    rng = np.random.default_rng(0)
    for seed in range(60):
        problem = random_problem(seed)
        env = SequentialPlacementEnv(problem)
        for masked in (True, False):
            _, info = env.reset()
            terminated = False
            while not terminated:
                mask = info["action_mask"] if masked else np.ones(problem.num_devices)
                choice = rng.choice(np.flatnonzero(mask))
                _, _, terminated, _, info = env.step(choice)
            failed[masked] += not info["feasible"]
    assert failed[True] < failed[False]


def test_observation_layout(problem: Problem) -> None:
    """The parts of the observation are where the docstring says, with the values it says."""
    env = SequentialPlacementEnv(problem)
    num_groups, num_devices = problem.num_groups, problem.num_devices
    sizes = [len(feature_names(problem)), *[num_devices] * 5, num_groups * num_devices]
    env.reset()
    choices = [0, 1, 2]
    for choice in choices:
        observation, *_ = env.step(np.int64(choice))
    features, traffic, load, memory, previous, mask, placed = np.split(
        observation, np.cumsum(sizes)[:-1]
    )
    np.testing.assert_array_equal(features, group_features(problem)[3])
    names, parents = problem.groups.names, {"b0": "x", "a1": "a0", "b1": "b0"}
    source = names.index(parents[names[3]])
    expected = np.zeros(3)
    expected[choices[source]] = np.log1p(100) / np.log1p(group_traffic(problem).sum())
    np.testing.assert_allclose(traffic, expected, rtol=1e-6)
    assert load[0] == 0  # the source does no work
    np.testing.assert_allclose(load[1:], 1e-4 / (1e-4 + problem.reference_seconds), rtol=1e-6)
    np.testing.assert_allclose(memory, [100 / 1e6, 0.65, 0.65], rtol=1e-6)
    assert previous.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(mask, env.action_masks())
    np.testing.assert_array_equal(
        placed.reshape(num_groups, num_devices), np.vstack([np.eye(3), np.zeros((3, 3))])
    )


def test_step_after_the_end(problem: Problem) -> None:
    """An episode that is over takes no step until it is reset."""
    env = SequentialPlacementEnv(problem)
    play(env, [0] * problem.num_groups)
    with pytest.raises(UsageError, match="the episode is over"):
        env.step(np.int64(0))
    env.reset()
    env.step(np.int64(0))


def test_no_limit_of_memory(problem: Problem, cluster: Cluster) -> None:
    """Devices with unlimited memory give finite observations and masks by kind alone."""
    devices = tuple(
        type(d)(d.name, d.kind, memory_bytes=float("inf"), flops=1e9, memory_bandwidth=1e9)
        for d in cluster.devices
    )
    unlimited = replace(problem, cluster=Cluster("unlimited", devices, cluster.links))
    env = SequentialPlacementEnv(unlimited)
    env.reset()
    for choice in (0, 1, 1, 1, 1):
        observation, *_ = env.step(np.int64(choice))
        assert observation in env.observation_space
        assert env.action_masks().all()
