"""Hypothesis strategies for problems that can be enumerated."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from placer.costs import allowed_devices
from placer.errors import PlacerError
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator
from tests.strategies import clusters, graphs


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to 8 ops on up to 3 unlike devices, an op group per op or per colocation group."""
    graph = draw(graphs(max_ops=8, constraints=draw(st.booleans())))
    cluster = draw(clusters().filter(lambda cluster: cluster.num_devices <= 3))
    order = draw(st.sampled_from(["fifo", "priority"]))
    owners = np.where(
        graph.colocation_group >= 0, graph.colocation_group, 100 + np.arange(graph.num_ops)
    )
    _, group_of_op = np.unique(owners, return_inverse=True)
    names = tuple(f"group{i}" for i in range(group_of_op.max() + 1))
    groups = OpGroups(graph, group_of_op.astype(np.int32), names)
    try:
        allowed_devices(graph, cluster)
        problem = Problem(graph, cluster, groups, Simulator(graph, cluster, order=order), order)
        assert problem.allowed is not None
    except PlacerError:  # an op that may go nowhere
        assume(False)
    return problem
