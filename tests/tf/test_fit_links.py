"""Links are fitted to steps."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from placer.cluster import Cluster
from placer.errors import PlacementError, UsageError
from placer.simulator import Simulator
from placer.tf import fit_links
from tests.experiments.builders import cluster as fast_links
from tests.experiments.builders import graph


def cluster() -> Cluster:
    """With links that matter: a tensor takes some milliseconds, an op one to ten."""
    links = tuple(replace(link, bandwidth=2e7, latency_seconds=1e-3) for link in fast_links().links)
    return Cluster("chains", fast_links().devices, links)


@pytest.fixture(scope="module")
def placements():
    rng = np.random.default_rng(0)
    return rng.integers(cluster().num_devices, size=(30, graph().num_ops))


def slower(channel: str) -> Cluster:
    links = tuple(
        replace(
            link,
            latency_seconds=2.0**2.5 * link.latency_seconds,
            bandwidth=link.bandwidth / 2.0**3.25,
            channel=channel,
        )
        for link in cluster().links
    )
    return Cluster("slower", cluster().devices, links)


@pytest.mark.parametrize("channel", ["pair", "unordered"])
def test_figures_are_found_again(placements, channel) -> None:
    """From step times that other links gave, between the points of the first grid."""
    step_seconds = Simulator(graph(), slower(channel)).evaluate(placements).step_time_seconds
    fitted = fit_links(graph(), cluster(), placements, step_seconds)
    simulated = Simulator(graph(), fitted).evaluate(placements).step_time_seconds
    np.testing.assert_allclose(simulated, step_seconds, rtol=0.05)
    unfitted = Simulator(graph(), cluster()).evaluate(placements).step_time_seconds
    assert np.median(step_seconds / unfitted) > 2
    assert {link.channel for link in fitted.links} == {channel}
    assert fitted.devices == cluster().devices


def test_links_that_are_right_stay(placements) -> None:
    """And memory is no matter, as what was measured had enough."""
    where = cluster()
    tight = Cluster(
        "tight", tuple(replace(d, memory_bytes=1.0) for d in where.devices), where.links
    )
    step_seconds = Simulator(graph(), where).evaluate(placements).step_time_seconds
    assert fit_links(graph(), tight, placements, step_seconds) == tight


def test_bad_input(placements) -> None:
    """Counts that differ, no placement, and times that are none."""
    with pytest.raises(UsageError, match=r"30 placements and step times of shape \(2,\)"):
        fit_links(graph(), cluster(), placements, [1.0, 2.0])
    with pytest.raises(UsageError, match=r"0 placements and step times of shape \(0,\)"):
        fit_links(graph(), cluster(), placements[:0], [])
    with pytest.raises(UsageError, match="not a positive number of seconds"):
        fit_links(graph(), cluster(), placements, np.zeros(30))
    with pytest.raises(PlacementError, match="has shape"):
        fit_links(graph(), cluster(), [[0]], [1.0])
