"""Fits find the coefficients that made the data, also where some of it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from placer.cluster import Cluster, Device, Efficiency
from placer.costs import FAMILIES, family_of, op_seconds
from placer.errors import UsageError
from placer.graph import Op, OpGraph
from placer.tf._fit import LEAST_OPS, fit_device, weighted_median
from placer.tf._links import SIZES_BYTES, fit_link
from placer.tf.profile import with_seconds

PEAKS = Device("cpu:0", "cpu", "some-cpu", flops=1e11, memory_bandwidth=1e10)
TRUTH = replace(
    PEAKS,
    op_overhead_seconds=2e-6,
    efficiency=(
        Efficiency("matmul", flops=0.6, memory_bandwidth=0.5),
        Efficiency("elementwise", memory_bandwidth=0.25),
        Efficiency("Tanh", memory_bandwidth=0.05),
    ),
)


def _graph(num_ops: int = 300, seed: int = 0) -> OpGraph:
    """Ops of four types and of sizes that span five orders of magnitude."""
    rng = np.random.default_rng(seed)
    ops = []
    for i in range(num_ops):
        kind = ("MatMul", "Mul", "Relu", "Tanh")[i % 4]
        size = float(10 ** rng.uniform(2, 7))
        flops = 100 * size * rng.choice([0.1, 10.0]) if kind == "MatMul" else size
        ops.append(Op(f"op{i}", kind, flops=flops, bytes_accessed=8 * size))
    return OpGraph.from_ops("made up", ops)


def _known(graph: OpGraph, seconds: np.ndarray) -> OpGraph:
    return with_seconds(
        graph, {"some-cpu": dict(zip(graph.op_names, seconds.tolist(), strict=True))}
    )


def _truth(graph: OpGraph) -> np.ndarray:
    return op_seconds(graph, Cluster("truth", (TRUTH,)))[:, 0]


def test_a_fit_finds_overhead_and_fractions() -> None:
    """Of families and of a type that differs from its family, by either bound."""
    graph = _graph()
    fit = fit_device([_known(graph, _truth(graph))], PEAKS)
    found = {entry.ops: entry for entry in fit.device.efficiency}
    assert fit.device.op_overhead_seconds == pytest.approx(2e-6, rel=0.05)
    assert found["matmul"].flops == pytest.approx(0.6, rel=0.02)
    assert found["matmul"].memory_bandwidth == pytest.approx(0.5, rel=0.02)
    assert found["Mul"].memory_bandwidth == pytest.approx(0.25, rel=0.02)
    assert found["Tanh"].memory_bandwidth == pytest.approx(0.05, rel=0.02)
    assert fit.num_ops == graph.num_ops
    assert fit.median_error < 0.02
    assert abs(fit.total_error) < 0.02
    assert "300 ops" in str(fit)
    assert replace(fit.device, op_overhead_seconds=0, efficiency=()) == PEAKS


def test_what_is_fitted_predicts_other_graphs() -> None:
    """Also types that were not seen, by their family."""
    graph, other = _graph(), _graph(seed=1)
    fitted = fit_device([_known(graph, _truth(graph))], PEAKS).device
    unseen = OpGraph.from_ops("unseen", [replace(op, type="BatchMatMulV2") for op in other.ops()])
    for one in (other, unseen):
        predicted = op_seconds(one, Cluster("fitted", (fitted,)))[:, 0]
        assert np.median(np.abs(predicted / _truth(one) - 1)) < 0.02


def test_outliers_do_not_decide() -> None:
    """One op in ten takes ten times as long, all vary by a tenth."""
    graph = _graph(1000)
    rng = np.random.default_rng(2)
    noise = rng.uniform(0.9, 1.1, graph.num_ops) * rng.choice([1, 10], graph.num_ops, p=[0.9, 0.1])
    fit = fit_device([_known(graph, _truth(graph) * noise)], PEAKS)
    found = {entry.ops: entry for entry in fit.device.efficiency}
    assert fit.device.op_overhead_seconds == pytest.approx(2e-6, rel=0.2)
    assert found["matmul"].flops == pytest.approx(0.6, rel=0.15)
    assert found["Tanh"].memory_bandwidth == pytest.approx(0.05, rel=0.15)


def test_rare_types_share_their_family() -> None:
    """Too few ops of a type say nothing of it alone."""
    graph = OpGraph.from_ops(
        "few", [Op(f"op{i}", "Relu", bytes_accessed=1e6 * (i + 1)) for i in range(LEAST_OPS - 1)]
    )
    fit = fit_device([_known(graph, _truth(graph))], PEAKS)
    assert [entry.ops for entry in fit.device.efficiency] == ["elementwise"]


def test_a_fit_needs_peaks_and_seconds() -> None:
    """What is missing is named."""
    graph = _graph(20)
    with pytest.raises(UsageError, match="'cpu:0' has flops 0"):
        fit_device([graph], replace(PEAKS, flops=0))
    with pytest.raises(UsageError, match="seconds for model 'some-cpu'"):
        fit_device([graph], PEAKS)


def test_a_link_is_found_in_spite_of_an_odd_size() -> None:
    """Latency and bandwidth come from the sizes that agree."""
    seconds = [1e-4 + size / 2e9 for size in SIZES_BYTES]
    assert fit_link(SIZES_BYTES, seconds) == pytest.approx((1e-4, 2e9))
    seconds[2] *= 5
    assert fit_link(SIZES_BYTES, seconds) == pytest.approx((1e-4, 2e9))


def test_links_that_copy_nothing_have_no_limit() -> None:
    """As between devices of one process; noise may even make the differences negative."""
    latency, bandwidth = fit_link(SIZES_BYTES, [2e-6, 1.5e-6, 1.6e-6, 1.4e-6, 1.5e-6])
    assert latency == pytest.approx(1.5e-6, rel=0.1)
    assert bandwidth > 1e12
    assert fit_link([1, 2], [-1.0, -1.0])[0] == 1e-9


def test_weighted_medians_have_the_least_deviation() -> None:
    """Of all values, by trying each."""
    rng = np.random.default_rng(0)
    for size in range(1, 9):
        values, weights = rng.normal(size=size), rng.uniform(0.1, 1, size)
        deviations = [(weights * np.abs(values - v)).sum() for v in values]
        found = weighted_median(values, weights)
        assert (weights * np.abs(values - found)).sum() == pytest.approx(min(deviations))


def test_families() -> None:
    """Each type is in a family that there is."""
    assert family_of("ResourceApplyAdam") == "update"
    assert family_of("BatchMatMulV2") == "matmul"
    assert family_of("SomethingNew") == "elementwise"
    assert {family_of(kind) for kind in ("Conv2D", "Sum", "Softmax", "Tile")} < set(FAMILIES)
