"""Features: what they say, that they are bounded, and that the fast sums are the slow ones."""

from __future__ import annotations

import numpy as np
import pytest

from envs.features import (
    feature_names,
    group_adjacency,
    group_features,
    group_traffic,
    heaviest_neighbours,
)
from placer.problem import Problem


def column(problem: Problem, name: str) -> np.ndarray:
    """The feature of this name for each group."""
    return group_features(problem)[:, feature_names(problem).index(name)]


def test_values(problem: Problem) -> None:
    """On the toy, features are what one computes by hand."""
    assert problem.groups.names == ("x", "a0", "a1", "b0", "b1", "y")
    assert column(problem, "type_share:MatMul").tolist() == [0, 1, 1, 1, 1, 0]
    assert column(problem, "type_share:rest").tolist() == [0] * 6
    assert column(problem, "num_ops").tolist() == [1] * 6
    np.testing.assert_allclose(
        column(problem, "flops"), np.log1p([0, 1e6, 1e6, 1e6, 1e6, 1e4]) / np.log1p(1e6), rtol=1e-6
    )
    assert column(problem, "largest_output_dim:1").tolist() == [1, 1, 1, 1, 1, 0]
    np.testing.assert_allclose(
        column(problem, "in_degree"), np.log1p([0, 1, 1, 1, 1, 3]) / np.log1p(3), rtol=1e-6
    )
    np.testing.assert_allclose(
        column(problem, "bytes_out"),
        np.log1p([201, 100, 100, 100, 100, 0]) / np.log1p(201),
        rtol=1e-6,
    )
    np.testing.assert_allclose(column(problem, "position"), np.arange(6) / 5, rtol=1e-6)
    layer, last = 1.2e-3 / 3, 1.2e-5 / 3  # mean seconds
    path = 2 * layer + last
    np.testing.assert_allclose(
        column(problem, "earliest_start"),
        np.array([0, 0, layer, 0, layer, 2 * layer]) / path,
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        column(problem, "remaining_path"),
        np.array([path, path, layer + last, path, layer + last, last]) / path,
        rtol=1e-6,
    )
    np.testing.assert_allclose(column(problem, "seconds:gpu:0"), [0, 1, 1, 1, 1, 0.01], rtol=1e-6)
    np.testing.assert_allclose(
        column(problem, "log_seconds:gpu:0")[1:5], np.log1p(1e5) / np.log1p(1e6), rtol=1e-6
    )
    assert column(problem, "allowed:gpu:1").tolist() == [0, 1, 1, 1, 1, 1]


def test_neighbours(problem: Problem) -> None:
    """The sink reads most from the branches' ends, and then from the source."""
    row = heaviest_neighbours(problem)[5].reshape(2, 4, 2)
    np.testing.assert_allclose(
        row[0], [[3 / 6, 1], [5 / 6, 1], [1 / 6, np.log(2) / np.log(101)], [0, 0]], rtol=1e-6
    )
    assert not row[1].any()


@pytest.mark.parametrize("seed", range(20))
def test_traffic_equals_the_slow_sum(seed: int, random_problem) -> None:
    """A tensor counts once per reading group; control edges and empty tensors count one byte."""
    problem = random_problem(seed)
    graph, group = problem.graph, problem.groups.group_of_op
    slow = np.zeros((problem.num_groups, problem.num_groups))
    seen = set()
    for op in range(graph.num_ops):
        tensors = graph.input_tensors[graph.input_offsets[op] : graph.input_offsets[op + 1]]
        controls = graph.control_inputs[graph.control_offsets[op] : graph.control_offsets[op + 1]]
        sent = [
            (group[graph.tensor_producer[t]], ("data", t), graph.tensor_bytes[t]) for t in tensors
        ]
        sent += [(group[c], ("control", c), 0) for c in controls]
        for source, key, size in sent:
            if source != group[op] and (key, group[op]) not in seen:
                seen.add((key, group[op]))
                slow[source, group[op]] += max(size, 1)
    np.testing.assert_array_equal(group_traffic(problem), slow)


@pytest.mark.parametrize("seed", range(20))
def test_shapes_and_bounds(seed: int, random_problem) -> None:
    """All are float32 from 0 to 1 whatever the problem, and a column has a name."""
    problem = random_problem(seed)
    groups = problem.num_groups
    features = group_features(problem)
    assert features.shape == (groups, len(feature_names(problem)))
    assert group_adjacency(problem).shape == (groups, groups)
    assert heaviest_neighbours(problem).shape == (groups, 16)
    for array in (features, group_adjacency(problem), heaviest_neighbours(problem)):
        assert array.dtype == np.float32
        assert (array >= 0).all()
        assert (array <= 1).all()
    assert not np.diagonal(group_adjacency(problem)).any()


def test_adjacency_is_normalised_log_traffic(problem: Problem) -> None:
    """The most traffic is 1, none is 0, and the scale between is logarithmic."""
    traffic, adjacency = group_traffic(problem), group_adjacency(problem)
    np.testing.assert_allclose(adjacency, np.log1p(traffic) / np.log1p(traffic.max()), rtol=1e-6)
    assert adjacency.max() == 1


def test_groups_sum_their_ops(problem: Problem) -> None:
    """With several ops in a group, figures add up and shares stay shares."""
    grouped = Problem.build(problem.graph, problem.cluster, num_groups=2)
    types = [name for name in feature_names(grouped) if name.startswith("type_share")]
    features = group_features(grouped)
    np.testing.assert_allclose(features[:, : len(types)].sum(axis=1), 1, rtol=1e-6)
    counts = np.bincount(grouped.groups.group_of_op)
    np.testing.assert_allclose(
        column(grouped, "num_ops"), np.log1p(counts) / np.log1p(counts.max()), rtol=1e-6
    )
