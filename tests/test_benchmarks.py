"""What the benchmarks measure is what they say; nothing is timed here."""

from __future__ import annotations

import msgspec
import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from placer.cluster import Cluster, Device, Link
from placer.costs import op_seconds
from placer.graph import Op, OpGraph, Output
from placer.simulator import Simulator
from tests.benchmarks import simulator as benchmark
from tests.benchmarks.engines import bytes_without_frees
from tests.benchmarks.families import FAMILIES, make_cluster, make_graph
from tests.benchmarks.floor import Floor, TunedFloor
from tests.benchmarks.measuring import Case, Criterion, Report, Table, measure
from tests.benchmarks.replay import Replay
from tests.benchmarks.workbench import MODELS, NUM_GROUPS, PLACEMENTS, Scale, workload

TINY = Scale(
    sizes=(200, 400),
    devices=(2, 8),
    repetitions=1,
    rows=2,
    batch=4,
    moves=4,
    reference_ops=100,
)
families = pytest.mark.parametrize("family", FAMILIES)
directions = pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])


@families
@directions
@pytest.mark.parametrize("num_ops", [1_000, 3_000])
def test_graphs_are_of_the_size_asked_for(family: str, training: bool, num_ops: int) -> None:
    """To 10%, numbered in a topological order, the same for the same seed."""
    graph = make_graph(family, num_ops, training=training)
    assert abs(graph.num_ops - num_ops) <= num_ops / 10
    assert (graph.topological_order == np.arange(graph.num_ops)).all()
    assert make_graph(family, num_ops, training=training) == graph
    assert make_graph(family, num_ops, training=training, seed=1) != graph


@families
@directions
def test_graphs_have_one_piece_and_unlike_ops(family: str, training: bool) -> None:
    """No op is on its own, and short ops stand beside long ones."""
    graph = make_graph(family, 1_000, training=training)
    assert nx.is_weakly_connected(graph.to_networkx())
    seconds = op_seconds(graph, make_cluster(1))
    assert seconds.min() >= 1e-6
    assert (seconds < 20e-6).mean() > 0.2
    assert (seconds > 100e-6).mean() > 0.03


@families
def test_training_updates_every_variable(family: str) -> None:
    """The forward pass comes first; each variable has one update, which reads a gradient of it."""
    graph = make_graph(family, 1_000, training=True)
    ops = {op.name: op for op in graph.ops()}
    updates = [op for op in ops.values() if op.type == "ApplyGradientDescent"]
    num_forward = next(i for i, name in enumerate(ops) if name.startswith("gradient_tape/"))
    held = [op.parameter_bytes for op in list(ops.values())[:num_forward] if op.parameter_bytes]
    assert sum(op.parameter_bytes for op in ops.values()) == sum(held)
    sizes = []
    for update in updates:
        (gradient,) = update.inputs
        assert gradient.startswith("gradient_tape/")
        sizes.append(ops[gradient.removesuffix(":0")].outputs[0].bytes)
    assert sorted(sizes) == sorted(held)


def test_shared_variables_count_once() -> None:
    """All steps of a layer use the same weights, which are with the first of them."""
    ops = make_graph("RNN grid", 1_000, training=False).ops()
    assert len({op.name for op in ops if op.type == "MatMul"}) > 50
    assert [op.name for op in ops if op.type == "MatMul" and op.parameter_bytes] == [
        *(f"lstm_{layer}/step_0/MatMul" for layer in range(8)),
        "softmax/step_0/MatMul",
    ]


@families
def test_gradients_read_activations(family: str) -> None:
    """Each op that reads a tensor has a gradient that reads all that it reads."""
    ops = {op.name: op for op in make_graph(family, 1_000, training=True).ops()}
    forward = [op for op in ops.values() if f"gradient_tape/{op.name}" in ops]
    assert len(forward) > 100
    for op in forward:
        gradient = ops[f"gradient_tape/{op.name}"]
        assert gradient.inputs[-len(op.inputs) :] == op.inputs
        assert len(gradient.outputs) == len(op.inputs)


@families
@directions
def test_the_floor_is_the_longest_path(family: str, training: bool) -> None:
    """As networkx finds it, over devices and links of several speeds."""
    graph = _on_two_models(make_graph(family, 300, training=training))
    cluster = _three_devices()
    placement = np.random.default_rng(0).integers(3, size=graph.num_ops).astype(np.int32)
    floor = Floor.build(graph, cluster)
    expected = _longest_path_ns(graph, cluster, placement)
    for found in (floor.seconds, floor.seconds_without_branches):
        assert round(found(placement[None])[0] * 1e9) == expected


