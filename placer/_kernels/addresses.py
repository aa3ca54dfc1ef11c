"""Named tuples of arrays that compiled code is told of by one array of addresses.

Passing an array from Python takes a good part of a microsecond, and so does each array in a tuple.
Compiling takes longer with each array that one function passes to another, and numba turns one
array access into some thirty instructions. Here a named tuple is a pointer to its addresses, an
array in it is its address and a pointer to its shape, and an access is a few instructions.

The arrays are contiguous, have one or two dimensions and no owners, and are indexed by numbers that
are not negative: whoever passes addresses keeps the arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numba
from numba.core import cgutils
from numba.core import types as numba_types
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_global, signature
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
)
from numba.np.arrayobj import get_itemsize, populate_array

types: Any = numba_types  # of which numba's stubs know few

_LINE_BYTES = 64  # of the processor's cache


def finder(example: Any) -> Any:
    """What gives compiled code a named tuple by :func:`placer._tables.addresses_of`.

    Args:
        example: A named tuple of the same types, of arrays and numbers.
    """
    fields, position = {}, 0
    name = type(example).__name__
    for field, value in example._asdict().items():
        value_type = numba.typeof(value)
        if isinstance(value_type, types.Array):
            value_type = _FoundArray(value_type, f"{name}.{field}")
        fields[field] = value_type, position
        position += 1 + getattr(value_type, "ndim", 0)
    found_type = _FoundTuple(name, fields)

    @intrinsic
    def find(typing_context: Any, addresses: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return context.make_array(signature.args[0])(context, builder, arguments[0]).data

        return found_type(addresses), generate

    return find


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Asks the processor to bring an element of an array near, and does not wait for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = _find_element(context, builder, signature, arguments)
        pointer, word, llvm = cgutils.voidptr_t, cgutils.int32_t, cgutils.ir
        kind = llvm.FunctionType(llvm.VoidType(), [pointer, word, word, word])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        how = word(0), word(3), word(1)  # to read, into all levels of the cache, as data
        for first in range(0, get_itemsize(context, array.array_type), _LINE_BYTES):
            line = cgutils.pointer_add(builder, element, first, pointer)
            builder.call(fetch, [line, *how])
        return context.get_dummy_value()

    return types.none(array, _wide(index)), generate


class _FoundTuple(types.Type):  # type: ignore[misc]
    """A named tuple.

    Attributes:
        fields: By name, the type of a field and the position of its first word.
    """

    def __init__(self, name: str, fields: dict[str, tuple[Any, int]]) -> None:
        super().__init__(name)
        self.fields = fields


class _FoundArray(types.Type):  # type: ignore[misc]
    """An array of a named tuple.

    Attributes:
        array_type: What numba would call it.
        dtype: Its elements.
        ndim: Its dimensions.
    """

    def __init__(self, array_type: Any, field: str) -> None:
        dtype = array_type.dtype
        # what all fields of a kind share: compiled code is made for it once
        kind = field if isinstance(dtype, types.Record) else dtype
        super().__init__(f"FoundArray({kind}, {array_type.ndim})")
        self.array_type = array_type
        self.dtype = dtype
        self.ndim = array_type.ndim


@register_model(_FoundTuple)
class _FoundTupleModel(models.PrimitiveModel):  # type: ignore[misc]
    """A pointer to the words."""

    def __init__(self, manager: Any, found_type: _FoundTuple) -> None:
        super().__init__(manager, found_type, cgutils.intp_t.as_pointer())


@register_model(_FoundArray)
class _FoundArrayModel(models.StructModel):  # type: ignore[misc]
    """The address is looked up where the array is, and stays at hand; the shape where needed."""

    def __init__(self, manager: Any, array: _FoundArray) -> None:
        members = [("data", types.CPointer(array.dtype)), ("shape", types.CPointer(types.intp))]
        super().__init__(manager, array, members)


@infer_getattr
class _FieldsOfFound(AttributeTemplate):  # type: ignore[misc]
    key = _FoundTuple

    def generic_resolve(self, found_type: _FoundTuple, name: str) -> Any:
        return found_type.fields[name][0]


@lower_getattr_generic(_FoundTuple)
def _get_field(context: Any, builder: Any, found_type: _FoundTuple, words: Any, name: str) -> Any:
    field_type, position = found_type.fields[name]
    word = _load(builder, words, position)
    if isinstance(field_type, _FoundArray):
        model = context.data_model_manager[field_type]
        data = builder.inttoptr(word, context.get_value_type(types.CPointer(field_type.dtype)))
        shape = cgutils.gep(builder, words, position + 1)
        array = cgutils.get_null_value(model.get_value_type())
        array = model.set(builder, array, data, "data")
        return model.set(builder, array, shape, "shape")
    if isinstance(field_type, types.Float):
        return builder.bitcast(word, context.get_value_type(field_type))
    return context.cast(builder, word, types.intp, field_type)


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):  # type: ignore[misc]
    metadata = {"target": "cpu"}  # noqa: RUF012  # so tried first: numba's own are for any target

    def generic(self, args: Sequence[Any], kws: object) -> Any:
        array, index = args
        if isinstance(array, _FoundArray):
            if _count(index) == array.ndim:
                return signature(array.dtype, array, _wide(index))
            if array.ndim == 2 and isinstance(index, types.Integer):
                return signature(types.Array(array.dtype, 1, "C"), array, _wide(index))
        return None


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Sequence[Any], kws: object) -> Any:
        array, index, _ = args
        if isinstance(array, _FoundArray) and _count(index) == array.ndim:
            return signature(types.none, array, _wide(index), array.dtype)
        return None


@infer_global(len)
class _Length(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Sequence[Any], kws: object) -> Any:
        return signature(types.intp, *args) if isinstance(args[0], _FoundArray) else None


@lower_builtin(len, _FoundArray)
def _get_length(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return _load(builder, builder.extract_value(arguments[0], 1), 0)


@lower_builtin(operator.getitem, _FoundArray, types.Integer)
@lower_builtin(operator.getitem, _FoundArray, types.BaseTuple)
def _get_item(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = signature.args[0]
    element = _find_element(context, builder, signature, arguments)
    if isinstance(signature.return_type, types.Array):  # a row
        row = context.make_array(signature.return_type)(context, builder)
        size = cgutils.intp_t(get_itemsize(context, array.array_type))
        length = _load(builder, builder.extract_value(arguments[0], 1), 1)
        populate_array(row, element, [length], [size], size, None)
        return row._getvalue()
    return context.unpack_value(builder, array.dtype, element)


@lower_builtin(operator.setitem, _FoundArray, types.Integer, types.Any)
@lower_builtin(operator.setitem, _FoundArray, types.BaseTuple, types.Any)
def _set_item(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    element = _find_element(context, builder, signature, arguments)
    context.pack_value(builder, signature.args[0].dtype, arguments[2], element)


def _find_element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """A pointer to the element, or the first of a row, that the second argument is the index of."""
    array, index_type = signature.args[:2]
    index = arguments[1]
    if array.ndim == 2:
        row_length = _load(builder, builder.extract_value(arguments[0], 1), 1)
        if isinstance(index_type, types.BaseTuple):
            row, index = cgutils.unpack_tuple(builder, index)
            index = builder.add(builder.mul(row, row_length), index)
        else:
            index = builder.mul(index, row_length)
    return builder.gep(builder.extract_value(arguments[0], 0), [index])


def _load(builder: Any, words: Any, position: int) -> Any:
    """A word, of which the compiler is told that nothing changes it."""
    word = builder.load(cgutils.gep(builder, words, position))
    word.set_metadata("invariant.load", builder.module.add_metadata([]))
    return word


def _count(index: Any) -> int:
    """How many dimensions an index is for; 0 if it is none."""
    if isinstance(index, types.BaseTuple):
        return len(index) if all(isinstance(each, types.Integer) for each in index) else 0
    return int(isinstance(index, types.Integer))


def _wide(index: Any) -> Any:
    """The type that an index is turned into."""
    if isinstance(index, types.BaseTuple):
        return types.Tuple([_wide(each) for each in index])
    return types.intp if index.signed else types.uintp
