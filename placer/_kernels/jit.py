"""How functions are compiled."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.compiler import Compiler

from placer._kernels.passes import HelperCompiler, KernelCompiler

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", int, float)

whole: Callable[[Any], int] = np.int64  # type: ignore[assignment]
"""A number without its fraction: numba compiles int anew wherever it is called."""


def digest_sources(package: Path) -> str:
    """A digest of all files of a package that compiled code is made from."""
    files = [*package.glob("_kernels/*.py"), *package.glob("_*tables.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


_DIGEST = digest_sources(Path(__file__).parents[1])


class _Cache(FunctionCache):  # type: ignore[misc]
    """A cache that sees changes in any file.

    numba's own sees those in the file that a function is in. What else it calls would be as before,
    and arrays would be looked for where the tables used to have them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp(), _DIGEST
        self._cache_file = IndexDataCacheFile(self.cache_path, self._impl.filename_base, stamp)


def jit(function: F) -> F:
    """numba.njit that caches where it can and works where it cannot."""
    return _cached(_compiled(function))


def allocating(function: F) -> F:
    """A function that makes arrays, and so must count references to them."""
    return _cached(_compiled(function, _nrt=True, pipeline_class=Compiler))


def helper(function: F) -> F:
    """A function that only compiled code calls; it is compiled into wherever it is called."""
    return _compiled(function, forceinline=True, **_NOT_FOR_PYTHON)


def subroutine(function: F) -> F:
    """A helper that is called seldom: its code is there once, not wherever it is called."""
    return _compiled(function, **_NOT_FOR_PYTHON)


# half of the compile time would be for Python; nor is it cached but with what it is compiled into
_NOT_FOR_PYTHON = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": HelperCompiler,
}


def _compiled(function: F, **options: Any) -> F:
    # nothing is divided by zero, and looking would take time; so would counting references, which
    # numba does whenever an array gets another name, in the innermost loops too
    usual = {"nogil": True, "error_model": "numpy", "_nrt": False, "pipeline_class": KernelCompiler}
    return numba.njit(**(usual | options))(function)  # type: ignore[no-any-return]


def _cached(function: F) -> F:
    with contextlib.suppress(RuntimeError):  # numba found no directory that it may write to
        function._cache = _Cache(function.py_func)  # type: ignore[attr-defined]
    return function


@helper
def greater(one: N, other: N) -> N:
    """The greater of two numbers of a type: numba compiles max anew wherever it is called."""
    return one if one > other else other


@helper
def lesser(one: N, other: N) -> N:
    """The lesser of two numbers of a type."""
    return one if one < other else other
