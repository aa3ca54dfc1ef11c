"""JSON Schemas of placer's file formats, for tools that write them.

``python -m placer.schemas`` regenerates the files beside this one from the structs that read them.
"""

from __future__ import annotations

import msgspec

from placer.cluster import ClusterDocument
from placer.graph import GraphDocument
from placer.placement import PlacementDocument

DOCUMENTS = {
    "graph": GraphDocument,
    "cluster": ClusterDocument,
    "placement": PlacementDocument,
}
"""The struct behind each schema."""


def schema(name: str) -> bytes:
    """The JSON Schema of a format: ``"graph"``, ``"cluster"`` or ``"placement"``."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(DOCUMENTS[name]))) + b"\n"
