"""FLOPs and bytes of each op of a flat GraphDef."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def op_types(names: str) -> frozenset[str]:
    """A set of op types from a line of them."""
    return frozenset(names.split())


# Ops that hand on a buffer or a handle, or say what is known before the step: no work on a device.
NO_WORK = op_types(
    "AssignVariableOp Bitcast Const ControlTrigger EnsureShape ExpandDims Identity IdentityN "
    "NoOp Placeholder PlaceholderWithDefault PreventGradient Rank ReadVariableOp Reshape Shape "
    "ShapeN Size Snapshot Squeeze StopGradient VarHandleOp VarIsInitializedOp VariableShape"
)

# FLOPs per element of the largest tensor, where TensorFlow's own registry has no formula.
_PER_ELEMENT = {
    **dict.fromkeys(
        op_types(
            "Abs AssignAddVariableOp AssignSubVariableOp Ceil DivNoNan Elu Erf Erfc Exp Expm1 "
            "Floor FloorDiv FloorMod LeakyRelu LeakyReluGrad LogicalAnd LogicalNot LogicalOr Log1p "
            "Max Min Prod Relu Relu6 Relu6Grad ReluGrad Round Select SelectV2 Sigmoid Sign Sqrt "
            "Tanh All Any Cumsum Sin Cos"
        ),
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
_MOVES = op_types(
    "BroadcastTo Cast Concat ConcatV2 ConcatOffset DynamicStitch Fill Gather GatherNd GatherV2 "
    "InvertPermutation LinSpace MirrorPad OneHot OnesLike Pack Pad PadV2 Range "
    "ResourceGather ResourceGatherNd ReverseV2 ScatterNd Slice Split SplitV "
    "StridedSlice StridedSliceGrad Tile Transpose Unpack UnsortedSegmentSum ZerosLike "
    "BroadcastGradientArgs TensorScatterUpdate ResourceScatterUpdate EmptyTensorList "
    "TensorListFromTensor TensorListGetItem TensorListPopBack TensorListPushBack "
    "TensorListReserve TensorListSetItem TensorListStack"
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
    """Work of one op.

    Attributes:
        flops: Floating-point operations.
        bytes: Bytes read and written.
        known: Whether there is a formula for all the FLOPs.
    """

    flops: float
    bytes: float
    known: bool = True


def cost_of(
    node: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    registry: Callable[[Any], float | None],
) -> Cost:
    """The cost of an op that calls no function.

    Args:
        node: Its NodeDef.
        inputs: The tensors it reads.
        outputs: The tensors it makes.
        registry: TensorFlow's own FLOPs of a node, None where it has no formula.
    """
    if node.op in NO_WORK:
        return Cost(0.0, 0.0)
    flops = _flops(node, inputs, outputs, registry)
    # at least a byte, so that an op on empty tensors still is one that is launched
    return Cost(flops or 0.0, max(_bytes(node.op, inputs, outputs), 1.0), flops is not None)


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
    """One multiplication and one addition for each value of all the indices together."""
    sizes: dict[str, int] = {}
    for tensor, term in zip(inputs, equation.split("->")[0].split(","), strict=True):
        if tensor.shape is None or len(tensor.shape) != len(term) or min(tensor.shape) < 0:
            return None  # an ellipsis, or an unknown shape
        sizes.update(zip(term, tensor.shape, strict=True))
    return (2.0 if len(inputs) > 1 else 1.0) * math.prod(sizes.values())


def _bytes(op_type: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Bytes read and written: inputs and outputs once each, or the part of them that is touched."""
    read = sum(t.bytes for t in inputs)
    written = sum(t.bytes for t in outputs)
    if op_type in ("Gather", "GatherV2", "GatherNd", "Slice", "StridedSlice"):
        return read - inputs[0].bytes + 2 * written
    if op_type in ("ResourceGather", "ResourceGatherNd"):
        return read + 2 * written
    if op_type.startswith("ResourceScatter"):
        return read + 2 * inputs[2].bytes
    if op_type.startswith(("ResourceApply", "ResourceSparseApply", "AssignAdd", "AssignSub")):
        # each variable, or the rows of it that change, is read and written
        variables = sum(t.dtype == "resource" for t in inputs)
        return read + 2 * variables * max(t.bytes for t in inputs)
    return read + written
