"""Writes placements in TensorFlow's terms for ``placer export``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from placer import files
from placer.errors import UsageError
from placer.placement import Placement

SUFFIXES = (".json", ".pb", ".pbtxt")


def export(
    placement: Placement,
    path: str | os.PathLike[str],
    *,
    devices: Sequence[str] | None = None,
    graph_def: str | os.PathLike[str] | None = None,
) -> None:
    """Writes where each op runs, or a GraphDef that says it, in a format by the file's suffix.

    Args:
        placement: The placement.
        path: The file: ``.json`` for the name of the TensorFlow device by op name; ``.pb`` or
            ``.pbtxt`` for a GraphDef, binary or text.
        devices: Name of the TensorFlow device for each device of the cluster; None for those of
            the same names.
        graph_def: For a GraphDef, the file of the one that the placement's graph was read from.

    Raises:
        UsageError: Another suffix, no GraphDef to write, or devices that do not fit.
        PlacerError: The GraphDef cannot be read or is another one, or the file cannot be written.
    """
    from placer import tf

    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UsageError(f"{os.fspath(path)}: unknown suffix; expected {', '.join(SUFFIXES)}")
    if suffix == ".json":
        content = msgspec.json.encode(tf.device_map(placement, devices=devices))
        files.write_bytes(path, msgspec.json.format(content, indent=1) + b"\n")
        return
    if graph_def is None:
        raise UsageError(
            f"{os.fspath(path)}: a GraphDef is made from the one that the graph was read from; "
            "expected --graph-def FILE, or the suffix .json"
        )
    placed = tf.apply_to_graph_def(graph_def, placement, devices=devices)
    if suffix == ".pbtxt":
        files.write_bytes(path, str(placed).encode())
    else:
        files.write_bytes(path, placed.SerializeToString(deterministic=True))