def _three_devices(channel: str = "pair") -> Cluster:
    """Of two models, with links of three speeds."""
    return Cluster(
        "three",
        tuple(Device(f"gpu:{i}", "gpu", model, memory_bytes=1e12) for i, model in enumerate("aab")),
        (
            Link(("gpu:0", "gpu:1"), 12e9, 10e-6, channel),
            Link(("gpu:0", "gpu:2"), 3e9, 0, channel),
            Link(("gpu:1", "gpu:2"), 25e9, 5e-6, channel),
        ),
    )


def _on_two_models(graph: OpGraph) -> OpGraph:
    """The same graph; on the second model of GPU, ops take longer."""
    ops = [
        msgspec.structs.replace(op, seconds={**op.seconds, "b": op.seconds["gpu"] * 1.7})
        for op in graph.ops()
    ]
    return OpGraph.from_ops(graph.name, ops)


def _longest_path_ns(graph: OpGraph, cluster: Cluster, placement: NDArray[np.int32]) -> int:
    seconds = op_seconds(graph, cluster)
    own = {n: round(seconds[i, placement[i]] * 1e9) for n, i in graph.op_index.items()}
    paths = nx.MultiDiGraph()
    for name in graph.op_names:
        paths.add_edge("the start", name, weight=own[name])
    for producer, consumer, size in graph.to_networkx().edges(data="bytes"):
        pair = tuple(placement[graph.op_index[name]] for name in (producer, consumer))
        sending = 0
        if pair[0] != pair[1]:
            taken = cluster.latency_seconds[pair] + size / cluster.bandwidth[pair]
            sending = max(1, round(taken * 1e9))
        paths.add_edge(producer, consumer, weight=own[consumer] + sending)
    return int(nx.dag_longest_path_length(paths))


@families
@directions
@pytest.mark.parametrize("kind", PLACEMENTS)
@pytest.mark.parametrize("channel", ["pair", "source", "none"])
def test_a_replay_gives_the_step_times(
    family: str, training: bool, kind: str, channel: str
) -> None:
    """Both ways, to the last bit, over devices and links of several speeds."""
    work = workload(next(m for m in MODELS if (m.family, m.training) == (family, training)), 500)
    placements = work.placements(kind, 3, 8, seed=0)
    graph, cluster = _on_two_models(work.graph), _three_devices(channel)
    replay = Replay(graph, cluster)
    simulator = Simulator(graph, cluster)
    expected = simulator.evaluate(placements).step_time_seconds
    for prepare in (replay.order, replay.renumber):
        assert (replay.seconds(prepare(placements)) == expected).all()
    orders = replay.order(placements).orders
    assert orders is not None
    starts = [op.start_seconds for op in simulator.schedule(placements[0]).ops]
    assert (np.diff(np.array(starts)[orders[0]]) >= 0).all()


def test_a_replay_refuses_what_may_not_fit() -> None:
    """Its order of starts would be that of another placement."""
    graph = make_graph("Inception", 200, training=False)
    with pytest.raises(ValueError, match="memory"):
        Replay(graph, make_cluster(2, memory_bytes=1)).order(np.zeros((1, graph.num_ops), np.int32))


@families
@directions
@pytest.mark.parametrize("kind", PLACEMENTS)
def test_no_step_is_shorter_than_the_floor(family: str, training: bool, kind: str) -> None:
    """The floors are one bound, whatever the order and the channels."""
    work = workload(next(m for m in MODELS if (m.family, m.training) == (family, training)), 500)
    placements = work.placements(kind, 4, 16, seed=0)
    assert len(np.unique(placements, axis=0)) == 16
    floor = Floor.build(work.graph, make_cluster(4))
    bound = floor.seconds(placements)
    assert (TunedFloor.build(floor).seconds(placements) == bound).all()
    for order in ("fifo", "priority"):
        for channel in ("pair", "bus", "none"):
            simulator = Simulator(work.graph, make_cluster(4, channel), order=order)
            assert (simulator.evaluate(placements).step_time_seconds >= bound).all()


def test_the_floor_refuses_another_numbering() -> None:
    """It would read a producer before it is there."""
    graph = OpGraph.from_ops("g", [Op("b", "Op", ("a",)), Op("a", "Op", outputs=(Output(1),))])
    with pytest.raises(ValueError, match="topological"):
        Floor.build(graph, make_cluster(2))


