"""From what a user has to a function that TensorFlow has traced."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from placer.errors import PlacerError, ReadError
from placer.tf._flatten import FlatGraph, flatten_function, flatten_graph_def

_EXPECTED = (
    "expected a tf.function, a ConcreteFunction, a Keras model, a GraphDef, "
    "a SavedModel or the path of one"
)


def flatten(target: Any, specs: Sequence[Any], training: bool, signature: str) -> FlatGraph:
    """Flattens whatever ``placer.tf.read`` takes.

    Raises:
        ReadError: As ``placer.tf.read``.
    """
    import tensorflow as tf

    traced = trace(target, specs, training, signature)
    if isinstance(traced, tf.compat.v1.GraphDef):
        return flatten_graph_def(traced)
    return flatten_function(traced)


def trace(target: Any, specs: Sequence[Any], training: bool, signature: str) -> Any:
    """Traces whatever ``placer.tf.read`` takes.

    Returns:
        A ConcreteFunction, or a GraphDef if that is what `target` is.

    Raises:
        ReadError: As ``placer.tf.read``.
    """
    import keras
    import tensorflow as tf

    if training and not isinstance(target, keras.Model):
        raise ReadError(
            f"training=True with {_describe(target)}; expected a compiled Keras model "
            "(a tf.function says itself what a step is)"
        )
    if isinstance(target, (str, os.PathLike)):
        target = _load(Path(target))
    if isinstance(target, tf.compat.v1.GraphDef):
        _check_graph_def(target, specs)
        return target
    if isinstance(target, keras.Model):
        function = _trace_model(target, specs, training)
    elif hasattr(target, "signatures"):
        function = _trace_concrete(_signature(target, signature), specs)
    elif isinstance(target, tf.types.experimental.ConcreteFunction):
        function = _trace_concrete(target, specs)
    elif isinstance(target, tf.types.experimental.PolymorphicFunction):
        function = _trace_function(target, specs)
    elif callable(target):
        function = _trace_function(tf.function(target, autograph=False), specs)
    else:
        raise ReadError(f"cannot read {_describe(target)}; {_EXPECTED}")
    _check_inputs(function)
    return function


def _describe(target: Any) -> str:
    name = getattr(target, "__name__", None) or getattr(target, "name", None)
    return (
        f"{type(target).__name__} {name!r}"
        if name
        else f"an object of type {type(target).__name__}"
    )


def _load(path: Path) -> Any:
    """A SavedModel folder, or a file that holds a GraphDef."""
    import tensorflow as tf

    if path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise ReadError(f"{path}: no SavedModel: the folder has no saved_model.pb")
        try:
            return tf.saved_model.load(str(path))
        except Exception as error:
            raise ReadError(
                f"{path}: the SavedModel cannot be loaded ({_one_line(error)})"
            ) from error
    if path.suffix != ".pb":
        found = "a file" if path.exists() else "no such file or folder"
        raise ReadError(f"{path}: {found}; expected the folder of a SavedModel or a GraphDef (.pb)")
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ReadError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception:
        raise ReadError(f"{path}: not a GraphDef in binary form") from None
    return graph_def


def _check_graph_def(graph_def: Any, specs: Sequence[Any]) -> None:
    import tensorflow as tf

    if specs:
        raise ReadError("specs with a GraphDef, whose placeholders have shapes; expected none")
    if not graph_def.node:
        raise ReadError("the GraphDef has no nodes; expected at least one")
    for node in graph_def.node:
        if node.op == "Placeholder":
            # asking for an attribute that is not there would add it
            known = "shape" in node.attr and not node.attr["shape"].shape.unknown_rank
            dims = [d.size for d in node.attr["shape"].shape.dim] if known else None
            if node.attr["dtype"].type == tf.resource.as_datatype_enum:
                raise ReadError(
                    f"placeholder {node.name!r} is a resource of unknown size; expected a "
                    "VarHandleOp, or the ConcreteFunction rather than its GraphDef"
                )
            if dims is None or min(dims, default=0) < 0:
                raise ReadError(_unknown_shape(node.name, dims))


def _signature(model: Any, signature: str) -> Any:
    signatures = dict(model.signatures)
    if signature not in signatures:
        known = ", ".join(sorted(signatures)) or "none"
        raise ReadError(f"the SavedModel has no signature {signature!r}; it has: {known}")
    return signatures[signature]


def _trace_concrete(function: Any, specs: Sequence[Any]) -> Any:
    """The function itself or, with specs, one that calls it with inputs of these shapes."""
    import tensorflow as tf

    if not specs:
        return function
    positional, named = function.structured_input_signature
    if positional or not named:
        return _traced(tf.function(lambda *inputs: function(*inputs), autograph=False), specs)
    given = specs[0] if len(specs) == 1 and isinstance(specs[0], dict) else specs
    if not isinstance(given, dict) and len(given) == len(named):
        given = dict(zip(sorted(named), given, strict=True))
    if not isinstance(given, dict) or set(given) != set(named):
        raise ReadError(
            f"specs {specs!r} for the inputs {', '.join(sorted(named))}; expected one for each, "
            "in this order, or one dict"
        )
    given = {name: given[name] for name in sorted(named)}  # the same graph whatever their order
    return _traced(tf.function(lambda inputs: function(**inputs), autograph=False), [given])


def _trace_function(function: Any, specs: Sequence[Any]) -> Any:
    import tensorflow as tf

    if specs or function.input_signature is not None:
        found = _traced(function, specs)
        if specs and not all(tensor.shape.is_fully_defined() for tensor in _arguments(found)):
            # TensorFlow reuses a trace for any shape; what says one may be in the specs
            return _traced(
                tf.function(function.python_function, autograph=function._autograph), specs
            )
        return found
    known = function._list_all_concrete_functions()
    if len(known) == 1:
        return known[0]
    if known:
        raise ReadError(
            f"{_describe(function)} has {len(known)} traces; expected specs that say which, "
            "such as tf.TensorSpec((32, 8))"
        )
    if function.function_spec.fullargspec.args or function.function_spec.fullargspec.varargs:
        raise ReadError(
            f"{_describe(function)} was never traced; expected a spec for each of its arguments, "
            "such as tf.TensorSpec((32, 8))"
        )
    return _traced(function, ())


def _trace_model(model: Any, specs: Sequence[Any], training: bool) -> Any:
    """The model's inference or, for training, what ``fit`` does with one batch."""
    import tensorflow as tf

    if training:
        if getattr(model, "optimizer", None) is None:
            raise ReadError(
                f"training=True, but Keras model {model.name!r} is not compiled; "
                "expected compile(optimizer, loss) before"
            )
        if len(specs) not in (2, 3):
            raise ReadError(
                f"{len(specs)} specs for a training step of Keras model {model.name!r}; expected "
                "those of inputs, targets and, if there are any, sample weights"
            )

        def step(*batch: Any) -> Any:
            return model.train_step(batch)

        if not model.optimizer.built:  # the trace that makes its variables names ops otherwise
            _traced(tf.function(step, autograph=False), specs)
        return _traced(tf.function(step, autograph=False), specs)
    if not specs:
        if not getattr(model, "inputs", None):
            raise ReadError(
                f"Keras model {model.name!r} does not say its inputs; expected specs, "
                "such as tf.TensorSpec((32, 8))"
            )
        specs = _input_specs(model)
    inputs = specs[0] if len(specs) == 1 else list(specs)
    return _traced(tf.function(lambda x: model(x, training=False), autograph=False), [inputs])


