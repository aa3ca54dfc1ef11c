"""Cluster: links, channels, file format, presets and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from placer.cluster import Cluster, Device, Efficiency, Link, preset_clusters
from placer.costs import op_seconds
from placer.errors import ClusterError, FormatError, PlacerError, UnknownNameError
from placer.graph import Op, OpGraph


def _devices(*names: str) -> tuple[Device, ...]:
    return tuple(
        Device(name, "gpu", memory_bytes=1e9, flops=1e12, memory_bandwidth=1e11) for name in names
    )


def test_channel_models() -> None:
    """Pairs, unordered pairs, sources, a bus and no contention give the channels they say."""
    abc = ("a", "b", "c")

    def ids(channel: str) -> np.ndarray:
        return Cluster("c", _devices(*abc), (Link(abc, 1.0, channel=channel),)).channel_ids

    off_diagonal = ~np.eye(3, dtype=bool)
    assert len(set(ids("pair")[off_diagonal])) == 6
    assert np.array_equal(ids("unordered"), ids("unordered").T)
    assert len(set(ids("unordered")[off_diagonal])) == 3
    assert all(len(set(row[row >= 0])) == 1 for row in ids("source"))
    assert len(set(ids("source")[off_diagonal])) == 3
    assert set(ids("bus")[off_diagonal]) == {0}
    assert set(ids("none").ravel()) == {-1}


def test_links_give_both_directions_their_figures() -> None:
    """Bandwidth and latency hold for each ordered pair; the diagonal costs nothing."""
    cluster = Cluster("c", _devices("a", "b"), (Link(("a", "b"), 5.0, 0.25),))
    assert cluster.bandwidth.tolist() == [[np.inf, 5], [5, np.inf]]
    assert cluster.latency_seconds.tolist() == [[0, 0.25], [0.25, 0]]


def test_shared_words_are_one_channel_across_links() -> None:
    """Two links that say the same word queue on one channel."""
    links = (
        Link(("a", "b"), 1.0, channel="nic"),
        Link(("a", "c"), 1.0, channel="nic"),
        Link(("b", "c"), 1.0, channel="other"),
    )
    cluster = Cluster("c", _devices("a", "b", "c"), links)
    assert cluster.channel_names == ("nic", "other")


def test_a_word_that_reads_like_another_channel_is_a_channel_of_its_own() -> None:
    """Neither a user's word nor the names of devices join channels that have nothing in common."""
    links = (
        Link(("a", "b"), 1.0),
        Link(("a", "c"), 1.0, channel="a -> b"),
        Link(("b", "c"), 1.0, channel="none"),
    )
    ids = Cluster("c", _devices("a", "b", "c"), links).channel_ids
    assert ids[0, 2] == ids[2, 0] != ids[0, 1] != ids[1, 0]
    names = ("a", "a -> b", "b -> c", "c")
    ids = Cluster("c", _devices(*names), (Link(names, 1.0),)).channel_ids
    assert len(set(ids[ids >= 0])) == 12


@pytest.mark.parametrize("number", [int, float, np.float64, np.int64])
def test_numbers_of_any_type_are_those_of_the_file(number: type) -> None:
    """The file can be written, and has the fingerprint of the cluster that it comes from."""
    some = {"memory_bytes": number(16), "flops": number(8), "op_overhead_seconds": number(0)}
    reached = (Efficiency("matmul", number(1), 0.5), Efficiency("conv", number(2)))
    slots = np.int32(2) if number is np.int64 else 2
    devices = tuple(Device(n, "gpu", **some, slots=slots, efficiency=reached) for n in ("a", "b"))
    cluster = Cluster("c", devices, (Link(("a", "b"), number(4), number(0)),))
    again = Cluster.from_toml(cluster.to_toml())
    assert again == cluster
    assert again.fingerprint == cluster.fingerprint
    given = cluster.to_toml().replace(b"bandwidth = 4", b"latency_seconds = 0.0\nbandwidth = 4")
    assert given != cluster.to_toml()
    assert Cluster.from_toml(given).fingerprint == cluster.fingerprint


def test_the_fingerprint_tells_a_word_from_a_channel_that_reads_like_it() -> None:
    """They make other schedules."""

    def fingerprint(channel: str) -> str:
        links = (
            Link(("a", "b"), 1.0, channel=channel),
            Link(("a", "c"), 1.0, channel="a -- b"),
            Link(("b", "c"), 1.0),
        )
        return Cluster("c", _devices("a", "b", "c"), links).fingerprint

    assert fingerprint("unordered") != fingerprint("a -- b")


