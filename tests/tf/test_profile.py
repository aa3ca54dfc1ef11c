"""Ops are timed where TensorFlow runs them."""

from __future__ import annotations

import importlib
import os
import signal
import socket
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import step_stats_pb2

import placer.tf
from placer.cluster import Cluster, Device, Link
from placer.errors import PlacerError, ReadError, UsageError
from placer.graph import Op, OpGraph
from placer.simulator import Simulator
from placer.tf import LocalWorkers
from placer.tf._bench import Bench
from placer.tf._flatten import flatten_function
from placer.tf._machine import find_devices
from placer.tf._profiling import op_times
from placer.tf.calibrate import _measure_peaks
from placer.tf.profile import TIMED_SECONDS, time_ops, with_seconds
from placer.tf.read import reading_of
from tests.tf.faults import children
from tests.tf.small import small_measurements

SQUARE = tf.TensorSpec((64, 64))
BRIEF = {"steps": 3, "runs": 1}


def product(x):
    return tf.nn.relu(x @ x)


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """After any test."""
    assert not children(os.getpid())
    yield
    assert not children(os.getpid())


@pytest.fixture
def _small(monkeypatch):
    """What is measured is small, so that it is quick."""
    small_measurements(monkeypatch)


def test_ops_get_seconds_of_this_machine() -> None:
    """By the model of its device, once for all logical CPUs; all else is as it is read."""
    weight = tf.Variable(tf.ones((64, 64)))

    def step(x):
        weight.assign_sub(0.1 * (product(x) @ weight))
        return tf.reduce_sum(weight)

    graph = placer.tf.profile(step, SQUARE, **BRIEF)
    plain = placer.tf.read(step, SQUARE)
    assert with_seconds(graph, {model: {} for known in graph.seconds for model in known}) == plain
    _, described = find_devices(None, None)
    assert [device.name for device in described] == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]
    assert {model for known in graph.seconds for model in known} == {described[0].model}
    assert all(s >= TIMED_SECONDS for known in graph.seconds for s in known.values())
    for op, kind in enumerate(graph.op_types):
        if kind in ("MatMul", "Sum"):
            assert graph.seconds[op]
    assert weight.numpy().min() == 1  # the user's own variable has not changed


@pytest.mark.usefixtures("_small")
def test_a_machine_of_workers_is_described_profiled_and_calibrated(tmp_path) -> None:
    """The three agree on names and models; what comes out is a cluster file to simulate with."""
    with LocalWorkers(2, shares=(1, 0.5)) as workers:
        cluster = Cluster.from_tensorflow(workers=workers, name="two")
        graph = placer.tf.profile(product, SQUARE, workers=workers, **BRIEF)
        found = placer.tf.calibrate_report([graph], cluster, workers=workers, **BRIEF)
        with Bench(workers, 60) as bench:
            function = tf.function(product).get_concrete_function(SQUARE)
            names = [f"/job:worker/replica:0/task:{i}/device:CPU:0" for i in (1, 0)]
            bench.load(function, names, name="product", warmup=0, steps=1)
            assert [bench.stop_seconds(device) for device in (0, 1)] == [0.001, 0]
    assert cluster.device_names == ("worker:0", "worker:1")
    first, second = cluster.devices
    assert second.model == f"{first.model}-0.5"
    assert all(device.flops > 0 and device.memory_bandwidth > 0 for device in cluster.devices)
    assert all(0 < device.memory_bytes < np.inf for device in cluster.devices)
    product_seconds = graph.seconds[graph.op_types.index("MatMul")]
    assert set(product_seconds) == {first.model, second.model}
    calibrated = found.cluster
    assert calibrated.bandwidth.min() > 0
    assert calibrated.latency_seconds[0, 1] > 0
    assert calibrated.device_names == cluster.device_names
    assert all(device.efficiency for device in calibrated.devices)
    assert "worker:0: 2 ops" in str(found)
    assert "worker:0 - worker:1: latency" in str(found)
    calibrated.save(tmp_path / "two.toml")
    loaded = Cluster.load(tmp_path / "two.toml")
    assert (loaded.name, loaded.devices, loaded.links) == ("two", *_content(calibrated))
    total = sum(known.get(first.model, 0) for known in graph.seconds)
    simulated = Simulator(graph, loaded).step_time([0] * graph.num_ops)
    assert simulated == pytest.approx(total, abs=1e-9 * graph.num_ops)


