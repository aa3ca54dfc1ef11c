"""Grouping: what holds for any graph, for large ones, and for the bundled ones."""

from __future__ import annotations

import ctypes
import doctest
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from placer import _scopes
from placer._coarsen import partition
from placer._scopes import scope_of, stem_of
from placer._units import label_edges
from placer.errors import GraphError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.grouping import DEFAULT_NUM_GROUPS, OpGroups, group_ops
from tests.strategies import graphs


def _group_or_skip(graph: OpGraph, num_groups: int | None) -> OpGroups:
    try:
        return group_ops(graph, num_groups)
    except (GraphError, UsageError):  # device kinds that exclude each other
        assume(False)
        raise


@given(graphs(constraints=True), st.none() | st.integers(1, 12))
def test_groups_keep_every_constraint(graph: OpGraph, num_groups: int | None) -> None:
    """At most so many groups, numbered topologically; colocation whole; a device kind for all."""
    groups = _group_or_skip(graph, num_groups)
    assert groups.num_groups <= (num_groups or DEFAULT_NUM_GROUPS)
    first_seen = list(dict.fromkeys(groups.group_of_op[graph.topological_order].tolist()))
    assert first_seen == list(range(groups.num_groups))
    assert len(set(groups.names)) == groups.num_groups
    for colocation in range(len(graph.colocation_names)):
        assert len(set(groups.group_of_op[graph.colocation_group == colocation])) == 1
    for ops in groups.ops_of_group:
        kinds = {"cpu", "gpu"}
        for op in ops.tolist():
            kinds &= set(graph.device_kinds[op] or kinds)
        assert kinds
    again = group_ops(graph, num_groups)
    assert np.array_equal(again.group_of_op, groups.group_of_op)
    assert again.names == groups.names


@given(graphs(constraints=True))
def test_explain_counts_the_ops_of_the_group(graph: OpGraph) -> None:
    """The last rule that joined an op leaves it in a unit of its group's size."""
    groups = _group_or_skip(graph, None)
    sizes = Counter(groups.group_of_op.tolist())
    for op in range(graph.num_ops):
        size = sizes[int(groups.group_of_op[op])]
        last = groups.explain(op).splitlines()[-1]
        assert last.endswith(f"now {size} ops" if size > 1 else "no rule joined it with another op")


@given(graphs(), st.data(), st.booleans())
def test_edges_between_sets_equal_those_counted_one_by_one(
    graph: OpGraph, data: st.DataObject, control: bool
) -> None:
    """A tensor counts once per set that reads it, a control edge for one byte."""
    label = st.integers(0, graph.num_ops - 1)
    labels = np.array(data.draw(st.lists(label, min_size=graph.num_ops, max_size=graph.num_ops)))
    expected: dict[tuple[int, int], float] = {}
    seen: set[tuple[int, int, int]] = set()
    for producer, consumer, tensor in zip(*(e.tolist() for e in graph.edges), strict=True):
        pair = int(labels[producer]), int(labels[consumer])
        if pair[0] == pair[1] or (*pair, tensor) in seen or (tensor < 0 and not control):
            continue
        seen.add((*pair, tensor))
        size = graph.tensor_bytes[tensor] if tensor >= 0 else 0.0
        expected[pair] = expected.get(pair, 0.0) + size + 1.0
    sources, targets, weights = label_edges(graph, labels.astype(np.int32), control=control)
    pairs = list(zip(sources.tolist(), targets.tolist(), strict=True))
    assert pairs == sorted(expected)
    assert weights.tolist() == [expected[pair] for pair in pairs]


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("x", ""),
        ("lstm_0/step_3/MatMul", "lstm_0/step_3"),
        ("gradient_tape/lstm_0/step_3/MatMul/MatMul_1", "lstm_0/step_3/MatMul"),
        ("gradients/lstm_0/MatMul_grad/MatMul", "lstm_0/MatMul"),
    ],
)
def test_scope_of_a_gradient_is_that_of_its_op(name: str, scope: str) -> None:
    """Scopes of gradient tapes, old and new, are looked through."""
    assert scope_of(name) == scope


