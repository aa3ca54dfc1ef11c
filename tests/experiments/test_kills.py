"""A real process that is really killed, and a run that ends as if it had never been."""

from __future__ import annotations

import numpy as np

from tests.benchmarks import kills as benchmark


def test_killed_three_times_and_resumed(run, tmp_path) -> None:
    """At random points; metrics, events and placement are those of the run left alone."""
    arguments = [*run.inputs, "--groups", "6", "--evaluations", "800"]
    report = benchmark.kills(arguments, 3, seed=2, alone=run.folder, killed=tmp_path / "killed")
    (criterion,) = report.criteria
    assert criterion.holds, criterion.measured
    assert len(report.tables[0].rows) == 3


def test_points_are_drawn_from_the_seed() -> None:
    """Rows never go back, so that every session but those killed at the start gets further."""
    points = benchmark.draw_points(20, 100, 0.1, np.random.default_rng(1))
    assert points == benchmark.draw_points(20, 100, 0.1, np.random.default_rng(1))
    assert points != benchmark.draw_points(20, 100, 0.1, np.random.default_rng(2))
    rows = [point.row for point in points if point.row]
    assert rows == sorted(rows)
    assert 0 < len(rows) < 20
    assert all(row <= 97 for row in rows)
    assert {point.between_seconds for point in points} == {0.0, 1.0}