def test_the_devices_are_those_of_a_cluster(monkeypatch) -> None:
    """By its models, or kinds where it says no model; one device of each is timed."""
    read = placer.tf.read(product, SQUARE)
    loaded, placed = [], []

    class Timed:
        """What would run the steps, all of whose ops take a millisecond per device before it."""

        def load(self, function, names, **options):
            loaded.extend(names)
            return read

        def trace(self, placement):
            placed.append(placement[0])
            times = {op: [1e-3 * (1 + placement[0])] for op in read.op_names}
            return [sum(seconds for (seconds,) in times.values())], times

        def stop_seconds(self, device):
            return 0.0

    profile = importlib.import_module("placer.tf.profile")  # the name is also a function's
    monkeypatch.setattr(profile, "Bench", lambda *_: nullcontext(Timed()))
    devices = [Device("a", "cpu", "xeon"), Device("b", "cpu"), Device("c", "cpu", "xeon")]
    hosts = Cluster("hosts", devices, (Link(("a", "b", "c"), 1e9),))
    addresses = ["x:1", "y:1", "z:1"]
    graph = placer.tf.profile(product, SQUARE, cluster=hosts, workers=addresses, runs=1)
    assert loaded == [f"/job:worker/replica:0/task:{i}/device:CPU:0" for i in range(3)]
    assert placed == [0, 1]
    for known in graph.seconds:
        assert known == pytest.approx({"xeon": 1e-3, "cpu": 2e-3})
    with pytest.raises(UsageError, match="2 workers for the 3 devices of cluster 'hosts'"):
        placer.tf.profile(product, SQUARE, cluster=hosts, workers=addresses[:2])


def _content(cluster: Cluster):
    return cluster.devices, cluster.links


def _bench(steps, traced, stop_seconds=0.0):
    """What has traced steps on one device."""
    return SimpleNamespace(
        trace=lambda placement: (steps, traced), stop_seconds=lambda device: stop_seconds
    )


