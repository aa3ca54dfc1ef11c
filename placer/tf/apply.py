"""Runs TensorFlow programs where a placement says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from placer.errors import ReadError, UsageError
from placer.placement import Placement
from placer.tf._devices import check_kernels, device_names, present_devices
from placer.tf._flatten import flatten_function, flatten_graph_def
from placer.tf._placed import OUTSIDE, PlacedGraph, import_placed, place_flat, strict_config
from placer.tf._trace import trace


def apply(
    target: Any,
    placement: Placement,
    *specs: Any,
    devices: Sequence[str] | None = None,
    training: bool = False,
    signature: str = "serving_default",
) -> PlacedFunction:
    """Returns a function that computes what `target` computes, each op on its device.

    Args:
        target: What ``placer.tf.read`` read, but no GraphDef, which has no arguments.
        placement: A placement of the graph that it gave.
        *specs: As ``placer.tf.read`` was given.
        devices: Name of the TensorFlow device for each device of the cluster, such as
            ``"/device:GPU:0"``. By default those of the same names.
        training: As ``placer.tf.read`` was given.
        signature: As ``placer.tf.read`` was given.

    Raises:
        ReadError: As ``placer.tf.read``.
        UsageError: TensorFlow has no such device.
        PlacementError: A placement of another graph, an op that uses variables of two devices, or
            one that TensorFlow cannot run on its device.

    Example:
        >>> graph = placer.tf.read(train_step, *specs)
        >>> placement = placer.place(graph, "cpu-gpu")
        >>> placed_step = placer.tf.apply(train_step, placement, *specs)
        >>> loss = placed_step(images, labels)
    """
    names = present_devices(placement.cluster, devices)
    function = trace_function(target, specs, training, signature)
    placed = place_flat(flatten_function(function), placement, names)
    check_kernels(placed.flat.graph_def)
    return PlacedFunction(function, placed, placement)


def trace_function(target: Any, specs: Sequence[Any], training: bool, signature: str) -> Any:
    """Traces what can be called: all that ``placer.tf.read`` takes but a GraphDef.

    Raises:
        ReadError: As ``placer.tf.read``, a GraphDef, or a variable as an argument.
    """
    import tensorflow as tf

    function = trace(target, specs, training, signature)
    if isinstance(function, tf.compat.v1.GraphDef):
        raise ReadError(
            "a GraphDef does not say its arguments; expected a function, "
            "or use placer.tf.apply_to_graph_def"
        )
    captured = {id(placeholder) for _, placeholder in function.graph.captures}
    for tensor in function.inputs:
        if tensor.dtype == tf.resource and id(tensor) not in captured:
            raise ReadError(
                f"argument {tensor.op.name!r} is a variable; expected the function to capture it"
            )
    return function


def apply_to_graph_def(
    graph_def: Any, placement: Placement, *, devices: Sequence[str] | None = None
) -> Any:
    """Returns the GraphDef with devices, flat, and with control edges for ``order="priority"``.

    It computes what `graph_def` computes. The devices need not exist here. With an order, fetching
    a part of it also runs what comes before on the same devices, be it an initializer: give a
    GraphDef of the step alone then.

    Args:
        graph_def: A GraphDef that ``placer.tf.read`` read, or the path of its file (``.pb``).
        placement: A placement of the graph that it gave.
        devices: As in :func:`apply`.

    Raises:
        ReadError: As ``placer.tf.read``.
        UsageError: Not one TensorFlow device for each device of the cluster.
        PlacementError: A placement of another graph, or an op that uses variables of two devices.
    """
    import tensorflow as tf

    names = device_names(placement.cluster, devices)
    traced = trace(graph_def, (), False, "")
    if not isinstance(traced, tf.compat.v1.GraphDef):
        raise ReadError(
            "given a function; expected a GraphDef: placer.tf.apply(...).graph_def has that of one"
        )
    return place_flat(flatten_graph_def(traced), placement, names).flat.graph_def


def device_map(placement: Placement, *, devices: Sequence[str] | None = None) -> dict[str, str]:
    """Name of the TensorFlow device by op name.

    Args:
        placement: The placement.
        devices: As in :func:`apply`; they need not exist here.

    Raises:
        UsageError: Not one TensorFlow device for each device of the cluster.
    """
    names = device_names(placement.cluster, devices)
    ops = zip(placement.graph.op_names, placement.devices.tolist(), strict=True)
    return {op: names[device] for op, device in ops}


class PlacedFunction:
    """A function that runs each op where a placement says. Made by :func:`apply`.

    It takes and returns what the original takes and returns. After a call the original's variables
    have their new values. A variable that is on the device where the placement has it is used in
    place. Any other one has a twin there, as TensorFlow cannot move a variable: each call first
    copies the values to the twins and at the end back, unless :meth:`hold_variables` spares that.

    Attributes:
        placement: The placement.
        placed: The flat graph with devices, and what is known of it.
    """

    def __init__(self, function: Any, placed: PlacedGraph, placement: Placement) -> None:
        self.placement = placement
        self.placed = placed
        self._twins = _Twins(placed)
        self._function = _build(function, placed, self._twins.handles)
        self._held = False

    @property
    def graph_def(self) -> Any:
        """The flat GraphDef that it runs, each node with its device."""
        return self.placed.flat.graph_def

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function once.

        Raises:
            UsageError: Called while TensorFlow traces another function.
        """
        import tensorflow as tf

        if not tf.executing_eagerly():  # the other function would place the ops anew
            raise UsageError(
                "a placed function is called in a function that TensorFlow traces; "
                "expected a call from outside"
            )
        arguments = self.flat_arguments(*args, **kwargs)
        with self.hold_variables(), _strict_placement():
            return self._function._call_flat(arguments, self._function.captured_inputs)

    def flat_arguments(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The tensors that a call with these arguments gives to the graph's placeholders.

        Raises:
            TypeError: Arguments that do not fit the signature.
        """
        from tensorflow.core.function.trace_type.default_types import Literal
        from tensorflow.python.eager.polymorphic_function import function_type_utils

        signature = self._function.function_type
        given = signature.bind_partial(*args, **kwargs).arguments
        for name, parameter in signature.parameters.items():
            # what was no tensor was fixed by tracing
            if name not in given and isinstance(parameter.type_constraint, Literal):
                kwargs[name] = parameter.type_constraint.value
        bound = function_type_utils.canonicalize_function_inputs(args, kwargs, signature)
        tensors: list[Any] = signature.unpack_inputs(bound)
        return tensors

    @contextmanager
    def hold_variables(self) -> Iterator[None]:
        """Copies variables once before and once after the block, not around each call in it.

        Within the block, the original's variables that have a twin keep their old values.
        """
        if self._held:
            yield
            return
        self._twins.pull()
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._twins.push()

    def __repr__(self) -> str:
        return f"PlacedFunction({self.placement!r})"


class _Twins:
    """A variable where the placement has it for each one that is elsewhere.

    Attributes:
        handles: The handle to use for each ``VarHandleOp``: the original's or its twin's.
    """

    def __init__(self, placed: PlacedGraph) -> None:
        import tensorflow as tf
        from tensorflow.python.ops.resource_variable_ops import read_variable_op

        self.handles = dict(placed.flat.variables)
        self._variables: list[Any] = []  # a variable lives as long as its object
        read: list[tuple[Any, Any, Any]] = []  # from, to, element type
        written: list[tuple[Any, Any, Any]] = []
        for node in placed.flat.graph_def.node:
            handle = self.handles.get(node.name)
            if handle is None or handle.device == node.device:
                continue
            dtype = tf.as_dtype(node.attr["dtype"].type)
            with tf.device(node.device):
                twin = tf.Variable(read_variable_op(handle, dtype), trainable=False)
            self._variables.append(twin)
            self.handles[node.name] = twin.handle
            read.append((handle, twin.handle, dtype))
            if node.name in placed.written:
                written.append((twin.handle, handle, dtype))
        self.pull = _copier(read)
        self.push = _copier(written)


def _copier(pairs: Sequence[tuple[Any, Any, Any]]) -> Callable[[], None]:
    """A function that copies variables: of each pair, the first one's value to the second one."""
    import tensorflow as tf
    from tensorflow.python.ops import resource_variable_ops

    def copy() -> None:
        for source, target, dtype in pairs:
            value = resource_variable_ops.read_variable_op(source, dtype)
            resource_variable_ops.assign_variable_op(target, value)

    # traced here: TensorFlow warns of a function that each placed function traces anew
    return tf.function(copy, autograph=False).get_concrete_function() if pairs else copy


@contextmanager
def _strict_placement() -> Iterator[None]:
    """Has TensorFlow leave the ops of the functions that it runs in the block where they are."""
    from tensorflow.python.eager import context

    eager = context.context()
    before = eager.function_call_options
    eager.function_call_options = context.FunctionCallOptions(config_proto=strict_config())
    try:
        yield
    finally:
        eager.function_call_options = before


def _build(function: Any, placed: PlacedGraph, handles: Mapping[str, Any]) -> Any:
    """The placed graph as a ConcreteFunction with the signature of the original.

    Its arguments and the handles of its variables come from outside; the op of the graph that
    stands for one hands it on from its device.
    """
    import tensorflow as tf
    from tensorflow.core.function.polymorphism.function_type import FunctionType
    from tensorflow.python.eager import context
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction
    from tensorflow.python.framework.func_graph import FuncGraph

    flat, original = placed.flat, function.function_type
    graph = FuncGraph("placed")
    with graph.as_default():
        # captures come last among the inputs
        for tensor in function.inputs[: len(flat.inputs)]:
            graph.inputs.append(tf.compat.v1.placeholder(tensor.dtype, tensor.shape, OUTSIDE))
        outside = dict(zip(flat.inputs, graph.inputs, strict=True))
        for name, handle in handles.items():
            outside[name] = graph.capture(handle, OUTSIDE)
        import_placed(placed, outside)
    eager = context.context()
    for definition in flat.graph_def.library.function:  # branches that were specialized
        if not eager.has_function(definition.signature.name):
            eager.add_function_def(definition)
    graph.outputs = [graph.get_tensor_by_name(ref) for ref in flat.outputs]
    graph.control_outputs = [graph.get_operation_by_name(name) for name in placed.targets]
    graph.structured_outputs = function.structured_outputs
    captures = graph.function_captures.capture_types
    kind = FunctionType(original.parameters.values(), captures, return_annotation=original.output)
    return ConcreteFunction.from_func_graph(graph, kind, {})
