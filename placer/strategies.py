"""The strategies that :func:`placer.place` knows by name, resolved when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from placer.errors import UnknownNameError

STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "reinforce": "policies.reinforce:search",
        "colocrl": "policies.reinforce:search_colocrl",
        "ppo": "policies.reinforce:search_ppo",
        "hierarchical": "policies.hierarchical:search",
        "pretrained": "policies.pretrained:search",
        "walk": "policies.walk:search",
        "random": "placer.search.random:search",
        "hill_climbing": "placer.search.hill_climbing:search",
        "annealing": "placer.search.annealing:search",
        "cross_entropy": "placer.search.cross_entropy:search",
        "genetic": "placer.search.genetic:search",
        "large_neighbourhood": "placer.search.large_neighbourhood:search",
        "exact": "placer.search.exact:search",
    }
)
"""Searches by name, each ``"module:attribute"`` of a :class:`placer.problem.Search`.

They are strings so that nothing of TensorFlow is imported before it is needed, and so that placer
never imports the packages above it.
"""

USES_TENSORFLOW = frozenset({"reinforce", "colocrl", "ppo", "hierarchical", "pretrained"})
"""Those that import it when they are called."""


def resolve(kind: str, name: str, known: Mapping[str, str]) -> Any:
    """Returns the attribute that ``known[name]``, a ``"module:attribute"``, stands for.

    Raises:
        UnknownNameError: `known` has no such name; `kind` says what it should have named.
    """
    if name not in known:
        raise UnknownNameError(kind, name, known)
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
