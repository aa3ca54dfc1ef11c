"""The benchmark of annealing runs on small graphs; nothing is timed here."""

from __future__ import annotations

import pytest

from tests.benchmarks import annealing as benchmark


def test_both_ways_accept_the_same_moves(capsys: pytest.CaptureFixture[str]) -> None:
    """Every run of both finds the same, and each family has its rows."""
    report = benchmark.annealing(benchmark.Scale(200, (2,), evaluations=60, seeds=1))
    (table,) = report.tables
    assert len(table.rows) == len(benchmark.MODELS) * len(benchmark.KINDS)
    (equal,) = (criterion for criterion in report.criteria if "accepted" in criterion.text)
    assert equal.holds
    assert equal.measured == "12 of 12 runs are equal"


def test_the_page_has_a_place_for_the_figures() -> None:
    """Rewriting it with other figures replaces what is between the marks."""
    report = benchmark.Report("annealing", [benchmark.Criterion("must", "1.0x", True)], [])
    page = benchmark.rewrite(benchmark.PAGE.read_text(), [report])
    assert "| must | 1.0x | ok |" in page
    assert benchmark.rewrite(page, [report]) == page
