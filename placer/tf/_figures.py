"""Tensors and costs of all ops of a ``tf.Graph``, those inside loops and branches included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from placer.errors import ReadError
from placer.tf._costs import Cost, Tensor, cost_of
from placer.tf._loops import function_graph, trip_count

LOOPS = frozenset({"While", "StatelessWhile"})
"""Types of ops that stand for a whole loop."""

_HANDLE_BYTES = 8.0

STRING_BYTES = 16.0
"""What an element of a tensor of strings is taken to be."""


@dataclass(frozen=True)
class Figures:
    """What is known of one op.

    Attributes:
        inputs: The tensors it reads.
        outputs: The tensors it makes.
        cost: Its work.
        sized: Whether the sizes of its outputs are known, not guessed.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    cost: Cost
    sized: bool


def graph_figures(graph: Any, library: Mapping[str, Any]) -> dict[str, Figures]:
    """The figures of each op.

    Args:
        graph: A ``tf.Graph``.
        library: The FunctionDefs that its ops may call.

    Raises:
        ReadError: A loop whose number of iterations is not known.
    """
    from tensorflow.python.framework import ops as tf_ops
    from tensorflow.python.profiler.internal import flops_registry  # noqa: F401 (registers)
    from tensorflow.python.util import deprecation

    def registry(node: Any) -> float | None:
        try:
            with deprecation.silence():
                value = tf_ops.get_stats_for_node_def(graph, node, "flops").value
        except (ValueError, IndexError, TypeError):  # a shape or layout it does not know
            return None
        return None if value is None else float(value)

    figures: dict[str, Figures] = {}
    counts: dict[str, int] = {}
    for operation in graph.get_operations():
        inputs = tuple(figures[t.op.name].outputs[t.value_index] for t in operation.inputs)
        outputs, sized = _outputs(operation, inputs)
        calls = _calls(operation, library, counts)
        cost = cost_of(operation.node_def, inputs, outputs, registry) if calls is None else calls
        figures[operation.name] = Figures(inputs, outputs, cost, sized)
    return figures


def _outputs(operation: Any, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], bool]:
    """The tensors an op makes, and whether all their sizes are known.

    A size that depends on data is taken to be that of the largest input.
    """
    import tensorflow as tf

    tensors: list[Tensor] = []
    sized = True
    for output in operation.outputs:
        dtype = output.dtype.base_dtype
        rank = output.shape.rank
        shape = None if rank is None else tuple(-1 if d is None else d for d in output.shape)
        elements = output.shape.num_elements()
        if dtype == tf.resource:
            size = _HANDLE_BYTES
        elif dtype in (tf.variant, tf.string) or elements is None:
            sized = False
            least = (elements or 0) * STRING_BYTES if dtype == tf.string else 0.0
            size = max((least, *(t.bytes for t in inputs)))
        else:
            size = float(elements * dtype.size)
        tensors.append(Tensor(shape, dtype.name, size))
    return tuple(tensors), sized


def _calls(operation: Any, library: Mapping[str, Any], counts: dict[str, int]) -> Cost | None:
    """The cost of an op that runs functions, None for one that runs none.

    `counts` has the trips of all loops so far, and gets those of this one.
    """
    kind = operation.type
    if kind in LOOPS:
        trips = trip_count(operation, library, counts)
        if trips is None:
            raise ReadError(
                f"loop {operation.name!r} ({kind}) runs a number of times that is not known before "
                "it runs; expected one over a constant range, or tf.while_loop with a constant "
                "maximum_iterations, or an unrolled loop"
            )
        counts[operation.name] = trips
        test, body = (_body(operation.get_attr(a), operation, 0, library) for a in ("cond", "body"))
        return Cost(
            (trips + 1) * test.flops + trips * body.flops,
            (trips + 1) * test.bytes + trips * body.bytes,
            test.known and body.known,
        )
    if kind in ("If", "StatelessIf", "Case", "StatelessCase"):
        names = (
            operation.get_attr("branches")
            if kind.endswith("Case")
            else [operation.get_attr("then_branch"), operation.get_attr("else_branch")]
        )
        branches = [_body(name, operation, 1, library) for name in names]
        return max(branches, key=lambda cost: (cost.flops, cost.bytes))
    if kind in ("PartitionedCall", "StatefulPartitionedCall"):
        return _body(operation.get_attr("f"), operation, 0, library)
    return None


def _body(function: Any, operation: Any, skip: int, library: Mapping[str, Any]) -> Cost:
    """All the work of a function that an op calls with its inputs from number `skip` on."""
    graph = function_graph(library[function.name], operation, list(operation.inputs)[skip:]).graph
    costs = [figures.cost for figures in graph_figures(graph, library).values()]
    return Cost(
        sum(c.flops for c in costs), sum(c.bytes for c in costs), all(c.known for c in costs)
    )
