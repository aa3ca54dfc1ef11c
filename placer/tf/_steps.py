"""What processes that run steps have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from placer.tf._placed import OUTSIDE


def hold_inputs(graph_def: Any, values: Mapping[str, Any], inputs: Sequence[str]) -> None:
    """Has each placeholder read a variable on its device.

    What is fed to a session starts on the device of its target, and would be sent in each step.
    """
    nodes = {node.name: node for node in graph_def.node}
    for name in inputs:
        node = nodes[name]
        handle = graph_def.node.add(name=f"{OUTSIDE}/{name}", op="VarHandleOp", device=node.device)
        handle.attr["dtype"].type = node.attr["dtype"].type
        for size in values[name].shape:
            handle.attr["shape"].shape.dim.add(size=size)
        handle.attr["shared_name"].s = handle.name.encode()
        device, dtype = node.device, node.attr["dtype"].type
        controls = [ref for ref in node.input if ref.startswith("^")]
        node.Clear()
        node.name, node.op, node.device = name, "ReadVariableOp", device
        node.input.extend([handle.name, *controls])
        node.attr["dtype"].type = dtype


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def describe_error(error: Exception) -> str:
    """What went wrong in a step, in a line."""
    text = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if line != "Graph execution error:"]
    first = lines[0] if lines else ""
    if first.startswith("From /job:") and len(lines) > 1:  # then the error of that server
        first = f"{first} {lines[1]}"
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
