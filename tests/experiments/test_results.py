"""The page of results: every method in every setting, and what the paper has beside it."""

from __future__ import annotations

import msgspec
import pytest

from experiments import comparison, results
from experiments.comparison import Comparison, Journal, MethodSummary, summarize
from placer.cluster import preset_clusters
from placer.graph import bundled_graphs
from tests.experiments.builders import cluster, graph


@pytest.fixture(scope="module")
def summaries() -> list[MethodSummary]:
    """Two methods in both orders."""
    methods = ("single_device", "expert", "random")
    asked = Comparison([graph()], [cluster()], methods, (60,), 2, ("fifo", "priority"))
    return summarize(asked.sort(comparison.compare(asked, Journal())))


def test_every_method_has_a_row(summaries) -> None:
    """Both orders side by side; as many cells as the header has."""
    text = results.page(summaries)
    lines = text[text.index("### `chains` on `pair`") :].splitlines()
    assert lines[2].startswith("No placement takes less than ")
    rows = {line.split("|")[1].strip(): line for line in lines[6:] if line}
    assert list(rows) == ["`single_device`", "`expert`", "`random`"]
    assert {line.count("|") for line in lines[4:] if line} == {11}
    assert text.count("**") % 2 == 0
    assert "none found" in rows["`expert`"]


def test_the_overview_is_over_all_settings(summaries) -> None:
    """A geometric mean of speedups, and who is best; a method that found nothing has neither."""
    medians = {(row.method, row.order): row.median_seconds for row in summaries}
    elsewhere = [
        msgspec.structs.replace(
            row,
            workload="other",
            median_seconds=row.median_seconds * (4 if row.method == "random" else 1),
        )
        for row in summaries
    ]
    lines = results._overview([*summaries, *elsewhere]).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines[2:]}
    assert [cell.strip() for cell in cells["`expert`"]] == ["-", "0", "-", "0"]
    for number, order in enumerate(("fifo", "priority")):
        single, random = medians["single_device", order], medians["random", order]
        speedup, best = cells["`random`"][2 * number :][:2]
        assert speedup.strip() == f"{single / random / 2:.2f}x"
        assert int(best) == (random <= single) + (4 * random <= single)
        assert cells["`single_device`"][2 * number].strip() == "1.00x"


def test_ratios_by_hand() -> None:
    """4.99 s over 4.04 s; without one GPU's, no ratio to it."""
    assert results._figures(None, 4.99, 4.04) == ["-", "4.99 s", "4.04 s", "1.24x", "-"]
    assert results._figures(1.57, 3.81, 1.57) == ["1.57 s", "3.81 s", "1.57 s", "2.43x", "1.00x"]
    assert results._figures(2.0, 1.0, float("nan"))[3:] == ["-", "-"]


def test_what_is_published_can_be_compared() -> None:
    """Each row names a graph and a cluster of ours that the page has, and only faster placements."""
    for row in results.PUBLISHED:
        assert row.workload in bundled_graphs()
        assert row.cluster in results.CLUSTERS
        assert row.learned <= row.expert
    assert set(results.CLUSTERS) <= set(preset_clusters())
    assert results.PICTURED in results.CLUSTERS
