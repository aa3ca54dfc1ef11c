"""Gymnasium environments over placer; importing this package registers them.

``gym.make("envs:placer/Placement-v0", graph="rnnlm", cluster="k80x4")`` imports it first. The
environments are ``placer/Placement-v0`` and ``placer/SequentialPlacement-v0``; in a batch,
``gym.make_vec("envs:placer/Placement-v0", num_envs=64, ...)`` gives
:class:`envs.vector.VectorPlacementEnv`.
"""

from __future__ import annotations

import gymnasium as gym

from envs.placement import PlacementEnv
from envs.rewards import GradedReward, Reward, SqrtReward
from envs.sequential import SequentialPlacementEnv
from envs.vector import VectorPlacementEnv

__all__ = [
    "GradedReward",
    "PlacementEnv",
    "Reward",
    "SequentialPlacementEnv",
    "SqrtReward",
    "VectorPlacementEnv",
]

if "placer/Placement-v0" not in gym.registry:
    gym.register(
        "placer/Placement-v0",
        entry_point="envs.placement:PlacementEnv",
        vector_entry_point="envs.vector:VectorPlacementEnv",
    )
if "placer/SequentialPlacement-v0" not in gym.registry:
    gym.register(
        "placer/SequentialPlacement-v0",
        entry_point="envs.sequential:SequentialPlacementEnv",
    )
