"""OpGraph: a computation graph as read-only arrays, with its file format."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from placer import files
from placer.errors import GraphError

if TYPE_CHECKING:
    import networkx as nx

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_BUNDLED = Path(__file__).parent / "workloads"


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor that an op makes: an output port.

    Attributes:
        bytes: Size of the tensor.
        shape: Its shape, where known; -1 for an unknown dimension.
        dtype: Its element type, such as ``"float32"``, where known.
    """

    bytes: float = 0
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One op, as in the file format.

    Attributes:
        name: Unique name.
        type: Type, such as ``"MatMul"``.
        inputs: What it needs, as TensorFlow writes it: ``"op:port"``, ``"op"`` for port 0,
            ``"^op"`` for a control edge.
        flops: Floating-point operations.
        bytes_accessed: Bytes read and written.
        parameter_bytes: Bytes of variables that live with the op at all times.
        temporary_bytes: Bytes in use only while the op runs.
        outputs: The tensors it makes, by port.
        colocation_group: Ops with the same word here must share a device.
        device_kinds: The device kinds that can run it; None for any.
        seconds: Known durations by device model or device kind, launch overhead included.
    """

    name: str
    type: str
    inputs: tuple[str, ...] = ()
    flops: float = 0
    bytes_accessed: float = 0
    parameter_bytes: float = 0
    temporary_bytes: float = 0
    outputs: tuple[Output, ...] = ()
    colocation_group: str | None = None
    device_kinds: tuple[str, ...] | None = None
    seconds: dict[str, float] = {}


class GraphDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graph file. Sizes are in bytes, work in floating-point operations, durations in seconds."""

    FORMAT: ClassVar[str] = "placer.graph/1"

    format: Literal["placer.graph/1"]
    name: str
    ops: tuple[Op, ...]


