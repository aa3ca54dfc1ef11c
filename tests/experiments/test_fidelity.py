"""How well predictions agree with measurements is worked out right, and survives a stop."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from experiments import fidelity
from experiments.fidelity import (
    FidelityConfig,
    FidelityFolder,
    Repetition,
    choose_placements,
    compare,
    measure_all,
    misses,
    predict,
    rank_correlation,
)
from experiments.measuring import MeasuringConfig
from placer.cluster import Cluster
from placer.errors import FormatError, PlacerError, UsageError
from placer.placement import Order, ScheduledOp
from placer.problem import Problem
from placer.simulator import Simulator
from placer.tf import Measurement, OpTimes
from tests.experiments.builders import cluster, graph

CONFIG = FidelityConfig("placer.fidelity/1", 12, 0, 2, MeasuringConfig("chains"))


class FakeEvaluator:
    """Measures what is simulated, 10% longer, but for what is made to fail."""

    def __init__(self, order: Order = "fifo") -> None:
        self.graph, self.cluster, self.order = graph(), cluster(), order
        self.simulator = Simulator(self.graph, self.cluster, order=order)
        self.calls = 0
        self.fail_from = 10_000
        self.fails: set[bytes] = set()

    def measure(self, placement, *, again: bool = False, traced: bool = False) -> Measurement:
        assert (placement.order, placement.priorities) == (self.order, None)
        self.calls += 1
        if self.calls > self.fail_from:
            raise KeyboardInterrupt
        if placement.devices.tobytes() in self.fails:
            return Measurement(reason="no result within 1 s")
        schedule = self.simulator.schedule(placement.devices)
        seconds = 1.1 * schedule.step_time_seconds
        ops = [
            OpTimes(op.name, op.start_seconds, op.start_seconds, op.finish_seconds)
            for op in schedule.ops
        ]
        return Measurement((seconds, 5 * seconds, 0.9 * seconds), (), None, 0.3, tuple(ops))


@pytest.fixture(scope="module")
def candidates():
    return choose_placements(Problem.build(graph(), cluster()), 40, 0)


def test_rank_correlation() -> None:
    """The example of Kendall's book, ties, and what has no ranks."""
    mathematics = np.array([7, 4, 3, 10, 6, 2, 9, 8, 1, 5.0])
    music = np.array([5, 7, 3, 10, 1, 9, 6, 2, 8, 4.0])
    assert rank_correlation(mathematics, music) == pytest.approx(
        1 - 6 * ((mathematics - music) ** 2).sum() / 990
    )
    assert rank_correlation(np.array([1, 2, 2, 3.0]), np.array([1, 2, 2, 9.0])) == pytest.approx(1)
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5 of variances 4.5 and 5
    tied = rank_correlation(np.array([0, 5, 5, 7.0]), np.array([0, 6, 5, 7.0]))
    assert tied == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert np.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_placements_are_of_all_kinds(candidates) -> None:
    """As many as asked for, each once, the same for the same seed, within the constraints."""
    assert {c.kind for c in candidates} == set(fidelity.KINDS)
    assert len({tuple(c.devices) for c in candidates}) == len(candidates) == 40
    assert choose_placements(Problem.build(graph(), cluster()), 40, 0) == candidates
    few = choose_placements(Problem.build(graph(), cluster(), num_groups=2), 40, 0)
    assert len({tuple(c.devices) for c in few}) == len(few) <= 9


def test_all_placements_fit() -> None:
    """In the simulator, which would not predict a step time otherwise."""
    tight = cluster(memory_bytes=7e6)
    found = choose_placements(Problem.build(graph(), tight), 30, 0)
    devices = np.array([candidate.devices for candidate in found], np.int32)
    assert Simulator(graph(), tight).evaluate(devices).feasible.all()
    assert {candidate.kind for candidate in found} == set(fidelity.KINDS)


def test_stopped_and_gone_on_with(tmp_path, candidates) -> None:
    """What was measured is not measured again, and the end is the same."""
    evaluator, folder = FakeEvaluator(), FidelityFolder(tmp_path / "run")
    folder.begin(CONFIG)
    some = folder.candidates(lambda: list(candidates[:12]))
    evaluator.fail_from = 15
    with pytest.raises(KeyboardInterrupt):
        measure_all(evaluator, cluster(), some, folder, 0, lambda row: None)
    with (folder.path / "measurements.jsonl").open("ab") as file:
        file.write(b'{"round": 1, "pla')
    folder.begin(CONFIG)
    evaluator, seen = FakeEvaluator(), []
    evaluator.fails = {np.array(some[3].devices, np.int32).tobytes()}
    measure_all(evaluator, cluster(), some, folder, 0, seen.append)
    assert len(seen) == evaluator.calls == 24 - 15
    assert len(folder.repetitions()) == 24
    for change in ({"placements": 13}, {"order": "priority"}, {"cluster": cluster().fingerprint}):
        with pytest.raises(UsageError, match="was asked otherwise"):
            folder.begin(msgspec.structs.replace(CONFIG, **change))
    (folder.path / "measurements.jsonl").write_text("{}\n")
    with pytest.raises(FormatError, match=r"measurements.jsonl:1: .*round"):
        folder.repetitions()


def test_misses_that_are_none(tmp_path) -> None:
    """The message names the file."""
    folder = FidelityFolder(tmp_path)
    for content in ("{", "{}", '[{"placement": 1}]'):
        (tmp_path / "misses.json").write_text(content)
        with pytest.raises(FormatError, match=r"misses\.json: "):
            folder.misses(list)


