"""What importing placer costs, and what it exports."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import placer
from placer.heuristics import HEURISTICS
from placer.strategies import STRATEGIES


def _modules_after(statement: str) -> set[str]:
    script = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_import_is_light() -> None:
    """`import placer` loads no TensorFlow, plots, compiler, or anything else that is heavy."""
    heavy = {"tensorflow", "keras", "matplotlib", "numba", "networkx", "pymetis", "gymnasium"}
    assert not heavy & _modules_after("import placer, placer.tf, placer.heuristics")


def test_environments_do_not_need_tensorflow() -> None:
    """Other libraries' agents can train on the environments where TensorFlow is not installed."""
    assert not {"tensorflow", "keras", "matplotlib"} & _modules_after("import envs")


def test_the_public_names_are_those_listed() -> None:
    """Nothing is exported by accident."""
    public = {
        name
        for name, value in vars(placer).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert public == set(placer.__all__)
    assert placer.__all__ == sorted(placer.__all__)


def test_every_registered_name_resolves() -> None:
    """Strategies and heuristics are strings until they are called; each stands for a callable."""
    for target in (*STRATEGIES.values(), *HEURISTICS.values()):
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