@pytest.mark.parametrize(
    ("devices", "links", "message"),
    [
        ((), (), "cluster 'c' has no devices; expected at least one"),
        (_devices("a", "a"), (), "device name 'a' is given twice"),
        (_devices("a", "b"), (), "no link from 'a' to 'b'"),
        (
            _devices("a", "b"),
            (Link(("a", "b"), 1.0), Link(("b", "a"), 1.0)),
            "devices 'b' and 'a' have two links",
        ),
        (_devices("a", "b"), (Link(("a", "z"), 1.0),), "unknown device 'z'"),
        (_devices("a", "b"), (Link(("a",), 1.0),), "expected two or more different devices"),
        (_devices("a", "b"), (Link(("a", "b"), 0.0),), "bandwidth is 0.0; expected a number > 0"),
        (_devices("a", "b"), (Link(("a", "b"), 1.0, -1.0),), "latency_seconds is -1.0"),
        ((Device("a", "gpu", flops=-1),), (), "device 'a': flops is -1"),
        (
            (Device("a", "gpu", slots=0),),
            (),
            "device 'a': slots is 0; expected a whole number >= 1",
        ),
        ((Device("a", "gpu", memory_bytes=float("nan")),), (), "memory_bytes is nan"),
    ],
)
def test_bad_clusters_are_refused(devices, links, message: str) -> None:
    """Each message names what was given and what was expected."""
    with pytest.raises(ClusterError, match=message):
        Cluster("c", devices, links)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("format = ", "c.toml: not valid TOML"),
        ('name = "x"', "c.toml: no format; expected 'placer.cluster/1'"),
        ('format = "placer.cluster/1"\nname = "x"\nspeed = 1', "unknown field `speed`"),
        (
            'format = "placer.cluster/1"\nname = "x"',
            "c.toml: cluster 'x' has no devices; expected at least one",
        ),
        ("\xff\xfe", "c.toml: "),
    ],
)
def test_bad_documents_are_refused(content: str, message: str) -> None:
    """Each message says where."""
    with pytest.raises((FormatError, ClusterError), match=message):
        Cluster.from_toml(content.encode("latin-1"), "c.toml")


@pytest.mark.parametrize("name", sorted(preset_clusters()))
def test_presets_load_and_round_trip(name: str) -> None:
    """Every preset is valid, is named like its file, has a CPU first, and survives its format."""
    cluster = Cluster.load(name)
    assert cluster.name == name
    assert cluster.devices[0].kind == "cpu"
    assert Cluster.from_toml(cluster.to_toml()) == cluster
    assert all(d.memory_bytes > 0 and d.flops > 0 for d in cluster.devices)


@pytest.mark.parametrize("name", sorted(preset_clusters()))
def test_every_figure_of_a_preset_cites_its_source(name: str) -> None:
    """Each figure of a device says on its line where it comes from, each kind of link above it."""
    lines = preset_clusters()[name].read_text().splitlines()
    figures = ("memory_bytes", "flops", "memory_bandwidth", "op_overhead_seconds")
    for line in lines:
        if line.startswith(figures):
            assert "#" in line, f"no source: {line}"
    first_link = lines.index("[[links]]")
    assert lines[first_link - 1].startswith("#")


def test_unlimited_memory_is_allowed_and_kept() -> None:
    """A device may have infinite memory, also through the file format."""
    cluster = Cluster("c", (Device("a", "cpu", memory_bytes=float("inf")),))
    assert Cluster.from_toml(cluster.to_toml()).devices[0].memory_bytes == float("inf")


def test_the_fingerprint_tells_figures_and_channels_apart() -> None:
    """Another figure or channel is another cluster; another way to list the same links is not."""
    two, three = _devices("a", "b"), _devices("a", "b", "c")
    plain = Cluster("c", two, (Link(("a", "b"), 1.0),))
    assert plain.fingerprint == Cluster("other", two, (Link(("b", "a"), 1.0),)).fingerprint
    assert plain.fingerprint != Cluster("c", two, (Link(("a", "b"), 2.0),)).fingerprint
    assert plain.fingerprint != Cluster("c", two, (Link(("a", "b"), 1.0, 0, "x"),)).fingerprint
    together = Cluster("c", three, (Link(("a", "b", "c"), 1.0),))
    apart = Cluster(
        "c", three, (Link(("a", "b"), 1.0), Link(("b", "c"), 1.0), Link(("a", "c"), 1.0))
    )
    assert together.fingerprint == apart.fingerprint