def _input_specs(model: Any) -> list[Any]:
    """Specs of what a model takes: one for each of its inputs, or one dict."""
    import keras
    import tensorflow as tf

    inputs = model.inputs
    if not isinstance(model, keras.Sequential):  # whose input is what another model gave
        inputs = getattr(model, "input", inputs)
    return [
        keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype, t.name), one)
        for one in (inputs if isinstance(inputs, (list, tuple)) else [inputs])
    ]


def _traced(function: Callable[..., Any], specs: Sequence[Any]) -> Any:
    try:
        return function.get_concrete_function(*specs)  # type: ignore[attr-defined]
    except PlacerError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise ReadError(
            f"TensorFlow cannot trace {_describe(function)} with specs {tuple(specs)!r}: "
            f"{type(error).__name__}: {_one_line(error)}"
        ) from error


def _check_inputs(function: Any) -> None:
    for tensor in _arguments(function):
        if not tensor.shape.is_fully_defined():
            dims = None if tensor.shape.rank is None else tensor.shape.as_list()
            raise ReadError(_unknown_shape(tensor.op.name, dims))


def _arguments(function: Any) -> list[Any]:
    """The inputs of a ConcreteFunction that are no captures."""
    captured = {id(placeholder) for _, placeholder in function.graph.captures}
    return [tensor for tensor in function.inputs if id(tensor) not in captured]


def _unknown_shape(name: str, dims: Any) -> str:
    shape = "unknown rank" if dims is None else f"shape {tuple(dims)}"
    return (
        f"input {name!r} has {shape}; expected all dimensions to be known: give a spec with a "
        "batch size, such as tf.TensorSpec((32, 8))"
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " …"
