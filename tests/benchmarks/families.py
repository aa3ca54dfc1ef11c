"""Synthetic graphs of realistic shape, and clusters for them.

A family is a model that grows with its depth: an Inception-like stack of modules with four
branches, a grid of LSTM cells (layers x time steps), a Transformer. Each comes as the forward pass
alone, or with the backward pass and an update per variable. A variable is no op: its bytes are
parameters of the first op that uses it, as in the op-level graphs of the literature. Every op has
its own duration, some of a few microseconds and some of hundreds. There are no colocation groups,
so that every placement is feasible but for memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output

_LSTM_LAYERS = 8
_HEADS = 8
_GRADIENT = "gradient_tape/"


@dataclass
class _Model:
    """Collects the ops of a forward pass, producers first."""

    rng: np.random.Generator
    ops: list[Op] = field(default_factory=list)
    variable_bytes: dict[str, float] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)  # ops that use each variable
    variable_of: dict[str, str] = field(default_factory=dict)  # what an op uses, if anything

    def variable(self, name: str, most_bytes: float) -> str:
        """Adds a variable; returns its name."""
        self.variable_bytes[name] = _log_uniform(self.rng, most_bytes / 4, most_bytes)
        self.users[name] = []
        return name

    def light(self, name: str, *inputs: str, variable: str | None = None) -> str:
        """Adds an op of 2 to 20 µs, such as an activation; returns its name."""
        return self._add(name, inputs, variable, _log_uniform(self.rng, 2_000, 20_000))

    def heavy(self, name: str, *inputs: str, variable: str | None = None) -> str:
        """Adds an op of 40 to 400 µs, such as a convolution; returns its name."""
        return self._add(name, inputs, variable, _log_uniform(self.rng, 40_000, 400_000))

    def _add(self, name: str, inputs: tuple[str, ...], variable: str | None, ns: float) -> str:
        held = 0.0
        if variable is not None:
            held = 0.0 if self.users[variable] else self.variable_bytes[variable]
            self.users[variable].append(name)
            self.variable_of[name] = variable
        op = Op(
            name,
            name.rpartition("/")[2],
            inputs,
            parameter_bytes=held,
            outputs=(Output(_log_uniform(self.rng, 1e5, 4e6)),),
            seconds={"gpu": ns / 1e9},
        )
        self.ops.append(op)
        return name


def _log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    """A whole number whose logarithm is uniform."""
    return float(round(np.exp(rng.uniform(np.log(least), np.log(most)))))


def _inception(model: _Model, num_modules: int) -> None:
    """Modules of four parallel branches of convolution, normalization and activation."""

    def convolution(scope: str, source: str) -> str:
        kernel = model.variable(f"{scope}/conv/kernel", 4e6)
        scale = model.variable(f"{scope}/norm/scale", 4e3)
        out = model.heavy(f"{scope}/conv/Conv2D", source, variable=kernel)
        out = model.light(f"{scope}/norm/BatchNorm", out, variable=scale)
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
    model.heavy("loss/MatMul", out, variable=model.variable("loss/kernel", 8e6))


def _lstm_grid(model: _Model, num_steps: int) -> None:
    """Eight layers of LSTM cells; all steps of a layer use the same variables."""
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
        out = model.light(f"embedding/step_{step}/Gather", variable=embedding)
        for layer, (kernel, bias) in enumerate(weights):
            scope = f"lstm_{layer}/step_{step}"
            out = model.light(f"{scope}/Concat", out, *states[layer])
            out = model.heavy(f"{scope}/MatMul", out, variable=kernel)
            out = model.light(f"{scope}/BiasAdd", out, variable=bias)
            gates = [model.light(f"{scope}/{gate}/Sigmoid", out) for gate in ("i", "f", "o")]
            new = model.light(f"{scope}/g/Tanh", out)
            cell = model.light(f"{scope}/i/Mul", gates[0], new)
            if cells[layer]:
                kept = model.light(f"{scope}/f/Mul", gates[1], *cells[layer])
                cell = model.light(f"{scope}/Add", cell, kept)
            squashed = model.light(f"{scope}/Tanh", cell)
            out = model.light(f"{scope}/o/Mul", gates[2], squashed)
            states[layer], cells[layer] = (out,), (cell,)
        out = model.heavy(f"softmax/step_{step}/MatMul", out, variable=projection)
        losses.append(model.light(f"softmax/step_{step}/Loss", out))
    model.light("loss/AddN", *losses)


def _transformer(model: _Model, num_layers: int) -> None:
    """Layers of eight parallel attention heads and an MLP, with residuals."""

    def dense(scope: str, source: str) -> str:
        kernel = model.variable(f"{scope}/kernel", 4e6)
        return model.heavy(f"{scope}/MatMul", source, variable=kernel)

    def normalize(scope: str, source: str) -> str:
        scale = model.variable(f"{scope}/scale", 4e3)
        return model.light(f"{scope}/LayerNorm", source, variable=scale)

    out = model.light("embedding/Gather", variable=model.variable("embedding/table", 64e6))
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
    model.heavy("loss/MatMul", out, variable=model.variable("loss/kernel", 64e6))


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
    the op's own inputs. That of a variable is an op of its own, as long as the other. Its update
    reads the sum over the ops that use it.
    """
    size_of = {op.name: op.outputs[0].bytes for op in model.ops} | model.variable_bytes
    summands: dict[str, list[str]] = defaultdict(list)  # gradients by what they are with respect to
    ops: list[Op] = []

    def add(
        name: str, op_type: str, inputs: tuple[str, ...], to: tuple[str, ...], ns: float
    ) -> str:
        """Adds an op of about so long, whose outputs are as large as what they are for."""
        outputs = tuple(Output(size_of[each]) for each in to)
        seconds = {"gpu": round(ns * model.rng.uniform(0.8, 1.2)) / 1e9}
        ops.append(Op(name, op_type, inputs, outputs=outputs, seconds=seconds))
        return name

    def total(of: str) -> list[str]:
        """All that is sent back to an op or a variable, as one tensor."""
        found = summands[of]
        if len(found) < 2:
            return found
        return [add(f"{_GRADIENT}{of}_AddN", "AddN", tuple(found), (of,), 2_000 * len(found))]

    for op in reversed(model.ops):
        inputs = (*total(op.name), *op.inputs)
        variable = model.variable_of.get(op.name)
        ns = op.seconds["gpu"] * 1e9
        if op.inputs:
            gradient = add(_GRADIENT + op.name, f"{op.type}Grad", inputs, op.inputs, ns)
            for port, name in enumerate(op.inputs):
                summands[name].append(f"{gradient}:{port}")
        if variable is not None:
            name = f"{_GRADIENT}{op.name}_variable"
            summands[variable].append(add(name, f"{op.type}Grad", inputs, (variable,), ns))
            if op.name == model.users[variable][0]:  # the last that is differentiated
                scope, _, leaf = variable.rpartition("/")
                gradients = tuple(total(variable))
                add(f"{scope}/update_{leaf}", "ApplyGradientDescent", gradients, (), 5_000)
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
