"""placer learns where each op of a TensorFlow graph should run so that a step takes the least time.

>>> import placer
>>> placement = placer.place("rnnlm", "p100x4", evaluations=3000, seed=0)  # doctest: +SKIP
>>> placement.device_of("lstm_0/step_3/cell_1/MatMul")  # doctest: +SKIP
'gpu:1'
"""

from placer import tf as tf
from placer.api import place
from placer.cluster import Cluster, Device, Efficiency, Link
from placer.errors import (
    ClusterError,
    FormatError,
    GraphError,
    InfeasibleError,
    PlacementError,
    PlacerError,
    ReadError,
    UnknownNameError,
    UsageError,
)
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups, group_ops
from placer.placement import Evaluations, Placement, Schedule
from placer.problem import Problem, Progress, SearchResult
from placer.simulator import Simulator

__all__ = [
    "Cluster",
    "ClusterError",
    "Device",
    "Efficiency",
    "Evaluations",
    "FormatError",
    "GraphError",
    "InfeasibleError",
    "Link",
    "Op",
    "OpGraph",
    "OpGroups",
    "Output",
    "Placement",
    "PlacementError",
    "PlacerError",
    "Problem",
    "Progress",
    "ReadError",
    "Schedule",
    "SearchResult",
    "Simulator",
    "UnknownNameError",
    "UsageError",
    "group_ops",
    "place",
]
