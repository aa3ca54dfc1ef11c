"""How functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F, **options: Any) -> F:
    """numba.njit that caches where it can and works where it cannot."""
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba found no directory that it may write its cache to
        return numba.njit(nogil=True, **options)(function)  # type: ignore[no-any-return]


def helper(function: F) -> F:
    """A function that only compiled code calls: half of the compile time would be for Python."""
    return jit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