def test_docstrings_of_scopes_are_true() -> None:
    """Their examples run."""
    assert doctest.testmod(_scopes).failed == 0


def test_stems_are_what_numbered_siblings_share() -> None:
    """A scope without a number has none."""
    assert stem_of("a/step_12") == stem_of("a/step_3") == "a/step"
    assert stem_of("mixed5") == "mixed"
    assert stem_of("a/step") is None


def test_partition_holds_weights_far_apart() -> None:
    """Bytes of 64-bit size and tiny work neither overflow nor vanish."""
    edges = (
        np.array([0, 1, 2], np.int32),
        np.array([1, 2, 3], np.int32),
        np.array([1e15, 1.0, 1e15]),
    )
    parts = partition(2, np.array([1e-9, 1e-9, 1e-9, 1e-9]), edges)
    assert parts[0] == parts[1] != parts[2] == parts[3]


def test_partition_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """METIS prints warnings for parts that come out empty; uneven work must not cause them."""
    rng = np.random.default_rng(0)
    for num_vertices, num_parts in [(40, 19), (178, 162), (370, 103), (92, 54), (86, 8)]:
        ends = np.arange(num_vertices - 1, dtype=np.int32)
        weights = np.exp(rng.normal(0, 4, num_vertices - 1))
        work = np.exp(rng.normal(0, 2, num_vertices))
        parts = partition(num_parts, work, (ends, ends + 1, weights))
        assert len(set(parts.tolist())) >= 0.8 * num_parts
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("num_vertices", [3, 5, 13])
def test_nor_where_parts_have_unlike_shares(
    num_vertices: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Parts that must come out empty are no news; what is printed before and after is kept."""
    rng = np.random.default_rng(0)
    libc = ctypes.CDLL(None)
    libc.printf(b"before\n")
    for _ in range(40):
        shares = rng.choice([1.0, 20.0], 5)
        ends = np.arange(num_vertices - 1, dtype=np.int32)
        work = rng.choice([1e-9, 1e-3, 1.0], num_vertices)
        edges = (ends, ends + 1, np.ones(num_vertices - 1))
        partition(5, work, edges, shares / shares.sum())
    libc.printf(b"after\n")
    libc.fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"


def test_partition_gives_shares_of_the_work() -> None:
    """A part with a third of the share gets about a third of the work."""
    n = 300
    edges = (np.arange(n - 1, dtype=np.int32), np.arange(1, n, dtype=np.int32), np.ones(n - 1))
    parts = partition(2, np.ones(n), edges, np.array([0.25, 0.75]))
    assert 0.2 <= (parts == 0).mean() <= 0.3


def test_a_hundred_thousand_ops_are_grouped_in_seconds() -> None:
    """The rules and METIS scale: under 15 s even on a busy machine (1 s on an idle one)."""
    num_ops = 100_000
    rng = np.random.default_rng(0)
    before = np.maximum(0, np.arange(num_ops)[:, None] - rng.integers(1, 50, (num_ops, 2)))
    figures = rng.integers(1, 10**6, (num_ops, 2)).astype(float).tolist()
    ops = [
        Op(
            f"op{i}",
            "Op",
            tuple(f"op{j}" for j in inputs) if i else (),
            flops=flops * 1000,
            outputs=(Output(size),),
        )
        for i, (inputs, (flops, size)) in enumerate(zip(before.tolist(), figures, strict=True))
    ]
    graph = OpGraph.from_ops("large", ops)
    began = time.perf_counter()
    groups = group_ops(graph, 100)
    assert time.perf_counter() - began < 15
    assert 50 <= groups.num_groups <= 100


def test_bundled_graphs_have_groups_in_the_paper_s_order_of_size() -> None:
    """Inception-V3 has fewer groups than RNNLM, and that fewer than NMT (83, 188 and 280 there)."""
    counts = [group_ops(OpGraph.load(n)).num_groups for n in ("inception_v3", "rnnlm", "nmt")]
    assert 40 < counts[0] < counts[1] < counts[2] <= DEFAULT_NUM_GROUPS
