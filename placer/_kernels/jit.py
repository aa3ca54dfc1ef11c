"""How functions are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import get_itemsize, populate_array
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F, **options: Any) -> F:
    """numba.njit that caches where it can and works where it cannot."""
    # nothing is divided by zero, and looking would take time
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba found no directory that it may write its cache to
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


def helper(function: F) -> F:
    """A function that only compiled code calls: half of the compile time would be for Python."""
    return jit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def subroutine(function: F) -> F:
    """A helper that is called seldom: it is compiled once, not wherever it is called."""
    return jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@intrinsic
def borrow(typing_context: Any, arrays: Any) -> Any:
    """In compiled code: the same named tuple, its arrays without owners.

    Numba counts references whenever an array gets another name, atomically, in the innermost loops
    too. What has no owner is not counted; the caller of the compiled function owns the arrays.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tuple_type = signature.return_type
        values = cgutils.unpack_tuple(builder, arguments[0], len(tuple_type))
        for i, (array_type, value) in enumerate(zip(tuple_type, values, strict=True)):
            if isinstance(array_type, types.Array):
                array = context.make_array(array_type)(context, builder, value)
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                array.parent = cgutils.get_null_value(array.parent.type)
                values[i] = array._getvalue()
        return context.make_tuple(builder, tuple_type, values)

    return arrays(arrays), generate


def addresses_of(arrays: tuple[NDArray[Any], ...]) -> NDArray[np.int64]:
    """Where arrays lie, and their shapes: what :func:`finder` finds them by."""
    words = [word for array in arrays for word in (array.ctypes.data, *array.shape)]
    return np.array(words, np.int64)


def finder(example: tuple[NDArray[Any], ...]) -> Any:
    """What gives compiled code a named tuple of arrays by :func:`addresses_of`.

    Passing an array from Python takes a good part of a microsecond, and so does each array in a
    tuple. The arrays are contiguous and have no owners here: whoever passes addresses keeps them.

    Args:
        example: A tuple of the same types.
    """
    tuple_type: Any = numba.typeof(example)

    @intrinsic
    def find(typing_context: Any, words: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            table = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            values, position = [], 0
            for array_type in tuple_type:
                address, *shape = (
                    builder.load(cgutils.gep(builder, table, position + i))
                    for i in range(1 + array_type.ndim)
                )
                position += 1 + array_type.ndim
                strides = [cgutils.intp_t(get_itemsize(context, array_type))]
                for length in shape[:0:-1]:
                    strides.insert(0, builder.mul(strides[0], length))
                array = context.make_array(array_type)(context, builder)
                data = builder.inttoptr(address, array.data.type)
                populate_array(array, data, shape, strides, strides[-1], None)
                values.append(array._getvalue())
            return context.make_tuple(builder, tuple_type, values)

        return tuple_type(words), generate

    return find