def test_unknown_names_and_missing_files(tmp_path) -> None:
    """A near preset is suggested; a path that is missing is said to be."""
    with pytest.raises(UnknownNameError, match="unknown cluster 'k80x5'; did you mean 'k80x"):
        Cluster.load("k80x5")
    with pytest.raises(PlacerError, match="no such file"):
        Cluster.load(tmp_path / "c.toml")


def test_save_and_load(tmp_path) -> None:
    """A saved cluster loads again."""
    cluster = Cluster.load("p100x4")
    cluster.save(tmp_path / "c.toml")
    assert Cluster.load(tmp_path / "c.toml") == cluster


EFFICIENCY = (Efficiency("matmul", flops=0.5), Efficiency("Relu", memory_bandwidth=0.25))


def test_efficiency_slows_the_ops_it_names() -> None:
    """A type goes before its family; what is not named reaches the peaks."""
    graph = OpGraph.from_ops(
        "g",
        [
            Op("product", "MatMul", flops=1e9, bytes_accessed=1e3),
            Op("relu", "Relu", flops=1e3, bytes_accessed=1e8),
            Op("tanh", "Tanh", flops=1e3, bytes_accessed=1e8),
            Op("known", "Relu", bytes_accessed=1e8, seconds={"gpu": 3.0}),
            Op("nothing", "Relu"),
        ],
    )
    (plain,) = _devices("gpu:0")
    device = replace(plain, op_overhead_seconds=1e-5)
    peaks = op_seconds(graph, Cluster("c", (device,)))[:, 0]
    assert peaks == pytest.approx([1e-3 + 1e-5, 1e-3 + 1e-5, 1e-3 + 1e-5, 3.0, 0.0])
    slow = op_seconds(graph, Cluster("c", (replace(device, efficiency=EFFICIENCY),)))[:, 0]
    assert slow == pytest.approx([2e-3 + 1e-5, 4e-3 + 1e-5, 1e-3 + 1e-5, 3.0, 0.0])
    both = (*EFFICIENCY, Efficiency("MatMul", flops=0.1), Efficiency("elementwise", flops=1e-9))
    slow = op_seconds(graph, Cluster("c", (replace(device, efficiency=both),)))[:, 0]
    assert slow == pytest.approx([1e-2 + 1e-5, 4e-3 + 1e-5, 1.0 + 1e-5, 3.0, 0.0])


def test_efficiency_is_part_of_the_file_and_of_the_fingerprint(tmp_path) -> None:
    """It comes back as it went; without it, the fingerprint is that of before there was any."""
    (device,) = _devices("gpu:0")
    plain, slow = Cluster("c", (device,)), Cluster("c", (replace(device, efficiency=EFFICIENCY),))
    slow.save(tmp_path / "c.toml")
    assert Cluster.load(tmp_path / "c.toml") == slow
    assert Cluster.load(tmp_path / "c.toml").fingerprint == slow.fingerprint != plain.fingerprint
    assert Cluster.load("k80x4").fingerprint == (
        "sha256:7a1710d80c3d5f8eff1cb9085cc6ff9c5d177c77efd50e7b28f1b679b6de607c"
    )


@pytest.mark.parametrize(
    ("efficiency", "message"),
    [
        ((Efficiency("matmul", flops=0),), "'matmul' has flops 0; expected a finite number > 0"),
        ((Efficiency("a", memory_bandwidth=float("nan")),), "'a' has memory_bandwidth nan"),
        ((Efficiency("a"), Efficiency("a")), "efficiency of ops 'a'; expected one entry for each"),
        ((Efficiency(""),), "efficiency of ops ''"),
    ],
)
def test_impossible_efficiency_is_refused(efficiency, message: str) -> None:
    """Fractions that no device has, and two for the same ops."""
    (device,) = _devices("gpu:0")
    with pytest.raises(ClusterError, match=message):
        Cluster("c", (replace(device, efficiency=efficiency),))


def test_addresses_are_no_figures(tmp_path) -> None:
    """They are in the file and not in the fingerprint; all devices have one or none has."""
    plain = Cluster("c", (Device("a", "cpu"), Device("b", "cpu")), (Link(("a", "b"), 1e9),))
    listed = replace(plain.devices[0], address="h:1"), replace(plain.devices[1], address="h:2")
    there = Cluster("c", listed, plain.links)
    there.save(tmp_path / "c.toml")
    assert Cluster.load(tmp_path / "c.toml") == there
    assert (plain.addresses, there.addresses) == ((), ("h:1", "h:2"))
    assert plain.fingerprint == there.fingerprint
    with pytest.raises(ClusterError, match="device 'b' has no address but others have one"):
        _ = Cluster("c", (listed[0], plain.devices[1]), plain.links).addresses
