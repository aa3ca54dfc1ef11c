"""Coarsening: units joined to at most so many by METIS."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer._units import Units, label_edges
from placer.errors import UsageError

_METIS_SEED = 0
_MOST_TOTAL_WEIGHT = 5e8  # METIS adds weights in 32 bits
_STDOUT = 1  # of compiled code
_ONE_AT_A_TIME = threading.Lock()  # the descriptor is the whole process's


def partition(
    num_parts: int,
    work: NDArray[np.float64],
    edges: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.float64]],
    shares: NDArray[np.float64] | None = None,
) -> NDArray[np.int32]:
    """Splits a graph so that little weight is cut and the work is balanced.

    By METIS' multilevel k-way partitioning (Karypis and Kumar, SIAM J. Sci. Comput. 1998).

    Args:
        num_parts: How many parts; some may come out empty.
        work: Work of each vertex, ``[num_vertices]``.
        edges: Two ends and a weight of each edge, ``[num_edges]`` each; the direction is ignored.
        shares: The share of the work that each part should have, ``[num_parts]``; None for equal.

    Returns:
        Part of each vertex, ``[num_vertices]``.
    """
    import pymetis

    num_vertices = len(work)
    if num_parts == 1 or num_vertices == 1:
        return np.zeros(num_vertices, np.int32)
    sources, targets, weights = edges
    ends = np.concatenate([sources, targets]).astype(np.int64)
    others = np.concatenate([targets, sources])
    pairs, inverse = np.unique(ends * num_vertices + others, return_inverse=True)
    pair_weights = np.bincount(inverse, np.concatenate([weights, weights]), len(pairs)).astype(
        float
    )
    ends, others = np.divmod(pairs, num_vertices)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=num_vertices))])
    with _silence():
        _, parts = pymetis.part_graph(
            num_parts,
            pymetis.CSRAdjacency(offsets.tolist(), others.tolist()),
            vweights=_whole(_fair(work, num_parts)).tolist(),
            eweights=_whole(pair_weights).tolist(),
            tpwgts=None if shares is None else shares.tolist(),
            recursive=False,
            options=pymetis.Options(seed=_METIS_SEED),
        )
    return np.array(parts, np.int32)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drops what compiled code prints meanwhile.

    METIS prints, whatever its options, where a part comes out empty, as one with a tiny share must;
    among the JSON of a command it would be an error.
    """
    with _ONE_AT_A_TIME:
        try:
            kept = os.dup(_STDOUT)
        except OSError:  # closed: nothing can be printed
            yield
            return
        flush = ctypes.CDLL(None).fflush if os.name == "posix" else lambda _: None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            flush(None)  # what was printed before is no part of it
            os.dup2(nowhere, _STDOUT)
            yield
        finally:
            flush(None)  # or it would be printed later, after all
            os.dup2(kept, _STDOUT)
            os.close(nowhere)
            os.close(kept)


def coarsen(units: Units, most: int) -> None:
    """Joins units until at most `most` are left.

    Units are partitioned apart by the device kinds that can run them, so that none loses any;
    only where there are more such classes than groups may a class lose kinds.

    Raises:
        UsageError: The device kinds of the ops need more than `most` groups.
    """
    classes = _kind_classes(units, most)
    producers, consumers, weights = label_edges(units.graph, units.labels())
    vertex = np.full(units.graph.num_ops, -1, np.int64)
    for members, num_parts in zip(classes, _allot(units, classes, most), strict=True):
        if num_parts >= len(members):
            continue
        vertex[members] = np.arange(len(members))
        inside = (vertex[producers] >= 0) & (vertex[consumers] >= 0)
        parts = partition(
            num_parts,
            np.array([units.work[unit] for unit in members]),
            (vertex[producers[inside]], vertex[consumers[inside]], weights[inside]),
        )
        vertex[members] = -1
        first: dict[int, int] = {}
        for unit, part in zip(members, parts.tolist(), strict=True):
            units.join(first.setdefault(part, unit), unit)


def _kind_classes(units: Units, most: int) -> list[list[int]]:
    """The units by the device kinds that can run them, in at most `most` classes."""
    classes: dict[int, list[int]] = {}
    for unit in units.roots():
        classes.setdefault(units.kinds[unit], []).append(unit)
    while len(classes) > most:
        compatible = [
            (sum(units.work[u] for u in classes[a] + classes[b]), a, b)
            for a in classes
            for b in classes
            if a < b and a & b
        ]
        if not compatible:
            raise UsageError(
                f"num_groups is {most}; expected at least {len(classes)}: so many classes of ops "
                f"of graph {units.graph.name!r} are left whose device kinds exclude each other"
            )
        _, a, b = min(compatible)
        joined = classes.pop(a) + classes.pop(b)
        classes[a & b] = sorted(classes.get(a & b, []) + joined)
    return list(classes.values())


def _allot(units: Units, classes: list[list[int]], most: int) -> list[int]:
    """How many groups each class gets: by its work, at least one, at most one per unit."""
    work = [sum(units.work[unit] for unit in members) for members in classes]
    allotted = [1] * len(classes)
    for _ in range(most - len(classes)):
        open_classes = [i for i, members in enumerate(classes) if allotted[i] < len(members)]
        if not open_classes:
            break
        allotted[max(open_classes, key=lambda i: (work[i] / allotted[i], -i))] += 1
    return allotted


def _fair(work: NDArray[np.float64], num_parts: int) -> NDArray[np.float64]:
    """The work of vertices, none above a part's fair share of the sum.

    With heavier ones METIS leaves parts empty and balances badly.
    """
    if len(work) <= num_parts:
        return np.ones(len(work))
    ascending = np.sort(work)
    heaviest = ascending[::-1][:num_parts]
    # what the others would have each, if each heavier one had a part to itself
    limits = np.cumsum(ascending)[::-1][:num_parts] / np.arange(num_parts, 0, -1)
    fair: NDArray[np.float64] = np.minimum(work, limits[np.argmax(heaviest <= limits)])
    return fair


def _whole(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Weights as whole numbers of at least 1, their ratios kept as far as METIS can hold them."""
    if len(weights) == 0:
        return np.zeros(0, np.int64)
    total = float(weights.sum())
    scale = _MOST_TOTAL_WEIGHT / total if total > 0 else 1.0
    return np.maximum(1, np.rint(weights * scale)).astype(np.int64)
