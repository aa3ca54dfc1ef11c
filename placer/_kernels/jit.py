"""How functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", int, float)

whole: Callable[[Any], int] = np.int64  # type: ignore[assignment]
"""A number without its fraction: numba compiles int anew wherever it is called."""


def jit(function: F, **options: Any) -> F:
    """numba.njit that caches where it can and works where it cannot."""
    # nothing is divided by zero, and looking would take time; so would counting references, which
    # numba does whenever an array gets another name, in the innermost loops too
    options = {"nogil": True, "error_model": "numpy", "_nrt": False} | options
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba found no directory that it may write its cache to
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


def allocating(function: F) -> F:
    """A function that makes arrays, and so must count references to them."""
    return jit(function, _nrt=True)


def helper(function: F) -> F:
    """A function that only compiled code calls: half of the compile time would be for Python."""
    return jit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def subroutine(function: F) -> F:
    """A helper that is called seldom: it is compiled once, not wherever it is called."""
    return jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@helper
def greater(one: N, other: N) -> N:
    """The greater of two numbers of a type: numba compiles max anew wherever it is called."""
    return one if one > other else other


@helper
def lesser(one: N, other: N) -> N:
    """The lesser of two numbers of a type."""
    return one if one < other else other
