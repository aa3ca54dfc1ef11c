"""Writes the schemas beside this file."""

from pathlib import Path

from placer import files
from placer.schemas import DOCUMENTS, schema

for name in DOCUMENTS:
    files.write_bytes(Path(__file__).with_name(f"{name}.schema.json"), schema(name))
