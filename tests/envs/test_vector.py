"""The native vector environment is the single one, many times, in one evaluation."""

from __future__ import annotations

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import PlacementEnv, VectorPlacementEnv
from placer.errors import UsageError
from placer.problem import Problem


def test_equals_single_envs(problem: Problem) -> None:
    """Step for step it returns what Gymnasium's own batching of single environments returns."""
    native = VectorPlacementEnv(problem, num_envs=5)
    slow = SyncVectorEnv(
        [lambda: PlacementEnv(problem)] * 5, autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert native.observation_space == slow.observation_space
    assert native.action_space == slow.action_space
    assert native.metadata["autoreset_mode"] == slow.metadata["autoreset_mode"]
    native.action_space.seed(0)
    np.testing.assert_array_equal(native.reset(seed=0)[0], slow.reset(seed=0)[0])
    feasible = []
    for _ in range(20):
        actions = native.action_space.sample()
        actions[:3, 0] = 0  # the CPU, which alone can run the first op
        *arrays, infos = native.step(actions)
        *slow_arrays, slow_infos = slow.step(actions)
        for array, slow_array in zip(arrays, slow_arrays, strict=True):
            np.testing.assert_array_equal(array, slow_array)
            assert array.dtype == slow_array.dtype
        for key, value in slow_infos.pop("final_info").items():
            np.testing.assert_array_equal(infos["final_info"][key], value)
        for key, value in slow_infos.items():
            np.testing.assert_array_equal(np.stack(infos[key]), np.stack(value))
        feasible += infos["feasible"].tolist()
    assert 0 < np.mean(feasible) < 1


def test_one_step_is_one_evaluation(problem: Problem) -> None:
    """A step hands all placements to the evaluator in one batch."""
    batches = []

    class Counting:
        def evaluate(self, placements):
            batches.append(placements.shape)
            return problem.evaluator.evaluate(placements)

    env = VectorPlacementEnv(replace(problem, evaluator=Counting()), num_envs=7)
    env.reset()
    env.step(np.zeros((7, problem.num_groups), int))
    assert batches == [(7, problem.graph.num_ops)]


def test_make_vec(problem: Problem) -> None:
    """``gym.make_vec`` gives the native one without being asked, and sync batching on request."""
    env = gym.make_vec("placer/Placement-v0", num_envs=3, problem=problem)
    assert isinstance(env, VectorPlacementEnv)
    assert env.num_envs == 3
    named = gym.make_vec(
        "envs:placer/Placement-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        graph=problem.graph,
        cluster="cpu-gpu",
    )
    assert named.observation_space.shape[0] == 2
    sync = gym.make_vec("placer/SequentialPlacement-v0", num_envs=2, problem=problem)
    assert isinstance(sync, SyncVectorEnv)
    _, infos = sync.reset()
    assert infos["action_mask"].shape == (2, problem.num_devices)


def test_wrappers_of_gymnasium_work(problem: Problem) -> None:
    """Gymnasium's vector wrappers take it as they take any other."""
    env = gym.wrappers.vector.RecordEpisodeStatistics(VectorPlacementEnv(problem, num_envs=2))
    env.reset()
    actions = np.zeros((2, problem.num_groups), int)
    _, rewards, *_, infos = env.step(actions)
    np.testing.assert_array_equal(infos["episode"]["r"], rewards)
    np.testing.assert_array_equal(infos["episode"]["l"], [1, 1])


def test_results_are_copies(problem: Problem) -> None:
    """Writing into what a step returned changes no later step."""
    env = VectorPlacementEnv(problem, num_envs=2)
    actions = np.zeros((2, problem.num_groups), int)
    expected = env.reset()[0].copy()
    observations, _, terminated, _, infos = env.step(actions)
    observations[:] = infos["final_obs"][0][:] = 7
    terminated[:] = False
    assert infos["_feasible"].all()
    np.testing.assert_array_equal(env.step(actions)[0], expected)


def test_other_processes(problem: Problem) -> None:
    """A problem travels to other processes, so that Gymnasium's AsyncVectorEnv works too."""
    env = gym.make_vec(
        "placer/SequentialPlacement-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        problem=problem,
    )
    try:
        env.reset()
        rewards = [env.step(np.zeros(2, int))[1] for _ in range(problem.num_groups)][-1]
    finally:
        env.close()
    expected = VectorPlacementEnv(problem).step(np.zeros((1, problem.num_groups), int))[1]
    assert rewards.tolist() == [expected[0]] * 2


def test_wrong_shapes(problem: Problem) -> None:
    """A batch of another shape is an error that names the expected one."""
    env = VectorPlacementEnv(problem, num_envs=2)
    with pytest.raises(UsageError, match=re.escape("shape (3, 6); expected (2, 6)")):
        env.step(np.zeros((3, 6), int))
    with pytest.raises(UsageError, match=re.escape("shape (6,); expected (2, 6)")):
        env.step(np.zeros(6, int))
    for num_envs in (0, 1.5, "2"):
        message = f"num_envs is {num_envs!r}; expected a whole number >= 1"
        with pytest.raises(UsageError, match=message):
            VectorPlacementEnv(problem, num_envs=num_envs)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="render_mode is 'ansi'; environments in a batch have"):
        VectorPlacementEnv(problem, render_mode="ansi")
