"""Another library's agents train on the environments as they are: Stable-Baselines3.

Not part of the main suite, as torch is heavy: ``make interop`` runs it in its own environment.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

import envs  # noqa: F401  (registers the environments)
from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator

SETTINGS = {"seed": 0, "n_steps": 1024, "batch_size": 256, "gamma": 1.0, "device": "cpu"}

Choose = Callable[[np.ndarray, dict], np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Networks this small are slower on several threads, and results would depend on them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def branches() -> Problem:
    """Three chains of three layers, a source for the CPU, two GPUs of memory for six layers each."""
    ops = [Op("x", "Read", outputs=(Output(1e6),), device_kinds=("cpu",))]
    for chain in "abc":
        source = "x"
        for layer in range(3):
            name = f"{chain}{layer}"
            out = (Output(1e6),)
            ops.append(Op(name, "MatMul", (source,), flops=4e9, parameter_bytes=1e8, outputs=out))
            source = name
    ops.append(Op("y", "Add", ("a2", "b2", "c2"), flops=1e8))
    graph = OpGraph.from_ops("branches", ops)
    devices = (
        Device("cpu:0", "cpu", memory_bytes=1e12, flops=1e12),
        Device("gpu:0", "gpu", memory_bytes=6.1e8, flops=4e12),
        Device("gpu:1", "gpu", memory_bytes=6.1e8, flops=4e12),
    )
    links = (Link(tuple(device.name for device in devices), 2e9, 1e-5),)
    cluster = Cluster("cpu-and-two-gpus", devices, links)
    groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def play(env: gym.Env, choose: Choose, episodes: int = 200) -> tuple[float, float]:
    """Mean reward, and share of feasible placements."""
    rewards, feasible = [], []
    for _ in range(episodes):
        observation, info = env.reset()
        terminated = False
        while not terminated:
            observation, reward, terminated, _, info = env.step(choose(observation, info))
        rewards.append(reward)
        feasible.append(info["feasible"])
    return float(np.mean(rewards)), float(np.mean(feasible))


def best_reward(problem: Problem) -> float:
    """The reward of the optimum, by brute force over all placements."""
    devices = range(problem.num_devices)
    every = np.array(list(itertools.product(devices, repeat=problem.num_groups)), np.int32)
    best = problem.evaluate(every).step_time_seconds.min()
    return -float(np.sqrt(best / problem.reference_seconds))


def test_the_environment_is_the_intended_one() -> None:
    """Torch is a CPU build without CUDA's packages, and neither placer nor envs needs TensorFlow."""
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    assert torch.version.cuda is None
    assert not [n for n in installed if n.startswith(("nvidia", "cuda")) or n == "triton"]
    assert "tensorflow" not in installed
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["placer/Placement-v0", "placer/SequentialPlacement-v0"])
def test_check_env(name: str, branches: Problem) -> None:
    """Stable-Baselines3's own checker finds nothing, not even a warning (warnings are errors)."""
    check_env(gym.make(name, problem=branches).unwrapped)


def test_ppo_learns(branches: Problem) -> None:
    """PPO closes nine tenths of the gap between random play and the optimum."""
    env = gym.make("placer/SequentialPlacement-v0", problem=branches)
    rng = np.random.default_rng(0)
    random, random_feasible = play(env, lambda _, __: rng.integers(branches.num_devices))
    model = PPO("MlpPolicy", env, **SETTINGS)
    model.learn(20_000)
    learned, feasible = play(env, lambda observation, _: model.predict(observation)[0])
    print(f"random {random:.3f} ({random_feasible:.0%}), learned {learned:.3f} ({feasible:.0%})")
    assert learned > random + 0.9 * (best_reward(branches) - random)
    assert feasible > 0.95


def test_maskable_ppo_learns(branches: Problem) -> None:
    """MaskablePPO never fails, and closes three quarters of the gap from random masked play."""
    env = gym.make("placer/SequentialPlacement-v0", problem=branches)
    rng = np.random.default_rng(0)
    random, random_feasible = play(
        env, lambda _, info: rng.choice(np.flatnonzero(info["action_mask"]))
    )
    model = MaskablePPO("MlpPolicy", env, **SETTINGS)
    model.learn(20_000)

    def choose(observation: np.ndarray, info: dict) -> np.ndarray:
        return model.predict(observation, action_masks=info["action_mask"])[0]

    learned, feasible = play(env, choose)
    print(f"masked random {random:.3f}, learned {learned:.3f}")
    assert random_feasible == feasible == 1
    assert learned > random + 0.75 * (best_reward(branches) - random)


def test_ppo_learns_on_a_real_graph() -> None:
    """On a training graph of TensorFlow, PPO's steps take at least 15% less than random ones."""
    env = gym.make(
        "envs:placer/SequentialPlacement-v0", graph="rnnlm", cluster="k80x4", num_groups=24
    )
    problem = env.unwrapped.problem
    rng = np.random.default_rng(0)
    random, _ = play(env, lambda _, __: rng.integers(problem.num_devices))
    model = PPO("MlpPolicy", env, **SETTINGS)
    model.learn(20_000)
    learned, _ = play(env, lambda observation, _: model.predict(observation)[0])
    print(f"random {random:.3f}, learned {learned:.3f}")
    assert learned > 0.92 * random  # rewards are negative roots of step times


def test_ppo_trains_on_the_one_step_env(branches: Problem) -> None:
    """PPO also takes the whole placement as one action, and improves on random play."""
    env = gym.make("placer/Placement-v0", problem=branches)
    env.action_space.seed(0)
    random, _ = play(env, lambda _, __: env.action_space.sample())
    model = PPO("MlpPolicy", env, **{**SETTINGS, "n_steps": 512})
    model.learn(6_000)
    learned, _ = play(env, lambda observation, _: model.predict(observation)[0])
    print(f"random {random:.3f}, learned {learned:.3f}")
    assert learned > random + 0.5 * (best_reward(branches) - random)


def test_the_documented_example_runs() -> None:
    """The code on the page about environments that needs Stable-Baselines3 runs."""
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    blocks = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/environments.md", "exec"), {})  # noqa: S102
