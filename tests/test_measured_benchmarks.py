"""What the benchmarks that measure TensorFlow conclude from step times, here made up."""

from __future__ import annotations

import pytest

from placer.tf import Measurement
from tests.benchmarks import fidelity, measured

RESULT = {
    "placements": 200,
    "least_seconds": 0.1,
    "greatest_seconds": 0.2,
    "spread": 2.0,
    "spearman": 0.93,
    "noise_ceiling": 0.97,
    "median_error": 0.12,
    "links_timed_alone": {"spearman": 0.8, "median_error": 0.4, "median_ratio": 0.6},
    "median_ratio": 0.9,
    "busy_measurements": 0,
    "misses": [],
}


def times(*seconds: float, others_share: float = 0.0) -> list[Measurement]:
    return [Measurement((s, s, s), (), None, others_share) for s in seconds]


@pytest.mark.parametrize(
    ("learned", "others_share", "verdict"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 0.0, "ok"),
        ((1.0, 1.9, 1.0, 1.0, 1.0), 0.0, "ok"),
        ((1.0, 1.9, 1.0, 1.9, 1.0), 0.0, "MISS"),
        ((1.0, 1.0, 1.0, 1.0, 1.0), 0.3, "-"),
    ],
)
def test_four_of_five_repetitions_decide(learned, others_share, verdict) -> None:
    """Against the best device alone of the same repetition; not where the machine was busy."""
    found = {
        "learned": times(*learned, others_share=others_share),
        "a alone": times(2.0, 2.0, 9.0, 2.0, 2.0),
        "b alone": times(3.0, 3.0, 1.5, 3.0, 3.0),
    }
    setting = measured.Setting("equal", (1.0, 1.0), 1.4)
    criterion = measured.judge(setting, found)
    assert criterion.verdict() == verdict
    assert "2.00x" in criterion.measured
    assert ("too busy to tell in 5 of 15" in criterion.measured) == (verdict == "-")
    assert len(measured.times_table(setting, found).rows) == 15


@pytest.mark.parametrize(
    ("change", "verdicts"),
    [
        ({}, ["ok", "ok"]),
        ({"spearman": 0.91}, ["MISS", "ok"]),
        ({"median_error": 0.16}, ["ok", "MISS"]),
        ({"spread": 1.2, "spearman": 0.1}, ["-", "-"]),
        ({"busy_measurements": 1}, ["-", "-"]),
        ({"spearman": None}, ["MISS", "ok"]),
    ],
)
def test_fidelity_is_judged(change, verdicts) -> None:
    """Against the ceiling, where step times depend on placement and the machine was quiet."""
    report = fidelity.report({"nmt, equal": RESULT | change})
    assert [criterion.verdict() for criterion in report.criteria] == verdicts
    assert "| nmt, equal | 200 | 100.0 to 200.0 |" in report.markdown()


def test_a_command_that_fails_ends_the_benchmark(capsys) -> None:
    """What comes after it needs what it makes."""
    with pytest.raises(SystemExit) as ended:
        measured.call(["inspect"])
    assert ended.value.code == 2
    assert "nothing to inspect" in capsys.readouterr().err


def test_all_subjects_have_their_sizes() -> None:
    from experiments.workloads import get_workload

    for subject in fidelity.SUBJECTS:
        assert set(subject.sizes) <= set(get_workload(subject.workload).sizes)
        words = fidelity.command(subject, measured.SETTINGS[1], 200, fidelity.PAGE)
        assert "1.0,0.5" in words
