"""Sets of ranks as bits: adding one and taking the least cost the same in a set of any size.

A word has a bit for each of 64 ranks; a second level has one for each word that is not empty, and a
third one for each word of the second. They lie one after the other in an array of
``_tables.num_words(num_ranks)`` words, which is all zeros when the set is empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from placer._kernels.jit import helper

Words = NDArray[np.uint64]


@intrinsic
def _lowest_bit(typing_context: Any, word: Any) -> Any:
    """In compiled code: the position of the lowest bit of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), generate


@helper
def _level_sizes(num_ranks: int) -> tuple[np.uint64, np.uint64]:
    """Words of the first level and of the second."""
    num_words = (np.uint64(num_ranks) + np.uint64(63)) >> np.uint64(6)
    return num_words, (num_words + np.uint64(63)) >> np.uint64(6)


@helper
def add_rank(words: Words, num_ranks: int, rank: np.uint64) -> None:
    """Adds a rank to a set."""
    num_words, num_groups = _level_sizes(num_ranks)
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(63)
    word = rank >> six
    group = word >> six
    words[word] |= one << (rank & low)
    words[num_words + group] |= one << (word & low)
    words[num_words + num_groups + (group >> six)] |= one << (group & low)


@helper
def take_least_rank(words: Words, num_ranks: int) -> np.uint64:
    """Removes the least rank of a set that is not empty, and returns it."""
    num_words, num_groups = _level_sizes(num_ranks)
    one, six = np.uint64(1), np.uint64(6)
    top = num_words + num_groups
    while words[top] == 0:
        top += one
    group = ((top - num_words - num_groups) << six) + _lowest_bit(words[top])
    word = (group << six) + _lowest_bit(words[num_words + group])
    rank: np.uint64 = (word << six) + _lowest_bit(words[word])
    words[word] &= words[word] - one
    if words[word] == 0:
        words[num_words + group] &= words[num_words + group] - one
        if words[num_words + group] == 0:
            words[top] &= words[top] - one
    return rank
