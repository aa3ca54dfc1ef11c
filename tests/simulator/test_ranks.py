"""Sets of ranks as bits, against Python's sets."""

from __future__ import annotations

import numpy as np
import pytest

from placer._kernels.jit import jit
from placer._kernels.ranks import add_rank, take_least_rank
from placer._tables import num_words


@jit
def _sort_by_set(words, num_ranks, ranks, keep, taken):
    """Adds ranks and takes the least whenever there are more than `keep`; then takes the rest."""
    size = count = 0
    for rank in ranks:
        add_rank(words, num_ranks, rank)
        size += 1
        if size > keep:
            taken[count] = take_least_rank(words, num_ranks)
            count += 1
            size -= 1
    while size > 0:
        taken[count] = take_least_rank(words, num_ranks)
        count += 1
        size -= 1


@pytest.mark.parametrize("num_ranks", [1, 64, 65, 4_096, 4_097, 300_000])
def test_the_least_rank_comes_first(num_ranks: int) -> None:
    """On one level and on all three, with more than one word on the last, and to the last rank."""
    rng = np.random.default_rng(num_ranks)
    ranks = rng.permutation(num_ranks)[:2_000].astype(np.uint64)
    ranks[0] = num_ranks - 1
    ranks = np.unique(ranks)
    rng.shuffle(ranks)
    words = np.zeros(num_words(num_ranks), np.uint64)
    taken = np.zeros_like(ranks)
    _sort_by_set(words, num_ranks, ranks, 100, taken)
    held: set[int] = set()
    expected = []
    for rank in ranks.tolist():
        held.add(rank)
        if len(held) > 100:
            expected.append(min(held))
            held.remove(min(held))
    assert taken.tolist() == expected + sorted(held)
    assert not words.any()