def test_a_folder_in_which_nothing_was_done_takes_another_question(tmp_path) -> None:
    """As where the workers that were named first could not be reached."""
    folder = FidelityFolder(tmp_path / "run")
    folder.begin(CONFIG)
    other = msgspec.structs.replace(CONFIG, placements=13)
    folder.begin(other)
    (folder.path / "measurements.jsonl").touch()
    folder.begin(other)
    with pytest.raises(UsageError, match="was asked otherwise"):
        folder.begin(CONFIG)


@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_the_figures(tmp_path, candidates, order) -> None:
    """Measured 10% longer: ranks agree, errors are 1/1.1 - 1; what failed is counted."""
    evaluator, folder = FakeEvaluator(order), FidelityFolder(tmp_path / "run")
    evaluator.fails = {np.array(candidates[3].devices, np.int32).tobytes()}
    config = msgspec.structs.replace(CONFIG, order=order)
    folder.begin(config)
    measure_all(evaluator, cluster(), candidates, folder, 0, lambda row: None)
    comparison = compare(evaluator.simulator, candidates, folder.repetitions())
    explained = fidelity.explain_misses(evaluator, evaluator.simulator, candidates, comparison, 2)
    result = folder.write(config, comparison, folder.misses(lambda: explained))
    assert result["order"] == order
    alone = result["links_timed_alone"]
    assert alone["spearman"] == pytest.approx(1)
    assert result["noise_ceiling"] == pytest.approx(1)
    assert alone["median_error"] == pytest.approx(1 - 1 / 1.1)
    assert result["median_error"] <= alone["median_error"]
    assert (result["placements"], result["failed"], result["busy_measurements"]) == (39, 1, 78)
    assert result["spread"] == pytest.approx(comparison.measured.max() / comparison.measured.min())
    assert len(result["misses"]) == 2
    for miss in result["misses"]:  # ops ran as long as simulated, so nothing explains it
        assert all(
            d["measured_seconds"] == pytest.approx(d["predicted_seconds"]) for d in miss["ops"]
        )
    assert json.loads((folder.path / "fidelity.json").read_text()) == result
    assert len((folder.path / "fidelity.csv").read_text().splitlines()) == 40
    assert (folder.path / "fidelity.png").stat().st_size > 5000


def test_links_are_fitted_to_other_placements(candidates) -> None:
    """Where links are slower in steps than alone, that is found out; no step predicts itself."""
    alone = Simulator(graph(), cluster())
    slower = tuple(
        replace(link, latency_seconds=8 * link.latency_seconds, bandwidth=link.bandwidth / 64)
        for link in cluster().links
    )
    devices = np.array([candidate.devices for candidate in candidates], np.int32)
    measured = Simulator(graph(), Cluster("slower", cluster().devices, slower)).evaluate(devices)
    predicted = predict(alone, devices, measured.step_time_seconds)
    assert np.median(np.abs(predicted / measured.step_time_seconds - 1)) < 0.01
    outlier = measured.step_time_seconds.copy()
    outlier[0] *= 100
    again = predict(alone, devices, outlier)
    others = np.arange(len(devices)) % 5 == 0  # predicted without the outlier, as it is of them
    np.testing.assert_array_equal(again[others], predicted[others])


def test_halves_that_disagree() -> None:
    """The ceiling is of the halves, not of the predictions."""
    rounds = {0: [1.0, 2.0, 3.0], 1: [3.0, 2.0, 1.0]}
    rows = {
        (number, i): Repetition(number, i, (s, s, 9.0))
        for number, of_round in rounds.items()
        for i, s in enumerate(of_round)
    }
    candidates = choose_placements(Problem.build(graph(), cluster()), 3, 0)
    figures = compare(Simulator(graph(), cluster()), candidates, rows).figures()
    assert figures["noise_ceiling"] == -1
    assert figures["spread"] == 1.5, "medians of all steps are 3, 2 and 3"
    with pytest.raises(PlacerError, match="1 placements ran; expected two or more: killed"):
        killed = {key: Repetition(*key, (), "killed") for key in rows if key[1]}
        compare(Simulator(graph(), cluster()), candidates, rows | killed)


def test_what_explains_a_miss() -> None:
    """An op that ran longer, and a tensor that came later, by as much as they did."""
    devices = np.zeros(graph().num_ops, np.int32)
    devices[graph().op_index["a1"] :] = 1
    schedule = Simulator(graph(), cluster()).schedule(devices)
    assert any(sent.tensor == "a0:0" for sent in schedule.transfers)
    late, slow = 0.5, 0.25
    arrivals = {s.tensor: s.finish_seconds for s in schedule.transfers}

    def ran(op: ScheduledOp) -> OpTimes:
        ready = arrivals["a0:0"] + late if op.name == "a1" else op.start_seconds
        return OpTimes(
            op.name, ready, op.start_seconds, op.finish_seconds + slow * (op.name == "b2")
        )

    trace = [*map(ran, schedule.ops), OpTimes("_SOURCE", 0, 0, 0)]
    miss = misses.explain(graph(), schedule, trace)
    assert (miss.ops[0].name, miss.types[0].name) == ("b2", "MatMul")
    assert miss.ops[0].excess_seconds == pytest.approx(slow)
    assert miss.types[0].excess_seconds == pytest.approx(slow)
    assert (miss.transfers[0].name, miss.transfers[0].where) == ("a0:0", "cpu:0 -> gpu:0")
    assert miss.transfers[0].excess_seconds == pytest.approx(late)
