"""FLOPs and bytes of each op of a flat GraphDef."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Ops that hand on a buffer or a handle, or say what is known before the step: no work on a device.
NO_WORK = frozenset(
    (
        "AssignVariableOp Bitcast Const ControlTrigger EnsureShape ExpandDims Identity IdentityN "
        "NoOp Placeholder PlaceholderWithDefault PreventGradient Rank ReadVariableOp Reshape Shape "
        "ShapeN Size Snapshot Squeeze StopGradient VarHandleOp VarIsInitializedOp VariableShape"
    ).split()
)

# FLOPs per element of the largest tensor, where TensorFlow's own registry has no formula.
_PER_ELEMENT = {
    **dict.fromkeys(
        (
            "Abs AssignAddVariableOp AssignSubVariableOp Ceil DivNoNan Elu Erf Exp Expm1 Floor "
            "FloorDiv FloorMod LeakyRelu LeakyReluGrad LogicalAnd LogicalNot LogicalOr Log1p Max "
            "Min Prod Relu Relu6 Relu6Grad ReluGrad Round Select SelectV2 Sigmoid Sign Sqrt Tanh "
            "BiasAddV1 All Any Cumsum Sin Cos"
        ).split(),
        1.0,
    ),
    "SigmoidGrad": 3.0,
    "TanhGrad": 3.0,
    "SqrtGrad": 2.0,
    "EluGrad": 2.0,
    "Softplus": 3.0,
    "SoftplusGrad": 3.0,
    "LogSoftmax": 5.0,
    "SoftmaxCrossEntropyWithLogits": 8.0,
    "SparseSoftmaxCrossEntropyWithLogits": 8.0,
    "FusedBatchNormV3": 8.0,
    "FusedBatchNormGradV3": 12.0,
    "ResourceApplyGradientDescent": 2.0,
    "ResourceApplyMomentum": 4.0,
    "ResourceApplyKerasMomentum": 4.0,
    "ResourceApplyAdagrad": 5.0,
    "ResourceApplyAdagradV2": 6.0,
    "ResourceApplyRMSProp": 8.0,
    "ResourceApplyAdam": 12.0,
}

# Ops that only copy or choose: they do no arithmetic, and that is known.
_MOVES = frozenset(
    (
        "BroadcastTo Cast Concat ConcatV2 ConcatOffset DynamicStitch Fill Gather GatherNd GatherV2 "
        "InvertPermutation LinSpace MirrorPad OneHot OnesLike Pack Pad PadV2 Range "
        "ResourceGather ResourceGatherNd ReverseV2 ScatterNd Slice Split SplitV "
        "StridedSlice StridedSliceGrad Tile Transpose Unpack UnsortedSegmentSum ZerosLike "
        "BroadcastGradientArgs TensorScatterUpdate ResourceScatterUpdate"
    ).split()
)


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor.

    Attributes:
        shape: Its shape, -1 for an unknown dimension; None for an unknown rank.
        dtype: Name of its element type.
        bytes: Its size.
    """

    shape: tuple[int, ...] | None
    dtype: str
    bytes: float

    @property
    def elements(self) -> float:
        """Number of elements; 0 where the shape is not known."""
        if self.shape is None or min(self.shape, default=0) < 0:
            return 0.0
        return float(math.prod(self.shape))


@dataclass(frozen=True)
class Cost:
    """Work of one op; `flops` is None where no formula is known."""

    flops: float | None
    bytes: float


def cost_of(
    node: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    variable_bytes: Sequence[float],
    registry: Callable[[Any], float | None],
) -> Cost:
    """The cost of an op that calls no function.

    Args:
        node: Its NodeDef.
        inputs: The tensors it reads.
        outputs: The tensors it makes.
        variable_bytes: Sizes of the variables that it uses.
        registry: TensorFlow's own FLOPs of a node, None where it has no formula.
    """
    if node.op in NO_WORK:
        return Cost(0.0, 0.0)
    return Cost(_flops(node, inputs, outputs, registry), _bytes(node, inputs, outputs, variable_bytes))


def _flops(
    node: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    registry: Callable[[Any], float | None],
) -> float | None:
    if node.op in _MOVES:
        return 0.0
    if node.op in ("ResourceScatterAdd", "ResourceScatterSub"):
        return inputs[2].elements
    if node.op in _PER_ELEMENT:
        largest = max((t.elements for t in (*inputs, *outputs)), default=0.0)
        return _PER_ELEMENT[node.op] * largest
    if node.op.startswith("BatchMatMul"):  # the registry takes no notice of adj_x
        inner = inputs[0].shape[-2 if node.attr["adj_x"].b else -1] if inputs[0].shape else -1
        return 2.0 * inner * outputs[0].elements if inner >= 0 else None
    if node.op == "Einsum":
        return _einsum_flops(node.attr["equation"].s.decode(), inputs)
    return registry(node)


def _einsum_flops(equation: str, inputs: Sequence[Tensor]) -> float | None:
    """One multiplication and addition for each value of all the indices together."""
    terms = equation.split("->")[0].split(",")
    if "..." in equation or any(t.shape is None or len(t.shape) != len(s) for t, s in zip(inputs, terms, strict=True)):
        return None
    sizes = {i: n for t, s in zip(inputs, terms, strict=True) for i, n in zip(s, t.shape or (), strict=True)}
    return (2.0 if len(terms) > 1 else 1.0) * math.prod(sizes.values())


def _bytes(
    node: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor], variable_bytes: Sequence[float]
) -> float:
    """Bytes read and written: inputs and outputs, each once, unless only some of them are touched."""
    read = sum(t.bytes for t in inputs)
    written = sum(t.bytes for t in outputs)
    if node.op in ("Gather", "GatherV2", "GatherNd"):
        return read - inputs[0].bytes + 2 * written
    if node.op in ("ResourceGather", "ResourceGatherNd"):
        return read + 2 * written
    if node.op in ("Slice", "StridedSlice"):
        return 2 * written
    if node.op.startswith("ResourceScatter"):
        return read + 2 * inputs[2].bytes
    if node.op in ("AssignAddVariableOp", "AssignSubVariableOp") or node.op.startswith(
        "ResourceApply"
    ):
        return read + 2 * sum(variable_bytes)
    return read + written
