"""What the benchmark beside Grappler measures is what it says; nothing is timed here."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from placer.cluster import Cluster
from placer.problem import Problem
from tests.benchmarks import grappler as benchmark
from tests.benchmarks.grappler import (
    CLUSTER,
    QUICK,
    Scale,
    Step,
    VirtualCluster,
    properties,
    transfer_seconds,
    units_of_ops,
)
from tests.benchmarks.measuring import Report, Table
from tests.benchmarks.simulator import PAGE, rewrite

SMALL = QUICK.workloads["rnnlm"]
TINY = Scale({"rnnlm": SMALL}, repetitions=1, rows=1)


@pytest.fixture(scope="module")
def step() -> Step:
    return Step.trace("rnnlm", **SMALL)


def test_devices_are_those_of_the_cluster() -> None:
    """By what Grappler itself makes of their properties."""
    from tensorflow.core.protobuf import device_properties_pb2
    from tensorflow.python.grappler import _pywrap_tf_cluster

    for device in Cluster.load(CLUSTER).devices:
        named = device_properties_pb2.NamedDevice(name="d", properties=properties(device))
        gigaflops = _pywrap_tf_cluster.TF_EstimatePerformance(named.SerializeToString())
        assert gigaflops * 1e9 == pytest.approx(device.flops, rel=1e-4)
        assert named.properties.bandwidth * 1e3 == pytest.approx(device.memory_bandwidth)
        assert named.properties.memory_size == device.memory_bytes


def test_both_have_the_same_ops_where_they_are_placed(step) -> None:
    """Each node is an op, on the device of the placement; placements are feasible."""
    cluster = Cluster.load(CLUSTER)
    names = VirtualCluster(cluster).names
    problem = Problem.build(step.graph, cluster)
    for kind in ("grouped", "random"):
        units = units_of_ops(step.graph, kind)
        choices = np.random.default_rng(0).integers(5, size=units.max() + 1, dtype=np.int32)
        placement = choices[units]
        nodes = step.placed(placement, names).graph_def.node
        index = step.graph.op_index
        assert len(nodes) == step.graph.num_ops
        assert [node.device for node in nodes] == [names[placement[index[n.name]]] for n in nodes]
        assert problem.evaluator.evaluate(placement[None]).feasible.all()
    assert len(np.unique(units)) > problem.num_groups


def test_grappler_charges_nothing_for_a_transfer() -> None:
    """Whatever its size, where ours takes latency and bytes over bandwidth; as the page says."""
    cluster = Cluster.load(CLUSTER)
    virtual = VirtualCluster(cluster)
    latency, bandwidth = cluster.latency_seconds[1, 2], cluster.bandwidth[1, 2]
    for num_bytes in (4_000, 400_000_000):
        theirs, ours = transfer_seconds(num_bytes, cluster, virtual)
        assert theirs < 1e-8
        assert ours == pytest.approx(latency + num_bytes / bandwidth, abs=1e-9)


def test_grappler_tells_where_memory_runs_out(step) -> None:
    """An infinite step time, as ours."""
    from tensorflow.python.grappler.item import Item

    cluster = Cluster.load(CLUSTER)
    virtual = VirtualCluster(cluster)
    item = Item(step.placed(np.ones(step.graph.num_ops, np.int32), virtual.names))
    assert np.isfinite(virtual.step_time(item))
    small = tuple(msgspec.structs.replace(d, memory_bytes=1e3) for d in cluster.devices)
    assert VirtualCluster(Cluster("small", small, cluster.links)).step_time(item) == float("inf")


def test_the_section_runs(monkeypatch, capsys) -> None:
    """It prints its tables, whose figures are of all placements."""
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    benchmark.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| `rnnlm`")]
    assert [row.split(" | ")[2:4] for row in rows] == [["grouped", "1"], ["random", "1"]]
    assert not any("lack memory" in row for row in rows)


def test_the_page_has_a_place_for_it() -> None:
    """Rewriting it replaces the figures and nothing else."""
    page = PAGE.read_text()
    report = Report("grappler", [], [Table("figures", ("name", ">figure"), [("a", 1)])])
    rewritten = rewrite(page, [report])
    assert "| a | 1 |\n" in rewritten
    assert rewrite(rewritten, [report]) == rewritten
    with pytest.raises(SystemExit):
        benchmark.main(["--quick", "--write"])