def test_seconds_add_up_to_the_step() -> None:
    """Each op that can be timed has its share of what the step takes beyond them all."""
    graph = OpGraph.from_ops("g", [Op(name, "Relu") for name in ("a", "b", "tiny", "unseen")])
    traced = {"a": [3e-6, 5e-6, 4e-6], "b": [1e-6] * 3, "tiny": [5e-8] * 3, "other": [1.0] * 3}
    bench = _bench((8e-6, 7e-6, 90e-6), traced)
    found = time_ops(bench, graph, {"cpu": 0}, runs=2)["cpu"]
    assert found == pytest.approx({"a": 5.5e-6, "b": 2.5e-6})
    hasty = _bench((1e-6,), traced)
    assert time_ops(hasty, graph, {"cpu": 0}, runs=1)["cpu"] == {"a": 4e-6, "b": 1e-6}
    nothing = _bench((1e-6,), {})
    assert time_ops(nothing, graph, {"cpu": 0}, runs=1)["cpu"] == {}


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_throttled_worker_slows_each_op_alike(share) -> None:
    """Also ops that its stops meet now and then, and add more to than they take themselves."""
    rng = np.random.default_rng(0)
    runs, stop = 2e-3 * share, 2e-3 * (1 - share)
    net = {f"short{i}": 10 ** rng.uniform(-5.5, -4) for i in range(200)}
    net |= {"medium": 8e-4, "long": 2e-2}
    traced, steps = {op: [] for op in net}, []
    for _ in range(30):
        ran = start = rng.uniform(0, runs)  # for how long it ran since a stop, all in all
        for op, seconds in net.items():
            stops = (ran + seconds) // runs - ran // runs
            traced[op].append(seconds + stops * stop)
            ran += seconds
        steps.append(ran - start + (ran // runs - start // runs) * stop)
    graph = OpGraph.from_ops("g", [Op(name, "Relu") for name in net])
    found = time_ops(_bench(steps, traced, stop), graph, {"cpu": 0}, runs=1)["cpu"]
    for op, seconds in net.items():
        assert found[op] == pytest.approx(seconds / share, rel=0.25), op
    assert sum(found.values()) == pytest.approx(np.mean(steps))


def test_known_seconds_of_other_models_stay() -> None:
    """Those of the same model are replaced, also by none."""
    graph = OpGraph.from_ops("g", [Op("a", "Relu", seconds={"cpu": 1, "gpu": 2}), Op("b", "Relu")])
    found = with_seconds(graph, {"cpu": {"b": 3.0}})
    assert found.seconds == ({"gpu": 2}, {"cpu": 3})


def test_kernels_count_where_there_are_streams() -> None:
    """On a GPU an op takes what its kernels do, and all of them; copies in other lines do not."""
    statistics = step_stats_pb2.StepStats()

    def add(device: str, *nodes: tuple[str, int]) -> None:
        line = statistics.dev_stats.add(device=device)
        for name, nanoseconds in nodes:
            node = line.node_stats.add(node_name=name, op_start_rel_nanos=7)
            node.op_end_rel_nanos = 7 + nanoseconds

    add("/job:localhost/replica:0/task:0/device:GPU:0", ("placer_step/a", 10), ("outside", 99))
    add("/device:GPU:0/stream:all", ("placer_step/a:MatMul", 500), ("placer_step/a:MatMul", 300))
    add("/device:GPU:0/stream:14", ("placer_step/a:MatMul", 500))
    add("/job:localhost/replica:0/task:0/device:CPU:0", ("placer_step/loop/body/b", 40))
    assert op_times(statistics) == pytest.approx({"a": 8e-7, "loop/body/b": 4e-8})


def test_what_cannot_be_profiled_is_refused() -> None:
    """With what was given and what was expected."""
    with pytest.raises(ReadError, match="was never traced"):
        placer.tf.profile(tf.function(product))
    with pytest.raises(ReadError, match="GraphDef"):
        placer.tf.profile(tf.function(product).get_concrete_function(SQUARE).graph.as_graph_def())
    with pytest.raises(UsageError, match="no device '/device:GPU:0'"):
        placer.tf.profile(product, SQUARE, devices=["GPU:0"])
    with pytest.raises(UsageError, match="'CPU' is no name of a TensorFlow device"):
        placer.tf.profile(product, SQUARE, devices=["CPU"])
    with pytest.raises(UsageError, match="expected names of TensorFlow devices"):
        placer.tf.profile(product, SQUARE, devices="CPU:0")
    with pytest.raises(UsageError, match="steps is 0"):
        placer.tf.profile(product, SQUARE, steps=0)
    with pytest.raises(UsageError, match="seconds_limit is 0"):
        placer.tf.profile(product, SQUARE, seconds_limit=0)
    with pytest.raises(UsageError, match="workers is -1"):
        placer.tf.profile(product, SQUARE, workers=-1)


def test_a_server_that_is_not_there_is_an_error() -> None:
    """Before anything is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PlacerError, match="cannot be reached"):
        placer.tf.profile(product, SQUARE, workers=[f"127.0.0.1:{port}"])


def test_a_worker_that_dies_is_named() -> None:
    """And nothing is left of it."""

    def inputs():
        os.kill(workers.processes["worker 0"].pid, signal.SIGKILL)
        yield np.ones(SQUARE.shape, np.float32)

    with (
        LocalWorkers(1) as workers,
        pytest.raises(PlacerError, match="worker 0: the process was killed"),
    ):
        placer.tf.profile(product, SQUARE, workers=workers, inputs=inputs(), **BRIEF)


def test_a_step_that_fails_says_where_and_why() -> None:
    """Also if only a later step does."""
    counter = tf.Variable(0.0)

    def step(x):
        count = counter.assign_add(1.0)
        tf.debugging.Assert(count < 2.0, [count])
        return count * x

    with pytest.raises(PlacerError, match=r"on /job:localhost.*CPU:0 failed: .*assertion failed"):
        placer.tf.profile(step, SQUARE, devices=["CPU:0"], **BRIEF)


def test_a_device_that_workers_lack_is_refused() -> None:
    """It is found when the workers are asked."""
    with pytest.raises(UsageError, match="no device .*GPU:0"):
        placer.tf.profile(
            product, SQUARE, workers=1, devices=["/job:worker/task:0/device:GPU:0"], **BRIEF
        )


@pytest.mark.parametrize("device", ["/job:worker/task:2/device:CPU:0", "CPU:0"])
def test_a_device_of_no_worker_is_refused(device) -> None:
    """Before any worker is asked, or started."""
    workers = LocalWorkers(2, shares=(1, 0.5))
    with pytest.raises(UsageError, match=r"no device '.*' on 2 workers; .*task:1"):
        placer.tf.profile(product, SQUARE, workers=workers, devices=[device])
    assert not workers.processes


def test_workers_that_are_closed_do_not_start_again() -> None:
    """Whoever wants them is told."""
    with LocalWorkers(1) as workers:
        pass
    with pytest.raises(UsageError, match="the workers are closed"):
        placer.tf.profile(product, SQUARE, workers=workers)


def test_a_device_without_statistics_has_no_peaks() -> None:
    """TensorFlow cannot trace it."""
    bench = _bench((1e-3,), {})
    bench.load = lambda function, *_, **__: reading_of(flatten_function(function), "peaks").graph
    device = Device("gpu:0", "gpu")
    with pytest.raises(PlacerError, match="do not say what MatMul takes on GPU:0"):
        _measure_peaks(bench, ["GPU:0"], 0, device)


def test_devices_without_a_model_are_calibrated_by_their_kind(monkeypatch) -> None:
    """As ``profile`` and the simulator have it; each kind gets figures of its own."""
    calibrate = importlib.import_module("placer.tf.calibrate")  # the name is also a function's
    monkeypatch.setattr(calibrate, "time_links", lambda cluster, **_: cluster.links)
    peaks = {"flops": 1e11, "memory_bandwidth": 1e10}
    devices = Device("a", "cpu", **peaks), Device("b", "tpu", **peaks)
    cluster = Cluster("kinds", devices, (Link(("a", "b"), 1e9),))
    ops = [Op(f"op{i}", "Relu", bytes_accessed=1e6 * (i + 1)) for i in range(9)]
    graph = OpGraph.from_ops("g", ops)
    seconds = {
        kind: {op.name: op.bytes_accessed / rate for op in ops}
        for kind, rate in (("cpu", 5e9), ("tpu", 2.5e9))
    }
    found = placer.tf.calibrate_report([with_seconds(graph, seconds)], cluster)
    assert list(found.fits) == ["cpu", "tpu"]
    shares = [device.efficiency[0].memory_bandwidth for device in found.cluster.devices]
    assert shares == pytest.approx([0.5, 0.25], rel=0.02)


def test_calibration_needs_graphs_that_fit_the_cluster() -> None:
    """A cluster whose devices no graph knows, and devices that do not fit the cluster."""
    cluster = placer.Cluster.load("cpu-gpu")
    with pytest.raises(UsageError, match="no graphs to calibrate with"):
        placer.tf.calibrate([], cluster)
    graph = OpGraph.from_ops("g", [Op("a", "Relu", bytes_accessed=8)])
    with pytest.raises(UsageError, match="has seconds for model"):
        placer.tf.calibrate([graph], cluster)
    with pytest.raises(UsageError, match="steps is 0"):
        placer.tf.calibrate([graph], cluster, steps=0)
    models = {device.model: {"a": 1.0} for device in cluster.devices}
    with pytest.raises(UsageError, match="3 TensorFlow devices for the 2 devices"):
        placer.tf.calibrate([with_seconds(graph, models)], cluster, workers=3)
    with pytest.raises(UsageError, match="no device '/device:GPU:0'"):
        placer.tf.calibrate([with_seconds(graph, models)], cluster)
