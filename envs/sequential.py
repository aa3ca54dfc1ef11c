"""placer/SequentialPlacement-v0: one op group a step."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.arguments import ClusterLike, GraphLike, check_actions, resolve_problem
from envs.features import group_features, group_traffic
from envs.placement import result_info
from envs.rendering import check_render_mode, device_table
from envs.rewards import Reward, SqrtReward
from placer.errors import UsageError
from placer.problem import Problem


class SequentialPlacementEnv(gym.Env[NDArray[np.float32], np.int64]):
    """One op group a step.

    ## Description

    The op groups of a computation graph are placed one by one in topological order; the whole
    placement is evaluated after the last. Suits agents that have no policy for very large joint
    actions, and those that mask actions.

    ## Action Space

    ``Discrete(num_devices)``: the device of the current op group. Any device may be chosen, but
    only those of the mask can end well. The mask is in ``info["action_mask"]`` (int8, as
    ``action_space.sample`` takes it) and comes from :meth:`action_masks` (bool, as MaskablePPO
    of sb3-contrib calls it), ``[num_devices]``. It leaves out

    - devices on which some op of the group cannot run;
    - devices whose memory would be exceeded for certain: by the parameters of the groups there
      and the most that any one op there needs while it runs.

    Ops of one colocation group are in one op group, so no mask is needed for that. If no device
    remains for lack of memory, the mask shows all on which the ops can run; the episode goes on,
    and its placement will be infeasible.

    ## Observation Space

    ``Box(0, 1, (num_features + 5 * num_devices + num_groups * num_devices,), float32)``:

    | part | size | what |
    |---|---|---|
    | features | num_features | the current group, :func:`envs.features.group_features` |
    | traffic | num_devices | ``log(1 + bytes)`` between it and groups placed there, over all |
    | load | num_devices | ``t / (t + reference_seconds)`` of the seconds ``t`` placed there |
    | memory | num_devices | share of the memory that is taken for certain |
    | previous | num_devices | the device of the group before, one-hot |
    | mask | num_devices | the action mask |
    | choices | num_groups * num_devices | the devices of all groups so far, one-hot |

    After the last group, the first two parts are 0 and the mask is 1.

    ## Rewards

    0 until the last group, and then as in ``placer/Placement-v0``: ``-sqrt(step_time /
    reference_seconds)``, or the failing reward.

    ## Starting State

    The graph with nothing placed. There is no randomness; the seed is accepted and not needed.

    ## Episode End

    Terminated after ``num_groups`` steps; never truncated. ``info`` then has, besides the mask,
    ``step_time_seconds`` (infinite if infeasible), ``feasible``, and ``infeasible_because`` (None
    if feasible).

    ## Arguments

    - `problem`: a :class:`placer.problem.Problem`, simulated or measured; or instead of it
    - `graph`, `cluster`: objects, names or files, and `num_groups`: at most so many op groups;
    - `reward`: an :class:`envs.rewards.Reward`; by default ``SqrtReward.for_problem(problem)``;
    - `render_mode`: ``"ansi"`` renders the placement so far as a table of the devices.

    ```python
    gym.make("envs:placer/SequentialPlacement-v0", graph="rnnlm", cluster="k80x4")
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
        self.problem = problem = resolve_problem(problem, graph, cluster, num_groups)
        self.reward = SqrtReward.for_problem(problem) if reward is None else reward
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self._features = group_features(problem)
        traffic = group_traffic(problem)
        self._traffic = traffic + traffic.T
        self._log_all_traffic = np.log1p(traffic.sum()) or 1.0
        self._seconds = np.zeros((problem.num_groups, problem.num_devices))
        np.add.at(self._seconds, problem.groups.group_of_op, problem.op_seconds)
        self._working_bytes = working_bytes(problem)
        self._memory = np.array([device.memory_bytes for device in problem.cluster.devices])
        size = self._features.shape[1] + (5 + problem.num_groups) * problem.num_devices
        self.observation_space = spaces.Box(0, 1, (size,), np.float32)
        self.action_space = spaces.Discrete(problem.num_devices)
        self._start()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seeds ``np_random``, of which nothing here depends.
            options: None are known.

        Returns:
            The observation, and an info with the ``action_mask``.
        """
        super().reset(seed=seed)
        self._start()
        return self._observation(), {"action_mask": self.action_masks().astype(np.int8)}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Places the current op group.

        Args:
            action: A device index.

        Raises:
            UsageError: Not one integer, an index of no device, or a step after the episode's end.
        """
        problem, group = self.problem, self._group
        if group == problem.num_groups:
            raise UsageError("the episode is over; expected reset() before the next step")
        device = int(check_actions(action, (), problem.num_devices))
        self._choices[group] = device
        self._load[device] += self._seconds[group, device]
        self._parameters[device] += problem.group_parameter_bytes[group]
        self._working[device] = max(self._working[device], self._working_bytes[group])
        self._group += 1
        info: dict[str, Any] = {"action_mask": self.action_masks().astype(np.int8)}
        terminated = self._group == problem.num_groups
        reward = 0.0
        if terminated:
            evaluations = problem.evaluate(self._choices[None])
            reward = float(self.reward(evaluations)[0])
            info |= result_info(evaluations)
        return self._observation(), reward, terminated, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which devices can take the current op group, ``[num_devices]``; see the class."""
        group = self._group
        if group == self.problem.num_groups:
            return np.ones(self.problem.num_devices, bool)
        allowed = self.problem.allowed[group]
        parameters = self._parameters + self.problem.group_parameter_bytes[group]
        working = np.maximum(self._working, self._working_bytes[group])
        fits: NDArray[np.bool_] = allowed & (parameters + working <= self._memory)
        return fits if fits.any() else allowed.copy()

    def render(self) -> str | None:
        """The placement so far as a table, in render mode ``"ansi"``."""
        if self.render_mode is None:
            return None
        return device_table(self.problem, self._choices[: self._group])

    def _start(self) -> None:
        """Unplaces everything."""
        num_devices = self.problem.num_devices
        self._group = 0
        self._choices = np.zeros(self.problem.num_groups, np.int32)
        self._load = np.zeros(num_devices)  # seconds
        self._parameters = np.zeros(num_devices)  # bytes
        self._working = np.zeros(num_devices)  # bytes

    def _observation(self) -> NDArray[np.float32]:
        problem, group = self.problem, self._group
        placed = self._choices[:group]
        features = np.zeros(self._features.shape[1])
        traffic = np.zeros(problem.num_devices)
        if group < problem.num_groups:
            features = self._features[group]
            np.add.at(traffic, placed, self._traffic[group, :group])
        choices = np.zeros((problem.num_groups, problem.num_devices))
        choices[np.arange(group), placed] = 1
        previous = choices[group - 1] if group else np.zeros(problem.num_devices)
        taken = self._parameters + self._working
        with np.errstate(divide="ignore", invalid="ignore"):  # a device without memory
            memory = np.where(taken > 0, np.minimum(taken / self._memory, 1), 0)
        return np.concatenate(
            [
                features,
                np.log1p(traffic) / self._log_all_traffic,
                self._load / (self._load + problem.reference_seconds),
                memory,
                previous,
                self.action_masks(),
                choices.ravel(),
            ],
            dtype=np.float32,
        )


def working_bytes(problem: Problem) -> NDArray[np.float64]:
    """The most that an op of each group needs while it runs, without parameters, ``[num_groups]``.

    That is its temporary bytes, its outputs and its inputs, which its device must hold then.
    """
    graph = problem.graph
    needs = graph.temporary_bytes.copy()
    np.add.at(needs, graph.tensor_producer, graph.tensor_bytes)
    _, consumers, tensors = graph.edges
    read = np.unique(np.column_stack([consumers, tensors])[tensors >= 0], axis=0)
    np.add.at(needs, read[:, 0], graph.tensor_bytes[read[:, 1]])
    most = np.zeros(problem.num_groups)
    np.maximum.at(most, problem.groups.group_of_op, needs)
    return most
