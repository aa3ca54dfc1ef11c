"""Synthetic graphs of realistic shape, and clusters for them.

A family is a model that grows with its depth: an Inception-like stack of modules with four
branches, a grid of LSTM cells (layers x time steps), a Transformer. Each comes as the forward pass
alone, or with the backward pass and an update per variable. Every op has its own duration, some of
a few microseconds and some of hundreds. There are no colocation groups, so that every placement is
feasible but for memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output

VARIABLE = "ReadVariableOp"
"""Type of the ops that hold a variable."""

_LSTM_LAYERS = 8
_HEADS = 8
_GRADIENT = "gradient_tape/"


@dataclass
class _Model:
    """Collects the ops of a forward pass, producers first."""

    rng: np.random.Generator
    ops: list[Op] = field(default_factory=list)
    variables: set[str] = field(default_factory=set)

    def light(self, name: str, *inputs: str) -> str:
        """Adds an op of 2 to 20 µs, such as an activation; returns its name."""
        return self._add(name, inputs, _log_uniform(self.rng, 2_000, 20_000))

    def heavy(self, name: str, *inputs: str) -> str:
        """Adds an op of 40 to 400 µs, such as a convolution; returns its name."""
        return self._add(name, inputs, _log_uniform(self.rng, 40_000, 400_000))

    def variable(self, name: str, most_bytes: float) -> str:
        """Adds a variable with its read, an op of 1 to 2 µs; returns its name."""
        size = _log_uniform(self.rng, most_bytes / 4, most_bytes)
        seconds = {"gpu": _log_uniform(self.rng, 1_000, 2_000) / 1e9}
        outputs = (Output(size),)
        self.ops.append(Op(name, VARIABLE, parameter_bytes=size, outputs=outputs, seconds=seconds))
        self.variables.add(name)
        return name

    def _add(self, name: str, inputs: tuple[str, ...], ns: float) -> str:
        op_type = name.rpartition("/")[2]
        outputs = (Output(_log_uniform(self.rng, 1e5, 4e6)),)
        self.ops.append(Op(name, op_type, inputs, outputs=outputs, seconds={"gpu": ns / 1e9}))
        return name


def _log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    """A whole number whose logarithm is uniform."""
    return float(round(np.exp(rng.uniform(np.log(least), np.log(most)))))


def _inception(model: _Model, num_modules: int) -> None:
    """Modules of four parallel branches of convolution, normalization and activation."""

    def convolution(scope: str, source: str) -> str:
        kernel = model.variable(f"{scope}/conv/kernel", 4e6)
        scale = model.variable(f"{scope}/norm/scale", 4e3)
        out = model.heavy(f"{scope}/conv/Conv2D", source, kernel)
        out = model.light(f"{scope}/norm/BatchNorm", out, scale)
        return model.light(f"{scope}/Relu", out)

    out = convolution("stem", model.light("input"))
    for module in range(num_modules):
        scope = f"mixed_{module}"
        pool = model.light(f"{scope}/branch_3/Pool", out)
        ends = []
        for branch, (source, depth) in enumerate([(out, 1), (out, 2), (out, 3), (pool, 1)]):
            for layer in range(depth):
                source = convolution(f"{scope}/branch_{branch}/layer_{layer}", source)
            ends.append(source)
        out = model.light(f"{scope}/Concat", *ends)
    model.heavy("loss/MatMul", out, model.variable("loss/kernel", 8e6))


def _lstm_grid(model: _Model, num_steps: int) -> None:
    """Eight layers of LSTM cells; all steps of a layer read the same variables."""
    embedding = model.variable("embedding/table", 64e6)
    weights = [
        (
            model.variable(f"lstm_{layer}/kernel", 32e6),
            model.variable(f"lstm_{layer}/bias", 32e3),
        )
        for layer in range(_LSTM_LAYERS)
    ]
    projection = model.variable("softmax/kernel", 64e6)
    states: list[tuple[str, ...]] = [()] * _LSTM_LAYERS
    cells: list[tuple[str, ...]] = [()] * _LSTM_LAYERS
    losses = []
    for step in range(num_steps):
        out = model.light(f"embedding/step_{step}/Gather", embedding)
        for layer, (kernel, bias) in enumerate(weights):
            scope = f"lstm_{layer}/step_{step}"
            out = model.light(f"{scope}/Concat", out, *states[layer])
            out = model.heavy(f"{scope}/MatMul", out, kernel)
            out = model.light(f"{scope}/BiasAdd", out, bias)
            gates = [model.light(f"{scope}/{gate}/Sigmoid", out) for gate in ("i", "f", "o")]
            new = model.light(f"{scope}/g/Tanh", out)
            cell = model.light(f"{scope}/i/Mul", gates[0], new)
            if cells[layer]:
                kept = model.light(f"{scope}/f/Mul", gates[1], *cells[layer])
                cell = model.light(f"{scope}/Add", cell, kept)
            squashed = model.light(f"{scope}/Tanh", cell)
            out = model.light(f"{scope}/o/Mul", gates[2], squashed)
            states[layer], cells[layer] = (out,), (cell,)
        out = model.heavy(f"softmax/step_{step}/MatMul", out, projection)
        losses.append(model.light(f"softmax/step_{step}/Loss", out))
    model.light("loss/AddN", *losses)


def _transformer(model: _Model, num_layers: int) -> None:
    """Layers of eight parallel attention heads and an MLP, with residuals."""

    def dense(scope: str, source: str) -> str:
        kernel = model.variable(f"{scope}/kernel", 4e6)
        return model.heavy(f"{scope}/MatMul", source, kernel)

    def normalize(scope: str, source: str) -> str:
        return model.light(f"{scope}/LayerNorm", source, model.variable(f"{scope}/scale", 4e3))

    out = model.light("embedding/Gather", model.variable("embedding/table", 64e6))
    for layer in range(num_layers):
        scope = f"layer_{layer}"
        source = normalize(f"{scope}/attention", out)
        contexts = []
        for head in range(_HEADS):
            inside = f"{scope}/attention/head_{head}"
            query, key, value = (
                dense(f"{inside}/{name}", source) for name in ("query", "key", "value")
            )
            scores = model.heavy(f"{inside}/scores/MatMul", query, key)
            weights = model.light(f"{inside}/Softmax", scores)
            contexts.append(model.heavy(f"{inside}/context/MatMul", weights, value))
        joined = model.light(f"{scope}/attention/Concat", *contexts)
        out = model.light(f"{scope}/attention/Add", out, dense(f"{scope}/attention/out", joined))
        hidden = dense(f"{scope}/mlp/in", normalize(f"{scope}/mlp", out))
        hidden = dense(f"{scope}/mlp/out", model.light(f"{scope}/mlp/Gelu", hidden))
        out = model.light(f"{scope}/mlp/Add", out, hidden)
    model.heavy("loss/MatMul", out, model.variable("loss/kernel", 64e6))


FAMILIES: dict[str, Callable[[_Model, int], None]] = {
    "Inception": _inception,
    "RNN grid": _lstm_grid,
    "Transformer": _transformer,
}
"""Name -> what builds the forward pass of a given depth."""


def make_graph(family: str, num_ops: int, *, training: bool, seed: int = 0) -> OpGraph:
    """A graph of about `num_ops` ops, numbered in a topological order.

    Args:
        family: A name in :data:`FAMILIES`.
        num_ops: About how many ops; the depth is what comes closest.
        training: Whether it has a backward pass and updates, too.
        seed: Of durations and sizes.
    """

    def ops_of_depth(depth: int) -> list[Op]:
        model = _Model(np.random.default_rng(seed))
        FAMILIES[family](model, depth)
        return model.ops + _training_ops(model) if training else model.ops

    two, three = len(ops_of_depth(2)), len(ops_of_depth(3))
    depth = max(1, round(2 + (num_ops - two) / (three - two)))  # every unit has as many ops
    direction = "training" if training else "forward"
    return OpGraph.from_ops(f"{family} {direction}", ops_of_depth(depth))


def _training_ops(model: _Model) -> list[Op]:
    """Gradients in the reverse order of the ops they differentiate, and updates of variables.

    The gradient of an op reads what its consumers send back (a sum, where there are several) and
    the op's own inputs. That of a variable is an op of its own, as long as the other.
    """
    size_of = {op.name: op.outputs[0].bytes for op in model.ops}
    summands: dict[str, list[str]] = defaultdict(list)  # gradients by what they are with respect to
    ops: list[Op] = []

    def duration(seconds: float) -> dict[str, float]:
        return {"gpu": round(seconds * model.rng.uniform(0.8, 1.2) * 1e9) / 1e9}

    for op in reversed(model.ops):
        scope, _, leaf = op.name.rpartition("/")
        prefix = _GRADIENT + op.name
        upstream = summands[op.name]
        if len(upstream) > 1:
            seconds = duration(2e-6 * len(upstream))
            total = f"{prefix}_AddN"
            ops.append(Op(total, "AddN", tuple(upstream), outputs=op.outputs, seconds=seconds))
            upstream = [total]
        if op.name in model.variables:
            inputs = (*upstream, op.name)
            update = f"{scope}/update_{leaf}"
            ops.append(Op(update, "ApplyGradientDescent", inputs, seconds=duration(5e-6)))
            continue
        for suffix, wanted in (
            ("", [i for i in op.inputs if i not in model.variables]),
            ("_variables", [i for i in op.inputs if i in model.variables]),
        ):
            if not wanted:
                continue
            gradient = Op(
                prefix + suffix,
                f"{op.type}Grad",
                (*upstream, *op.inputs),
                outputs=tuple(Output(size_of[i]) for i in wanted),
                seconds=duration(op.seconds["gpu"]),
            )
            ops.append(gradient)
            for port, name in enumerate(wanted):
                summands[name].append(f"{gradient.name}:{port}")
    return ops


def make_cluster(
    num_devices: int,
    channel: str = "pair",
    *,
    slots: int = 1,
    memory_bytes: float = float("inf"),
) -> Cluster:
    """Equal GPUs with equal links of 12 GB/s and 10 µs between all of them."""
    names = tuple(f"gpu:{i}" for i in range(num_devices))
    return Cluster(
        f"{num_devices} GPUs",
        tuple(Device(name, "gpu", memory_bytes=memory_bytes, slots=slots) for name in names),
        (Link(names, 12e9, 10e-6, channel),) if num_devices > 1 else (),
    )
