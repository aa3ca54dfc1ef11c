"""placer/Placement-v0 in a batch: many placements in one call of the evaluator."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.arguments import ClusterLike, GraphLike, check_actions, resolve_problem
from envs.placement import whole_observation
from envs.rewards import Reward, SqrtReward
from placer.errors import UsageError
from placer.problem import Problem


class VectorPlacementEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """Many :class:`envs.placement.PlacementEnv` of one problem, native.

    A step evaluates ``[num_envs, num_groups]`` choices in one call of ``problem.evaluate``, so it
    runs as fast as the evaluator does. Rows are what :class:`~envs.placement.PlacementEnv` gives
    for the same action; see there for actions, observations and rewards.

    Every step ends all episodes. The autoreset mode is ``SAME_STEP``: the observation returned is
    the next episode's first, no step is lost to resetting, and ``infos`` has, as Gymnasium asks,
    the last observations under ``final_obs`` and the episodes' infos under ``final_info``. For
    ease, ``step_time_seconds`` ``[num_envs]``, ``feasible`` ``[num_envs]`` and
    ``infeasible_because`` ``[num_envs]`` are in ``infos`` itself too.

    ```python
    gym.make_vec("envs:placer/Placement-v0", num_envs=64, graph="rnnlm", cluster="k80x4")
    ```

    Args:
        problem: The task; or instead of it `graph`, `cluster` and `num_groups`, as for
            :class:`~envs.placement.PlacementEnv`.
        num_envs: How many placements a step evaluates.
        graph: A graph, or the name of a bundled one, or a file.
        cluster: A cluster, or the name of a preset, or a file.
        num_groups: At most so many op groups.
        reward: By default ``SqrtReward.for_problem(problem)``.
        render_mode: None, as environments in a batch have no picture.

    Raises:
        UsageError: A render mode, `num_envs` that is no whole number >= 1, or neither a problem
            alone nor a graph and a cluster.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        problem: Problem | None = None,
        num_envs: int = 1,
        *,
        graph: GraphLike | None = None,
        cluster: ClusterLike | None = None,
        num_groups: int | None = None,
        reward: Reward | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            raise UsageError(f"render_mode is {render_mode!r}; environments in a batch have none")
        if not (isinstance(num_envs, int | np.integer) and num_envs > 0):
            raise UsageError(f"num_envs is {num_envs!r}; expected a whole number >= 1")
        self.problem = resolve_problem(problem, graph, cluster, num_groups)
        self.reward = SqrtReward.for_problem(self.problem) if reward is None else reward
        self.num_envs = num_envs
        self._observation = whole_observation(self.problem)
        self.single_observation_space = spaces.Box(0, 1, self._observation.shape, np.float32)
        self.single_action_space = spaces.MultiDiscrete(
            np.full(self.problem.num_groups, self.problem.num_devices)
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts all episodes.

        Args:
            seed: Seeds ``np_random``, of which nothing here depends.
            options: None are known.

        Returns:
            The observations ``[num_envs, num_groups * (num_features + 16)]``, and an empty info.
        """
        super().reset(seed=seed)
        return self._observations(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Evaluates a placement per environment; all episodes end and begin anew.

        Args:
            actions: Device indices, ``[num_envs, num_groups]``.

        Raises:
            UsageError: Another shape, not integers, or an index of no device.
        """
        shape = self.num_envs, self.problem.num_groups
        choices = check_actions(actions, shape, self.problem.num_devices)
        evaluations = self.problem.evaluate(choices)
        result = {
            "step_time_seconds": evaluations.step_time_seconds,
            "feasible": evaluations.feasible,
            "infeasible_because": np.array(evaluations.reasons, object),
        }
        all_envs = np.ones(self.num_envs, bool)
        masks = {f"_{key}": all_envs for key in result}  # who has the key: every environment
        final_obs = np.empty(self.num_envs, object)
        for row, observation in enumerate(self._observations()):
            final_obs[row] = observation
        infos = {
            **result,
            **masks,
            "final_obs": final_obs,
            "_final_obs": all_envs,
            "final_info": {**result, **masks},
            "_final_info": all_envs,
        }
        rewards = self.reward(evaluations)
        return self._observations(), rewards, all_envs.copy(), ~all_envs, infos

    def _observations(self) -> NDArray[np.float32]:
        """The observations of all environments, as a copy that the caller may keep."""
        return np.repeat(self._observation[None], self.num_envs, axis=0)