def test_grouped_placements_keep_op_groups_together() -> None:
    """And there are at most 200 groups."""
    work = workload(MODELS[1], 1_000)
    assert work.groups.num_groups <= NUM_GROUPS
    for placement in work.placements("grouped", 8, 4, seed=0):
        for ops in work.groups.ops_of_group:
            assert len(set(placement[ops])) == 1


@pytest.mark.parametrize("kind", PLACEMENTS)
def test_memory_without_frees_bounds_the_peak(kind: str) -> None:
    """What is never freed is at least what is there at once."""
    work = workload(MODELS[1], 500)
    simulator = Simulator(work.graph, make_cluster(4))
    for placement in work.placements(kind, 4, 8, seed=0):
        peak = max(simulator.schedule(placement).peak_memory_bytes.values())
        assert 0.3 * bytes_without_frees(work.graph, placement, 4) < peak
        assert peak <= bytes_without_frees(work.graph, placement, 4)


def test_subjects_take_turns() -> None:
    """Each is timed once per repetition, on that repetition's input, after a run on another."""
    calls: list[tuple[str, int]] = []

    def subject(name: str):
        return lambda given: calls.append((name, given))

    cases = {case: Case(-1, lambda i: i, {n: subject(case + n) for n in "xy"}) for case in "ab"}
    clock = iter(range(100))
    seconds = measure(cases, 2, lambda: next(clock))
    assert calls == [(c + n, i) for r in (0, 1) for c in "ab" for n in "xy" for i in (-1, r)]
    assert all((s == 1e-9).all() and len(s) == 2 for by in seconds.values() for s in by.values())


def test_what_a_subject_wants_is_made_beforehand() -> None:
    """Of both inputs, off the clock, and for that subject alone."""
    calls: list[tuple[str, int]] = []
    subjects = {name: lambda given, name=name: calls.append((name, given)) for name in "xy"}
    clock = iter(range(100))
    prepare_for = {"y": lambda given: next(clock) and 10 * given}
    seconds = measure({"a": Case(-1, lambda i: i, subjects, prepare_for)}, 1, lambda: next(clock))
    assert calls == [("x", -1), ("x", 0), ("y", -10), ("y", 0)]
    assert seconds["a"]["x"] == seconds["a"]["y"] == 1e-9


def test_criteria_are_judged_by_the_worst() -> None:
    """One that is not measured is neither met nor missed."""
    ratios = {"a": 1.0, "b": 3.0}
    assert Criterion.at_most("", 3, ratios) == Criterion("", "3.00x: b", True)
    assert Criterion.at_most("", 2, ratios).verdict() == "MISS"
    assert Criterion.at_least("", 1, ratios) == Criterion("", "1.00x: a", True)
    assert Criterion.at_least("", 2, ratios).verdict() == "MISS"
    assert Criterion.at_most("", 2, {}).verdict() == "-"
    assert Criterion.shown("", ratios) == Criterion("", "1.00x: a", None)
    assert Criterion.shown("", ratios, max) == Criterion("", "3.00x: b", None)


@pytest.mark.parametrize("section", ["engines", "reference", "memory", "moves", "threads"])
def test_sections_run(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On tiny graphs each section prints its tables, and finds nothing that is wrong."""
    (report,) = benchmark.run([section], TINY)
    printed = capsys.readouterr().out
    assert all(table.rows for table in report.tables)
    assert all(criterion.text[:20] in printed for criterion in report.criteria)
    for criterion in report.criteria:
        if "mismatches" in criterion.text or "equal" in criterion.text:
            assert criterion.holds


def test_the_page_has_a_place_for_every_section() -> None:
    """Rewriting it replaces the figures and nothing else."""
    table = Table("figures", ("name", ">figure"), [("a", 1), ("b", 2)], in_page=[True, False])
    reports = [
        Report(name, [Criterion("must", "1.0x", True)], [table]) for name in benchmark.SECTIONS
    ]
    page = benchmark.rewrite(benchmark.PAGE.read_text(), reports)
    assert page.count("| a | 1 |\n") == len(reports)
    assert "| b | 2 |" not in page
    assert benchmark.rewrite(page, reports) == page


def test_unknown_sections_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With the names that there are."""
    with pytest.raises(SystemExit):
        benchmark.main(["engine"])
    assert "no section 'engine'; there are engines, reference" in capsys.readouterr().err
