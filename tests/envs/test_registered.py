"""What every registered environment promises."""

from __future__ import annotations

import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from placer.cluster import Cluster
from placer.errors import PlacerError, UsageError
from placer.graph import Op, OpGraph
from placer.problem import Problem

IDS = sorted(name for name in gym.registry if name.startswith("placer/"))
HEADINGS = [
    "Description",
    "Action Space",
    "Observation Space",
    "Rewards",
    "Starting State",
    "Episode End",
    "Arguments",
    "Version History",
]
ONE_OP = OpGraph.from_ops("one", [Op("x", "NoOp")])
every_env = pytest.mark.parametrize("name", IDS)


def test_both_are_registered() -> None:
    """The two environments of the design are there, and no others go untested."""
    assert IDS == ["placer/Placement-v0", "placer/SequentialPlacement-v0"]
    assert all(hasattr(envs, name) for name in envs.__all__)


@every_env
def test_check_env(name: str, problem: Problem) -> None:
    """Gymnasium's own checker finds nothing, not even a warning (warnings are errors here)."""
    check_env(gym.make(name, problem=problem).unwrapped)


@every_env
def test_docstring_has_the_fixed_headings(name: str) -> None:
    """Each environment says the same things in the same order."""
    env_class = gym.envs.registration.load_env_creator(gym.spec(name).entry_point)
    assert re.findall(r"## (.+)", env_class.__doc__) == HEADINGS


@every_env
def test_random_episodes(name: str, problem: Problem) -> None:
    """Observations stay in their space and finite, types are builtin, episodes end."""
    env = gym.make(name, problem=problem).unwrapped
    env.action_space.seed(0)
    for _ in range(20):
        observation, _ = env.reset(seed=1)
        terminated, steps = False, 0
        while not terminated:
            assert observation in env.observation_space
            assert np.isfinite(observation).all()
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            steps += 1
            assert type(reward) is float
            assert np.isfinite(reward)
            assert type(terminated) is bool
            assert truncated is False
        assert observation in env.observation_space
        assert steps in (1, problem.num_groups)
        assert type(info["feasible"]) is bool
        assert np.isfinite(info["step_time_seconds"]) == info["feasible"]
        assert (info["infeasible_because"] is None) == info["feasible"]


@every_env
def test_observations_are_copies(name: str, problem: Problem) -> None:
    """Writing into an observation changes no later one."""
    env = gym.make(name, problem=problem).unwrapped
    observation, _ = env.reset()
    expected = observation.copy()
    observation[:] = 7
    np.testing.assert_array_equal(env.reset()[0], expected)


@every_env
def test_graph_and_cluster_by_file_and_name(
    name: str, problem: Problem, cluster: Cluster, tmp_path
) -> None:
    """Objects, files and names of presets serve alike in place of a problem."""
    problem.graph.save(tmp_path / "g.json")
    cluster.save(tmp_path / "c.toml")
    by_file = gym.make(name, graph=tmp_path / "g.json", cluster=str(tmp_path / "c.toml"))
    by_object = gym.make(name, graph=problem.graph, cluster=cluster)
    np.testing.assert_array_equal(by_file.reset()[0], by_object.reset()[0])
    by_preset = gym.make(name, graph=problem.graph, cluster="k80x4", num_groups=2)
    assert by_preset.unwrapped.problem.num_devices == 5
    assert by_preset.unwrapped.problem.num_groups <= 2


@every_env
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no graph and cluster given; expected a problem, or a graph and a cluster"),
        ({"cluster": "k80x4"}, "no graph given"),
        ({"graph": ONE_OP, "cluster": "k80x5"}, "unknown cluster 'k80x5'; did you mean 'k80x"),
        ({"graph": "rnnlmm", "cluster": "k80x4"}, "unknown workload 'rnnlmm'"),
    ],
)
def test_wrong_arguments(name: str, arguments: dict, message: str) -> None:
    """Missing or unknown arguments are errors that say what was expected."""
    with pytest.raises(PlacerError, match=re.escape(message)):
        gym.make(name, **arguments)


@every_env
def test_problem_excludes_the_rest(name: str, problem: Problem) -> None:
    """A problem together with a graph is an error, as one of them would be ignored."""
    with pytest.raises(UsageError, match="a problem is given; expected no graph"):
        gym.make(name, problem=problem, graph=problem.graph)


@every_env
def test_wrong_actions(name: str, problem: Problem) -> None:
    """An action of another shape, type or range is an error that names what was expected."""
    env = gym.make(name, problem=problem)
    env.reset()
    shape = env.action_space.shape
    for given, message in (
        (np.zeros((2, 3), int), f"action has shape (2, 3); expected {shape}"),
        (np.zeros(shape), "action has dtype float64; expected integers"),
        (np.full(shape, 3), "action has values from 3 to 3; expected device indices from 0 to 2"),
        (np.full(shape, -1), "expected device indices from 0 to 2"),
        ([[0, 1], [2]], "action is no array: "),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            env.unwrapped.step(given)


@every_env
def test_the_reward_is_injected(name: str, problem: Problem) -> None:
    """Any callable of evaluations is a reward."""
    env = gym.make(name, problem=problem, reward=lambda e: 10 - e.step_time_seconds).unwrapped
    env.reset()
    terminated = False
    while not terminated:
        action = np.zeros(env.action_space.shape, int)
        _, reward, terminated, _, info = env.step(action)
    assert reward == 10 - info["step_time_seconds"]


@every_env
def test_another_render_mode_is_refused(name: str, problem: Problem) -> None:
    """There is text only; what asks for an image would get something else."""
    env = gym.make(name, problem=problem).unwrapped
    with pytest.raises(UsageError, match="render_mode is 'rgb_array'; expected 'ansi' or None"):
        type(env)(problem, render_mode="rgb_array")


@every_env
def test_render(name: str, problem: Problem) -> None:
    """The ansi rendering is a line per device with what was placed there."""
    env = gym.make(name, problem=problem, render_mode="ansi").unwrapped
    env.reset()
    assert env.render().startswith("0 of 6 op groups placed\n")
    terminated = False
    while not terminated:
        _, _, terminated, _, _ = env.step(np.zeros(env.action_space.shape, int))
    lines = env.render().splitlines()
    assert lines[0] == "6 of 6 op groups placed"
    assert lines[2].split() == ["cpu:0", "6", "0.00401", "s", "0.0016", "MB"]
    assert lines[3].split() == ["gpu:0", "0", "0", "s", "0", "MB"]
    assert len(lines) == 2 + problem.num_devices


def test_import_by_name_and_light() -> None:
    """``gym.make("envs:...")`` registers by itself, and loads no TensorFlow."""
    code = (
        "import sys, gymnasium as gym\n"
        "from placer.graph import Op, OpGraph\n"
        "graph = OpGraph.from_ops('one', [Op('x', 'NoOp')])\n"
        "env = gym.make('envs:placer/Placement-v0', graph=graph, cluster='cpu-gpu')\n"
        "print(env.action_space, [m for m in ('tensorflow', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "MultiDiscrete([2]) []"