@dataclass(frozen=True, eq=False)
class OpGraph:
    """A computation graph.

    Ops and tensors are numbered in the user's order: op ``i`` is the ``i``-th that was given, and
    the tensors of op ``i`` are ``output_offsets[i]`` to ``output_offsets[i + 1]``. All arrays are
    read-only. Build one with :meth:`from_ops`, :meth:`load`, :meth:`from_networkx` or
    ``placer.tf.read``; two graphs are equal if their names and fingerprints are.

    Attributes:
        name: What to call the graph.
        op_names: Unique names, ``[num_ops]``.
        op_types: Types, ``[num_ops]``.
        flops: Floating-point operations per op, ``[num_ops]``.
        bytes_accessed: Bytes read and written per op, ``[num_ops]``.
        parameter_bytes: Bytes of variables per op, ``[num_ops]``.
        temporary_bytes: Bytes in use only while the op runs, ``[num_ops]``.
        output_offsets: First tensor of each op, and the end, ``[num_ops + 1]``.
        tensor_bytes: Size of each tensor, ``[num_tensors]``.
        tensor_producer: Op that makes each tensor, ``[num_tensors]``.
        tensor_shapes: Shape of each tensor or None, ``[num_tensors]``.
        tensor_dtypes: Element type of each tensor or None, ``[num_tensors]``.
        input_offsets: First entry of each op in `input_tensors`, and the end, ``[num_ops + 1]``.
        input_tensors: Tensors that each op reads, in its own order, ``[num_inputs]``.
        control_offsets: First entry of each op in `control_inputs`, and the end,
            ``[num_ops + 1]``.
        control_inputs: Ops that must finish before each op starts, ``[num_control_inputs]``.
        colocation_group: Index of the group with which an op shares its device, or -1,
            ``[num_ops]``.
        colocation_names: Name of each colocation group.
        device_kinds: Kinds of device that can run each op, None for any, ``[num_ops]``.
        seconds: Known durations of each op by device model or kind, ``[num_ops]``.
        topological_order: Ops in an order where producers come first; among the ready ones the
            user's order decides, ``[num_ops]``.
    """

    name: str
    op_names: tuple[str, ...]
    op_types: tuple[str, ...]
    flops: Floats
    bytes_accessed: Floats
    parameter_bytes: Floats
    temporary_bytes: Floats
    output_offsets: Ints
    tensor_bytes: Floats
    tensor_producer: Ints
    tensor_shapes: tuple[tuple[int, ...] | None, ...]
    tensor_dtypes: tuple[str | None, ...]
    input_offsets: Ints
    input_tensors: Ints
    control_offsets: Ints
    control_inputs: Ints
    colocation_group: Ints
    colocation_names: tuple[str, ...]
    device_kinds: tuple[tuple[str, ...] | None, ...]
    seconds: tuple[Mapping[str, float], ...]
    topological_order: Ints

    @classmethod
    def from_ops(cls, name: str, ops: Iterable[Op]) -> OpGraph:
        """Builds a graph from ops in the user's order.

        Raises:
            GraphError: No ops, a name given twice, an input that does not exist, a cycle (the
                message shows one), or a figure that is negative or not finite.
        """
        ops = tuple(ops)
        if not ops:
            raise GraphError(f"graph {name!r} has no ops; expected at least one")
        index = _index_names(ops)
        for op in ops:
            _check_figures(op)
        num_outputs = np.fromiter((len(op.outputs) for op in ops), np.int64, len(ops))
        output_offsets = _offsets(num_outputs)
        inputs, controls = _resolve_inputs(ops, index, output_offsets)
        input_offsets = _offsets([len(i) for i in inputs])
        control_offsets = _offsets([len(c) for c in controls])
        input_tensors = _int_array([t for row in inputs for t in row])
        control_inputs = _int_array([c for row in controls for c in row])
        tensor_producer = _int_array(np.repeat(np.arange(len(ops)), num_outputs))
        named = dict.fromkeys(op.colocation_group for op in ops if op.colocation_group is not None)
        groups = {group: i for i, group in enumerate(named)}
        op_names = tuple(op.name for op in ops)
        order = _topological_order(
            op_names, input_offsets, tensor_producer[input_tensors], control_offsets, control_inputs
        )
        return cls(
            name=name,
            op_names=op_names,
            op_types=tuple(op.type for op in ops),
            flops=_float_array(op.flops for op in ops),
            bytes_accessed=_float_array(op.bytes_accessed for op in ops),
            parameter_bytes=_float_array(op.parameter_bytes for op in ops),
            temporary_bytes=_float_array(op.temporary_bytes for op in ops),
            output_offsets=output_offsets,
            tensor_bytes=_float_array(o.bytes for op in ops for o in op.outputs),
            tensor_producer=tensor_producer,
            tensor_shapes=tuple(o.shape for op in ops for o in op.outputs),
            tensor_dtypes=tuple(o.dtype for op in ops for o in op.outputs),
            input_offsets=input_offsets,
            input_tensors=input_tensors,
            control_offsets=control_offsets,
            control_inputs=control_inputs,
            colocation_group=_int_array(
                [-1 if op.colocation_group is None else groups[op.colocation_group] for op in ops]
            ),
            colocation_names=tuple(groups),
            device_kinds=tuple(op.device_kinds for op in ops),
            seconds=tuple({key: float(value) for key, value in op.seconds.items()} for op in ops),
            topological_order=order,
        )

    @property
    def num_ops(self) -> int:
        """How many ops there are."""
        return len(self.op_names)

    @property
    def num_tensors(self) -> int:
        """How many tensors there are."""
        return len(self.tensor_bytes)

    @functools.cached_property
    def op_index(self) -> Mapping[str, int]:
        """Index of each op by its name."""
        return {name: i for i, name in enumerate(self.op_names)}

    @functools.cached_property
    def edges(self) -> tuple[Ints, Ints, Ints]:
        """All edges: producer op, consumer op, and tensor or -1 for control, ``[num_edges]`` each.

        An op that reads a tensor twice gives two edges.
        """
        consumers = np.arange(self.num_ops, dtype=np.int32)
        data = np.repeat(consumers, np.diff(self.input_offsets))
        control = np.repeat(consumers, np.diff(self.control_offsets))
        producers = np.concatenate([self.tensor_producer[self.input_tensors], self.control_inputs])
        tensors = np.concatenate([self.input_tensors, np.full(len(control), -1, np.int32)])
        return (
            _int_array(producers),
            _int_array(np.concatenate([data, control])),
            _int_array(tensors),
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of all that the graph file says but the graph's own name."""
        content = msgspec.json.encode(self.ops(), order="sorted")
        return "sha256:" + hashlib.sha256(content).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OpGraph):
            return NotImplemented
        return self.name == other.name and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash((self.name, self.fingerprint))

    def __repr__(self) -> str:
        return f"OpGraph({self.name!r}, {self.num_ops} ops, {self.num_tensors} tensors)"

    def __reduce__(self) -> tuple[Any, ...]:  # so that copies and other processes stay read-only
        return OpGraph.from_ops, (self.name, self.ops())

    def ops(self) -> tuple[Op, ...]:
        """The ops as they were given."""
        refs = [
            f"{self.op_names[producer]}:{tensor - self.output_offsets[producer]}"
            for tensor, producer in enumerate(self.tensor_producer.tolist())
        ]
        inputs, controls = self.input_offsets.tolist(), self.control_offsets.tolist()
        outputs = self.output_offsets.tolist()
        tensor_bytes = [_plain(b) for b in self.tensor_bytes.tolist()]
        return tuple(
            Op(
                name=name,
                type=self.op_types[i],
                inputs=(
                    *(refs[t] for t in self.input_tensors[inputs[i] : inputs[i + 1]]),
                    *(
                        "^" + self.op_names[c]
                        for c in self.control_inputs[controls[i] : controls[i + 1]]
                    ),
                ),
                flops=_plain(self.flops[i]),
                bytes_accessed=_plain(self.bytes_accessed[i]),
                parameter_bytes=_plain(self.parameter_bytes[i]),
                temporary_bytes=_plain(self.temporary_bytes[i]),
                outputs=tuple(
                    Output(tensor_bytes[t], self.tensor_shapes[t], self.tensor_dtypes[t])
                    for t in range(outputs[i], outputs[i + 1])
                ),
                colocation_group=(
                    self.colocation_names[self.colocation_group[i]]
                    if self.colocation_group[i] >= 0
                    else None
                ),
                device_kinds=self.device_kinds[i],
                seconds=dict(self.seconds[i]),
            )
            for i, name in enumerate(self.op_names)
        )

    @classmethod
    def from_json(cls, content: bytes | str, where: str = "graph") -> OpGraph:
        """Reads the graph format.

        Raises:
            FormatError: Not the format; `where` and the path within are in the message.
            GraphError: As :meth:`from_ops`, with `where`.
        """
        content = content.encode() if isinstance(content, str) else content
        document = files.decode_json(content, GraphDocument, where)
        try:
            return cls.from_ops(document.name, document.ops)
        except GraphError as error:
            raise GraphError(f"{where}: {error}") from None

    def to_json(self) -> bytes:
        """The graph in its file format: a header line, then one op a line."""
        encode = msgspec.json.encode
        head = f'{{"format": "{GraphDocument.FORMAT}", "name": '.encode() + encode(self.name)
        return head + b', "ops": [\n' + b",\n".join(map(encode, self.ops())) + b"\n]}\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OpGraph:
        """Reads a graph file (``.json`` or ``.json.gz``) or, by its bare name, a bundled one.

        Raises:
            FormatError, GraphError: As :meth:`from_json`.
            UnknownNameError: Neither a file nor the name of a bundled graph.
        """
        return cls.from_json(*files.read_named("workload", path, bundled_graphs()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the graph file, zipped if the name ends in ``.gz``.

        Raises:
            PlacerError: The file cannot be written.
        """
        files.write_bytes(path, self.to_json())

    def to_networkx(self) -> nx.MultiDiGraph:
        """The graph for networkx: a node per op, an edge per input.

        Nodes are op names with the fields of :class:`Op` as attributes (``outputs`` as a tuple of
        :class:`Output`). Edges carry ``port`` (output port of the producer; None for control),
        ``input`` (position among the consumer's inputs) and ``bytes``.
        """
        import networkx as nx

        result = nx.MultiDiGraph(name=self.name)
        ops = self.ops()
        for op in ops:
            fields = {
                f: getattr(op, f) for f in op.__struct_fields__ if f not in ("name", "inputs")
            }
            result.add_node(op.name, **fields)
        for op in ops:
            for position, ref in enumerate(op.inputs):
                producer, port = split_input(ref)
                size = 0.0 if port is None else ops[self.op_index[producer]].outputs[port].bytes
                result.add_edge(producer, op.name, port=port, input=position, bytes=size)
        return result

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph, name: str | None = None) -> OpGraph:
        """Builds a graph from any directed networkx graph.

        Node attributes are the fields of :class:`Op`; absent ones take their defaults. Edges may
        carry ``port``, ``input`` and ``bytes``; without ``port``, an edge reads port 0. Where a
        node has no ``outputs``, its tensors are made from the ``bytes`` of its outgoing edges.

        Raises:
            GraphError: As :meth:`from_ops`, the graph is undirected, an attribute is no field of
                an op, or one of an edge does not fit.
        """
        if not graph.is_directed():
            raise GraphError(
                f"the graph is an undirected {type(graph).__name__}; "
                "expected one with a direction for each edge, such as a DiGraph"
            )
        known = set(Op.__struct_fields__) - {"name", "inputs"}
        ops = []
        for node, attributes in graph.nodes(data=True):
            unknown = set(attributes) - known
            if unknown:
                raise GraphError(
                    f"node {node!r} has unknown attribute {min(unknown)!r}; "
                    f"expected some of {', '.join(sorted(known))}"
                )
            incoming = sorted(
                (
                    (p, *_edge_fields(p, node, data))
                    for p, _, data in graph.in_edges(node, data=True)
                ),
                key=lambda entry: entry[2],
            )
            refs = tuple(f"^{p}" if port is None else f"{p}:{port}" for p, port, _, _ in incoming)
            given = {"type": "Op", **attributes}
            if "outputs" not in attributes:
                sizes: dict[int, float] = {}
                for _, consumer, data in graph.out_edges(node, data=True):
                    port, _, size = _edge_fields(node, consumer, data)
                    if port is not None:
                        sizes[port] = max(sizes.get(port, 0), size)
                given["outputs"] = tuple(
                    Output(sizes.get(p, 0)) for p in range(max(sizes, default=-1) + 1)
                )
            try:
                fields = msgspec.to_builtins(given, enc_hook=_python_number)
                ops.append(msgspec.convert({"name": str(node), "inputs": refs, **fields}, Op))
            except (msgspec.ValidationError, TypeError) as error:
                raise GraphError(f"node {node!r}: {error}") from None
        return cls.from_ops(name or str(graph.graph.get("name", "graph")), ops)


def bundled_graphs() -> dict[str, Path]:
    """The bundled graphs: name -> file."""
    return {p.name.removesuffix(".json.gz"): p for p in sorted(_BUNDLED.glob("*.json.gz"))}


def split_input(ref: str) -> tuple[str, int | None]:
    """Splits an input as TensorFlow writes it into op and port (None for a control edge)."""
    if ref.startswith("^"):
        return ref[1:], None
    producer, colon, port = ref.rpartition(":")
    if colon and port.isdecimal():
        return producer, int(port)
    return ref, 0


def _edge_fields(
    producer: object, consumer: object, attributes: Mapping[str, Any]
) -> tuple[int | None, int, float]:
    """The ``port``, ``input`` and ``bytes`` of a networkx edge, checked."""
    port, position, size = (
        value.item() if isinstance(value, np.generic) else value
        for value in (attributes.get(what, 0) for what in ("port", "input", "bytes"))
    )
    where = f"edge {producer!r} -> {consumer!r}"
    if port is not None and not (type(port) is int and port >= 0):
        raise GraphError(f"{where}: port is {port!r}; expected None or a whole number >= 0")
    if not (type(position) is int and position >= 0):
        raise GraphError(f"{where}: input is {position!r}; expected a whole number >= 0")
    if not (type(size) in (int, float) and 0 <= size <= sys.float_info.max):
        raise GraphError(f"{where}: bytes is {size!r}; expected a finite number >= 0")
    return port, position, size


def _python_number(value: object) -> object:
    """A NumPy number as one of Python, for msgspec."""
    number = value.item() if isinstance(value, np.generic) else value
    if type(number) is type(value):
        raise TypeError(f"{value!r} is a {type(value).__name__}; expected a plain value")
    return number


def _index_names(ops: Sequence[Op]) -> dict[str, int]:
    index: dict[str, int] = {}
    for i, op in enumerate(ops):
        if not op.name or op.name.startswith("^"):
            raise GraphError(f"ops[{i}] has name {op.name!r}; expected one not empty, without '^'")
        if op.name in index:
            raise GraphError(f"op name {op.name!r} is given twice: ops[{index[op.name]}] and [{i}]")
        index[op.name] = i
    return index


def _check_figures(op: Op) -> None:
    figures = [
        ("flops", op.flops),
        ("bytes_accessed", op.bytes_accessed),
        ("parameter_bytes", op.parameter_bytes),
        ("temporary_bytes", op.temporary_bytes),
        *((f"outputs[{port}].bytes", output.bytes) for port, output in enumerate(op.outputs)),
        *((f"seconds[{key!r}]", value) for key, value in op.seconds.items()),
    ]
    for what, value in figures:
        if not 0 <= value < float("inf"):
            raise GraphError(f"op {op.name!r}: {what} is {value}; expected a finite number >= 0")
    if op.device_kinds is not None and not op.device_kinds:
        raise GraphError(f"op {op.name!r}: device_kinds is empty; leave it out for any kind")


def _resolve_inputs(
    ops: Sequence[Op], index: Mapping[str, int], output_offsets: Ints
) -> tuple[list[list[int]], list[list[int]]]:
    """Input tensors and control inputs of each op, as indices."""
    starts = output_offsets.tolist()
    inputs: list[list[int]] = []
    controls: list[list[int]] = []
    for op in ops:
        data: list[int] = []
        control: dict[int, None] = {}
        for ref in op.inputs:
            name, port = split_input(ref)
            producer = index.get(name)
            if producer is None:
                raise GraphError(f"op {op.name!r}: input {ref!r} names no op of the graph")
            if port is None:
                control[producer] = None
                continue
            num_outputs = starts[producer + 1] - starts[producer]
            if port >= num_outputs:
                raise GraphError(
                    f"op {op.name!r}: input {ref!r}: op {name!r} has {num_outputs} outputs"
                )
            data.append(starts[producer] + port)
        inputs.append(data)
        controls.append(list(control))
    return inputs, controls


def _topological_order(
    names: Sequence[str],
    input_offsets: Ints,
    producers: Ints,
    control_offsets: Ints,
    control_inputs: Ints,
) -> Ints:
    """Kahn's algorithm with a heap, so that among the ready ops the user's order decides."""
    import heapq

    num_ops = len(names)
    parents: list[list[int]] = [
        producers[input_offsets[i] : input_offsets[i + 1]].tolist()
        + control_inputs[control_offsets[i] : control_offsets[i + 1]].tolist()
        for i in range(num_ops)
    ]
    children: list[list[int]] = [[] for _ in range(num_ops)]
    for op, row in enumerate(parents):
        for parent in row:
            children[parent].append(op)
    missing = [len(row) for row in parents]
    ready = [op for op in range(num_ops) if not missing[op]]
    order: list[int] = []
    while ready:
        op = heapq.heappop(ready)
        order.append(op)
        for child in children[op]:
            missing[child] -= 1
            if not missing[child]:
                heapq.heappush(ready, child)
    if len(order) < num_ops:
        raise GraphError(f"the graph has a cycle: {_describe_cycle(names, parents, missing)}")
    return _int_array(order)


def _describe_cycle(
    names: Sequence[str], parents: Sequence[Sequence[int]], missing: Sequence[int]
) -> str:
    """One cycle among the ops that still miss inputs, by walking to such parents."""
    op = next(i for i, count in enumerate(missing) if count)
    seen: dict[int, int] = {}
    path: list[int] = []
    while op not in seen:
        seen[op] = len(path)
        path.append(op)
        op = next(p for p in parents[op] if missing[p])
    cycle = [names[i] for i in reversed([*path[seen[op] :], op])]
    if len(cycle) > 8:
        cycle = [*cycle[:4], f"… {len(cycle) - 8} more …", *cycle[-4:]]
    return " -> ".join(cycle)


def _offsets(counts: Sequence[int] | NDArray[np.int64]) -> Ints:
    return _int_array(np.concatenate([[0], np.cumsum(counts)]))


def _int_array(values: Sequence[int] | NDArray[Any]) -> Ints:
    array = np.array(values, np.int32)
    array.setflags(write=False)
    return array


def _float_array(values: Iterable[float]) -> Floats:
    array = np.fromiter(values, np.float64)
    array.setflags(write=False)
    return array


def _plain(value: float) -> float:
    """A whole number as an int, which JSON writes shorter."""
    return int(value) if value == int(value) else float(value)
