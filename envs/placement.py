"""placer/Placement-v0: a whole placement in one action."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.arguments import ClusterLike, GraphLike, check_actions, resolve_problem
from envs.features import group_features, heaviest_neighbours
from envs.rendering import check_render_mode, device_table
from envs.rewards import Reward, SqrtReward
from placer.placement import Evaluations
from placer.problem import Problem


class PlacementEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """A whole placement in one action.

    ## Description

    The device placement task of Mirhoseini, Pham et al., *Device Placement Optimization with
    Reinforcement Learning* (ICML 2017), in the paper's form: the agent sees the op groups of a
    computation graph and chooses a device for each at once. An episode is one step.

    ## Action Space

    ``MultiDiscrete([num_devices] * num_groups)``: a device index per op group. Groups are numbered
    in topological order.

    ## Observation Space

    ``Box(0, 1, (num_groups * (num_features + 16),), float32)``: group after group the columns of
    :func:`envs.features.group_features`, then those of :func:`envs.features.heaviest_neighbours`.
    ``observation.reshape(num_groups, -1)`` has a row per group. It is the same in every episode.

    ## Rewards

    ``-sqrt(step_time / reference_seconds)``, where the reference is the problem's: all op times in
    sequence on the best device. An infeasible placement is worth a constant that is below the
    reward of any feasible one. Another reward can be given.

    ## Starting State

    The graph with nothing placed. There is no randomness; the seed is accepted and not needed.

    ## Episode End

    Terminated after one step; never truncated. ``info`` then has ``step_time_seconds`` (infinite
    if infeasible), ``feasible``, and ``infeasible_because`` (None if feasible).

    ## Arguments

    - `problem`: a :class:`placer.problem.Problem`, simulated or measured; or instead of it
    - `graph`, `cluster`: objects, names or files, and `num_groups`: at most so many op groups;
    - `reward`: an :class:`envs.rewards.Reward`; by default ``SqrtReward.for_problem(problem)``;
    - `render_mode`: ``"ansi"`` renders the last placement as a table of the devices.

    ```python
    gym.make("envs:placer/Placement-v0", graph="rnnlm", cluster="k80x4")
    ```

    ## Version History

    - v0: Initial version.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi"],
        "render_fps": 1,  # check_env wants one
    }

    def __init__(
        self,
        problem: Problem | None = None,
        *,
        graph: GraphLike | None = None,
        cluster: ClusterLike | None = None,
        num_groups: int | None = None,
        reward: Reward | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.problem = resolve_problem(problem, graph, cluster, num_groups)
        self.reward = SqrtReward.for_problem(self.problem) if reward is None else reward
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self._observation = whole_observation(self.problem)
        self._choices = np.empty(0, np.int32)
        self.observation_space = spaces.Box(0, 1, self._observation.shape, np.float32)
        self.action_space = spaces.MultiDiscrete(
            np.full(self.problem.num_groups, self.problem.num_devices)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds ``np_random``, of which nothing here depends.
            options: None are known.

        Returns:
            The observation ``[num_groups * (num_features + 16)]``, and an empty info.
        """
        super().reset(seed=seed)
        self._choices = np.empty(0, np.int32)
        return self._observation.copy(), {}

    def step(
        self, action: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Evaluates a placement and ends the episode.

        Args:
            action: A device index per op group, ``[num_groups]``.

        Raises:
            UsageError: Another shape, not integers, or an index of no device.
        """
        problem = self.problem
        self._choices = check_actions(action, (problem.num_groups,), problem.num_devices)
        evaluations = problem.evaluate(self._choices[None])
        reward = float(self.reward(evaluations)[0])
        return self._observation.copy(), reward, True, False, result_info(evaluations)

    def render(self) -> str | None:
        """The last placement as a table, in render mode ``"ansi"``."""
        if self.render_mode is None:
            return None
        return device_table(self.problem, self._choices)


def whole_observation(problem: Problem) -> NDArray[np.float32]:
    """What there is to see of all groups, ``[num_groups * (num_features + 16)]``."""
    rows = np.concatenate([group_features(problem), heaviest_neighbours(problem)], axis=1)
    return rows.ravel()


def result_info(evaluations: Evaluations) -> dict[str, Any]:
    """The info of an episode that ended with the one placement of these evaluations."""
    return {
        "step_time_seconds": float(evaluations.step_time_seconds[0]),
        "feasible": bool(evaluations.feasible[0]),
        "infeasible_because": evaluations.reasons[0],
    }
