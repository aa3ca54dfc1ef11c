"""The placements that engineers make by hand, found through name scopes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from placer._scopes import scope_of
from placer.errors import PlacerError
from placer.heuristics._figures import accelerators, group_seconds
from placer.heuristics._memory import bytes_exchanged, keep_to_limits
from placer.heuristics.topological_blocks import equal_blocks
from placer.problem import Problem

_RECURRENT = re.compile(r"(?:.*_)?(?:lstm|gru|rnn)_?\d+")
_TOP = re.compile(r".*(?:attention|softmax|logits|loss).*")
_BRANCH = re.compile(r"branch.*")
_LAYER = re.compile(r"(?:layer|block)_?\d+")

Devices = dict[str, int]


def expert(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: what an engineer would do with a network of this shape.

    The devices are those of the fastest kind. By the first of these that the name scopes show:

    - recurrent layers (two or more of ``lstm_0``, ``decoder/gru_1`` …): a layer per device;
      attention, softmax and loss go with the last layer (Mirhoseini et al. 2017, section 4.2);
    - branches (two or more of ``mixed_3/branch_0`` … in each of several blocks): the branches of
      a block side by side, heaviest first, all else on the first device;
    - layers or blocks (three or more of ``layer_5``, ``stage_1/block_2`` …): contiguous runs of
      about equal work, a run per device.

    What belongs to none of these goes where it exchanges most bytes, such as an embedding to its
    first layer.

    Returns:
        Device per op group, ``[1, num_groups]``.

    Raises:
        PlacerError: No such scopes.
    """
    scopes = _scope_of_group(problem)
    work = dict.fromkeys(scopes, 0.0)
    devices = accelerators(problem).tolist()
    seconds = group_seconds(problem)[:, devices].mean(axis=1)
    for scope, value in zip(scopes, seconds.tolist(), strict=True):
        work[scope] += value
    for plan in (_recurrent, _branches, _layers):
        device_of_scope = plan(work, devices)
        if device_of_scope:
            choices = np.array([device_of_scope.get(scope, -1) for scope in scopes], np.int32)
            return keep_to_limits(problem, _fill(problem, choices, devices[0]))[None]
    raise PlacerError(
        f"no expert for graph {problem.graph.name!r}: its name scopes show neither two recurrent "
        "layers (lstm_0, lstm_1), nor blocks of branches (block_0/branch_1), nor three layers or "
        "blocks (layer_0, layer_1, layer_2)"
    )


def _scope_of_group(problem: Problem) -> list[str]:
    """The innermost scope of most work in each group, with all around it, ``[num_groups]``."""
    graph = problem.graph
    work = problem.op_seconds.min(axis=1)
    totals: list[dict[str, float]] = [{} for _ in range(problem.num_groups)]
    for op, group in enumerate(problem.groups.group_of_op.tolist()):
        colocation = graph.colocation_group[op]
        name = graph.op_names[op]
        scope = graph.colocation_names[colocation] if colocation >= 0 else scope_of(name)
        if scope:
            totals[group][scope] = totals[group].get(scope, 0.0) + work[op]
    return [max(sums, key=lambda s: (sums[s], s), default="") for sums in totals]


def _recurrent(work: Mapping[str, float], devices: list[int]) -> Devices | None:
    """A recurrent layer per device, in the order of first use; the top with the last."""
    layers = _prefixes(work, _RECURRENT)
    names = list(dict.fromkeys(layers.values()))
    if len(names) < 2:
        return None
    result = {s: devices[names.index(layer) % len(devices)] for s, layer in layers.items()}
    top = devices[(len(names) - 1) % len(devices)]
    for scope in _prefixes(work, _TOP):
        result.setdefault(scope, top)
    return result


def _branches(work: Mapping[str, float], devices: list[int]) -> Devices | None:
    """Branches of a block side by side, heaviest first; all other scopes on the first device."""
    branches = _prefixes(work, _BRANCH)
    sums: dict[str, dict[str, float]] = {}
    for scope, branch in branches.items():
        block = sums.setdefault(branch.rpartition("/")[0], {})
        block[branch] = block.get(branch, 0.0) + work[scope]
    if sum(len(block) >= 2 for block in sums.values()) < 2:
        return None
    result = dict.fromkeys(work, devices[0])
    for block in sums.values():
        ranking = sorted(block, key=lambda branch: (-block[branch], branch))
        for scope, branch in branches.items():
            if branch in block:
                result[scope] = devices[ranking.index(branch) % len(devices)]
    return result


def _layers(work: Mapping[str, float], devices: list[int]) -> Devices | None:
    """Contiguous runs of layers or blocks, a run of about equal work per device."""
    layers = _prefixes(work, _LAYER)
    sums: dict[str, float] = {}
    for scope, layer in layers.items():
        sums[layer] = sums.get(layer, 0.0) + work[scope]
    if len(sums) < 3:
        return None
    blocks = equal_blocks(np.array(list(sums.values())), len(devices))
    device_of_layer = {layer: devices[b] for layer, b in zip(sums, blocks.tolist(), strict=True)}
    return {scope: device_of_layer[layer] for scope, layer in layers.items()}


def _prefixes(scopes: Iterable[str], pattern: re.Pattern[str]) -> dict[str, str]:
    """The part of each scope up to its first component that matches, for those with one."""
    found: dict[str, str] = {}
    for scope in scopes:
        parts = scope.split("/")
        for i, part in enumerate(parts):
            if pattern.fullmatch(part):
                found[scope] = "/".join(parts[: i + 1])
                break
    return found


def _fill(problem: Problem, choices: NDArray[np.int32], default: int) -> NDArray[np.int32]:
    """Sends each group without a device (-1) to where those it exchanges most bytes with are."""
    choices = choices.copy()
    while (choices < 0).any():
        shared = bytes_exchanged(problem, choices)
        reached = (choices < 0) & shared.any(axis=1)
        if not reached.any():
            return np.where(choices < 0, default, choices).astype(np.int32)
        choices[reached] = shared[reached].argmax(axis=1)
    return choices
