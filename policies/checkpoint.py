"""Checkpoint files: arrays in NumPy's own format, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer.errors import FormatError
from placer.files import replacing
from placer.problem import Problem

FORMAT = "placer.checkpoint/1"

_UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
    TypeError,  # a single array, .npy
    *(RuntimeError, zlib.error, tokenize.TokenError, SyntaxError),  # broken headers and data
)
"""What NumPy and zipfile raise on files that they cannot read."""


def save(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> None:
    """Writes a checkpoint; a reader sees the old file or the new one, never a half.

    Args:
        path: The file, ``.npz``.
        arrays: Arrays by name.
        facts: Anything that JSON can hold.

    Raises:
        PlacerError: The file cannot be written.
    """
    document = json.dumps({"format": FORMAT, **facts})
    with replacing(path) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **{"": np.array(document), **arrays})


def load(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Reads a checkpoint; returns its arrays and facts.

    Raises:
        FormatError: The file is missing or no checkpoint.
    """
    try:
        # opened here, for np.load leaves a file that it cannot read open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
        facts = json.loads(str(arrays.pop("")))
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except _UNREADABLE:
        raise FormatError(f"{path}: not a checkpoint; expected an .npz file of arrays") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise FormatError(f"{path}: expected a checkpoint of format {FORMAT!r}")
    return arrays, facts


def identity(problem: Problem) -> dict[str, Any]:
    """What a checkpoint must agree on with the problem that it is restored for."""
    priorities = problem.priorities
    return {
        "graph": problem.graph.fingerprint,
        "cluster": problem.cluster.fingerprint,
        "num_groups": problem.num_groups,
        "group_of_op": _hash(problem.groups.group_of_op),
        "order": problem.order,
        "priorities": priorities if priorities is None else _hash(priorities),
    }


def check_made_for(
    path: str | os.PathLike[str], facts: Mapping[str, Any], problem: Problem
) -> None:
    """Checks that a checkpoint is of a problem.

    Raises:
        FormatError: It names none, or another one.
    """
    made_for = facts.get("problem")
    if not isinstance(made_for, dict):
        raise FormatError(f"{path}: not a whole checkpoint (it names no problem)")
    if made_for != identity(problem):
        raise FormatError(
            f"{path}: made for {_describe(made_for)}; the problem is {_describe(identity(problem))}"
        )


def _hash(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _describe(identity: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {str(value)[:15]}" for key, value in identity.items())
