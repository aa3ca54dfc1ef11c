"""Random problems to pretrain on: graphs as training steps of networks are, on unlike clusters.

A block is one op group: an op of the forward pass and, in a training step, one of the backward pass
that mirrors it, with the block's variables. How much work, how many bytes and how much variety a
graph has is drawn over several orders of magnitude, so that graphs where splitting pays, and where
it does not, both come up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from placer.cluster import Cluster, Device, Link
from placer.errors import InfeasibleError
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.placement import Order
from placer.problem import Problem
from placer.simulator import Simulator

_GPU_FLOPS = 1e13
_TIGHT_MEMORY = 0.2  # part of the problems where memory matters


@dataclass
class _Block:
    """One op group of a graph to be.

    Attributes:
        inputs: The blocks that it reads, all before it.
        weights: The shared variables that it reads, or -1.
        work: Relative work.
        output: Relative size of its output.
        op_type: Type of the forward op.
    """

    inputs: tuple[int, ...]
    weights: int = -1
    work: float = 1.0
    output: float = 1.0
    op_type: str = "MatMul"


@dataclass
class _Plan:
    """Blocks in topological order, and relative sizes of the variables that blocks share."""

    blocks: list[_Block] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, *inputs: int, **figures: float | str) -> int:
        """Adds a block; returns its number."""
        self.blocks.append(_Block(tuple(sorted(set(inputs))), **figures))  # type: ignore[arg-type]
        return len(self.blocks) - 1

    def share(self, size: float) -> int:
        """Adds variables that blocks share; returns their number."""
        self.weights.append(size)
        return len(self.weights) - 1


def generate_problem(rng: np.random.Generator, num_blocks: int) -> Problem:
    """A random graph on a random cluster, in either order.

    Args:
        rng: All randomness comes from it.
        num_blocks: About so many op groups; at most so many.
    """
    while True:
        graph, groups = generate_graph(rng, num_blocks)
        cluster = generate_cluster(rng, graph)
        order: Order = "priority" if rng.random() < 0.5 else "fifo"
        problem = Problem(graph, cluster, groups, Simulator(graph, cluster, order=order), order)
        try:
            _ = problem.allowed
        except InfeasibleError:  # variables that fit nowhere
            continue
        return problem


def generate_graph(rng: np.random.Generator, num_blocks: int) -> tuple[OpGraph, OpGroups]:
    """A random graph and its op groups, one a block.

    Args:
        rng: All randomness comes from it.
        num_blocks: At most so many op groups.
    """
    name, family = _FAMILIES[int(rng.integers(len(_FAMILIES)))]
    plan = family(rng, num_blocks)
    return _build(rng, name, plan)


def generate_cluster(rng: np.random.Generator, graph: OpGraph) -> Cluster:
    """A random cluster: 2 to 8 devices, over PCIe, NVLink or between two nodes.

    Args:
        rng: All randomness comes from it.
        graph: What is to run there; where memory is tight, it is as measured by its bytes.
    """
    num_gpus = int(rng.integers(2, 9))
    with_cpu = num_gpus < 8 and rng.random() < 0.6
    speeds = np.ones(num_gpus)
    if rng.random() < 0.4:
        speeds = rng.uniform(0.3, 1.0, num_gpus)
    memory = np.full(num_gpus, np.inf)
    if rng.random() < _TIGHT_MEMORY:
        held = float(graph.parameter_bytes.sum() + graph.tensor_bytes.sum())
        memory = held * rng.uniform(1.2, 4.0) / num_gpus * rng.uniform(0.7, 1.3, num_gpus)
    flops = _GPU_FLOPS * _log_uniform(rng, 0.3, 2.0)
    devices = [
        Device(
            name=f"gpu:{i}",
            kind="gpu",
            memory_bytes=float(memory[i]),
            flops=flops * speeds[i],
            memory_bandwidth=flops * speeds[i] * 0.07,
            op_overhead_seconds=5e-6,
        )
        for i in range(num_gpus)
    ]
    if with_cpu:
        cpu_flops = _log_uniform(rng, 0.3e12, 3e12)
        devices.insert(
            0,
            Device(
                name="cpu:0",
                kind="cpu",
                memory_bytes=float("inf"),
                flops=cpu_flops,
                memory_bandwidth=cpu_flops * 0.05,
                op_overhead_seconds=2e-6,
            ),
        )
    return Cluster("generated", tuple(devices), _links(rng, [device.name for device in devices]))


def _links(rng: np.random.Generator, names: list[str]) -> tuple[Link, ...]:
    """Links among all devices, of one of three kinds."""
    inside: dict[str, float | str] = {
        "bandwidth": _log_uniform(rng, 5e9, 3e10),
        "latency_seconds": _log_uniform(rng, 5e-6, 4e-5),
        "channel": str(rng.choice(["source", "source", "pair", "bus"])),
    }
    if rng.random() < 0.4:
        inside = {
            "bandwidth": _log_uniform(rng, 2e10, 3e11),
            "latency_seconds": _log_uniform(rng, 3e-6, 2e-5),
            "channel": str(rng.choice(["pair", "source"])),
        }
    if len(names) < 4 or rng.random() < 0.75:
        return (Link(tuple(names), **inside),)  # type: ignore[arg-type]
    bandwidth, latency = _log_uniform(rng, 1e9, 1.5e10), _log_uniform(rng, 2e-5, 2e-4)
    nodes = names[: len(names) // 2], names[len(names) // 2 :]
    return (
        *(Link(tuple(node), **inside) for node in nodes),  # type: ignore[arg-type]
        *(Link(pair, bandwidth, latency, "network") for pair in itertools.product(*nodes)),
    )


def _build(rng: np.random.Generator, name: str, plan: _Plan) -> tuple[OpGraph, OpGroups]:
    """Gives a plan its figures, and its backward pass if it is a training step."""
    blocks = plan.blocks
    training = rng.random() < 0.75
    variety = rng.uniform(0.0, 0.8)
    flops = _log_uniform(rng, 3e8, 3e10) * np.exp(variety * rng.normal(size=len(blocks)))
    flops *= [block.work for block in blocks]
    # bytes that are sent while a GPU does as much work over a link of 10 GB/s
    sizes = _log_uniform(rng, 0.01, 1.0) * np.median(flops) / _GPU_FLOPS * 1e10
    outputs = sizes * np.exp(variety * rng.normal(size=len(blocks)))
    outputs *= [block.output for block in blocks]
    shared = [_log_uniform(rng, 0.3, 10.0) * sizes * size for size in plan.weights]
    own = np.where([block.weights < 0 for block in blocks], rng.uniform(0, 2) * sizes, 0.0)
    consumers: list[list[int]] = [[] for _ in blocks]
    for number, block in enumerate(blocks):
        for source in block.inputs:
            consumers[source].append(number)
    readers = [
        [n for n, block in enumerate(blocks) if block.weights == w] for w in range(len(shared))
    ]

    ops: list[Op] = []
    group_of_op: list[str] = []

    def add(group: str, op: Op) -> None:
        ops.append(op)
        group_of_op.append(group)

    for weights, size in enumerate(shared):
        variable = Op(f"w{weights}", "VarHandleOp", parameter_bytes=size, outputs=(Output(size),))
        add(f"w{weights}", variable)
    for number, block in enumerate(blocks):
        reads = [f"b{source}:0" for source in block.inputs]
        if block.weights >= 0:
            reads.append(f"w{block.weights}:0")
        add(
            f"b{number}",
            Op(
                f"b{number}",
                block.op_type,
                tuple(reads),
                flops=float(flops[number]),
                bytes_accessed=float(3 * outputs[number]),
                parameter_bytes=float(own[number]),
                outputs=(Output(float(outputs[number])),),
            ),
        )
    if training:
        for number in reversed(range(len(blocks))):
            block = blocks[number]
            gradients = [
                f"g{consumer}:{blocks[consumer].inputs.index(number)}"
                for consumer in consumers[number]
            ]
            made = [Output(float(outputs[source])) for source in block.inputs]
            if block.weights >= 0:
                made.append(Output(shared[block.weights]))
            add(
                f"b{number}",
                Op(
                    f"g{number}",
                    block.op_type,
                    (f"b{number}:0", *gradients),
                    flops=float(2 * flops[number]),
                    bytes_accessed=float(6 * outputs[number]),
                    outputs=tuple(made),
                ),
            )
        for weights, size in enumerate(shared):
            reads = [f"g{number}:{len(blocks[number].inputs)}" for number in readers[weights]]
            update = Op(f"u{weights}", "ResourceApplyAdam", tuple(reads), bytes_accessed=4 * size)
            add(f"w{weights}", update)
    numbers = {group: i for i, group in enumerate(dict.fromkeys(group_of_op))}
    graph = OpGraph.from_ops(name, ops)
    of_op = np.array([numbers[group] for group in group_of_op], np.int32)
    return graph, OpGroups(graph, of_op, tuple(numbers))


def _layered(rng: np.random.Generator, num_blocks: int) -> _Plan:
    """Layers of random widths; each block reads one to three blocks, most of the layer before."""
    plan = _Plan()
    before: list[int] = []
    most = int(rng.integers(2, 13))
    while len(plan.blocks) < num_blocks:
        width = min(int(rng.integers(1, most + 1)), num_blocks - len(plan.blocks))
        layer = []
        for _ in range(width):
            inputs: list[int] = []
            if before:
                inputs = rng.choice(before, min(len(before), int(rng.integers(1, 4)))).tolist()
                if rng.random() < 0.2:
                    inputs.append(int(rng.integers(before[0] + 1)))
            layer.append(plan.add(*inputs))
        before = layer
    return plan


def _grid(rng: np.random.Generator, num_blocks: int) -> _Plan:
    """A recurrent network: layers by steps, a softmax a step, variables shared along a layer."""
    num_layers = int(rng.integers(1, 7))
    heads = rng.random() < 0.7
    num_steps = max(2, (num_blocks - num_layers - 1) // (num_layers + heads))
    plan = _Plan(weights=[1.0] * num_layers)
    _cells(plan, num_layers, num_steps, shared=0)
    if heads:
        weights, work = plan.share(_log_uniform(rng, 0.5, 4)), _log_uniform(rng, 0.3, 4)
        for step in range(num_steps):
            top = (num_layers - 1) * num_steps + step
            plan.add(top, weights=weights, work=work, output=0.1)
    return plan


def _cells(
    plan: _Plan, num_layers: int, num_steps: int, shared: int, inputs: tuple[int, ...] = ()
) -> list[int]:
    """Adds a grid of cells; returns those of the last layer."""
    below: list[int] = []
    for layer in range(num_layers):
        row: list[int] = []
        for step in range(num_steps):
            reads = [*row[-1:], *below[step : step + 1]] or list(inputs)
            row.append(plan.add(*reads, weights=shared + layer, op_type="BatchMatMulV2"))
        below = row
    return below


def _translation(rng: np.random.Generator, num_blocks: int) -> _Plan:
    """Encoder, attention, decoder: each step of the decoder reads all of the encoder's outputs."""
    num_layers = int(rng.integers(1, 4))
    num_steps = max(2, (num_blocks - 2 * num_layers - 3) // (2 * num_layers + 2))
    plan = _Plan(weights=[1.0] * (2 * num_layers))
    top = _cells(plan, num_layers, num_steps, shared=0)
    memory = plan.add(*top, work=0.2, output=num_steps / 2, op_type="Pack")
    decoded = _cells(plan, num_layers, num_steps, shared=num_layers, inputs=(top[-1],))
    attention, softmax = plan.share(0.5), plan.share(_log_uniform(rng, 0.5, 4))
    work = _log_uniform(rng, 0.5, 5)
    for cell in decoded:
        context = plan.add(cell, memory, weights=attention, work=0.5)
        plan.add(context, weights=softmax, work=work, output=0.1)
    return plan


def _branches(rng: np.random.Generator, num_blocks: int) -> _Plan:
    """Modules of parallel branches that are concatenated, as Inception's."""
    plan = _Plan()
    width, depth = int(rng.integers(2, 7)), int(rng.integers(1, 4))
    last = plan.add(op_type="Conv2D")
    while len(plan.blocks) + width * depth + 1 <= num_blocks:
        ends = []
        for _ in range(width):
            end, work = last, _log_uniform(rng, 0.2, 2)
            for _ in range(int(rng.integers(1, depth + 1))):
                end = plan.add(end, op_type="Conv2D", work=work, output=1 / width)
            ends.append(end)
        last = plan.add(*ends, op_type="ConcatV2", work=0.05)
    return plan


def _chain(rng: np.random.Generator, num_blocks: int) -> _Plan:
    """Layers one after the other with connections that skip some, as residual networks."""
    plan = _Plan()
    skip = int(rng.integers(1, 5))
    op_type = str(rng.choice(["Conv2D", "MatMul"]))
    last = plan.add(op_type=op_type)
    while len(plan.blocks) < num_blocks:
        after = max(last - skip, 0)
        last = plan.add(last, *([after] if rng.random() < 0.5 else []), op_type=op_type)
    return plan


def _attention(rng: np.random.Generator, num_blocks: int) -> _Plan:
    """Layers of parallel heads and a wide layer each, as transformers."""
    plan = _Plan()
    num_heads = int(rng.integers(1, 9))
    last = plan.add(op_type="GatherV2", work=0.1)
    while len(plan.blocks) + num_heads + 2 <= num_blocks:
        heads = [plan.add(last, output=1 / num_heads) for _ in range(num_heads)]
        joined = plan.add(last, *heads, work=num_heads / 2)
        last = plan.add(joined, work=num_heads)
    return plan


_FAMILIES: tuple[tuple[str, Callable[[np.random.Generator, int], _Plan]], ...] = (
    ("layered", _layered),
    ("grid", _grid),
    ("translation", _translation),
    ("branches", _branches),
    ("chain", _chain),
    ("attention", _attention),
)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
