"""Pretraining with a record on disk that survives being stopped, and placing by what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from placer import files
from placer.api import Solution, solve
from placer.errors import UsageError
from placer.problem import MOST_EVALUATIONS, Problem, SearchResult, check_budget
from policies import BUNDLED

if TYPE_CHECKING:
    from policies.pretrained import PretrainedPolicy
    from policies.pretraining import Pretrainer, Row

SECONDS_BETWEEN_CHECKPOINTS = 30.0


def policy_path(given: Path) -> Path:
    """The file of a policy: ``bundled`` stands for the one that placer brings along."""
    return BUNDLED if given == Path("bundled") else given


def card_path(checkpoint: Path) -> Path:
    """Where the card of a checkpoint is written: beside it."""
    return checkpoint.with_suffix(".card.json")


def check_out(checkpoint: Path, *, resume: bool) -> None:
    """Checks where a checkpoint is to be written.

    Raises:
        UsageError: Not a file of this format, or one that is there already.
        PlacerError: It could not be written.
    """
    if checkpoint.suffix != ".npz":
        raise UsageError(f"--out {checkpoint}: expected a name that ends in .npz")
    if checkpoint.exists() and not resume:
        raise UsageError(
            f"{checkpoint}: there already; give another --out, or --resume to go on with it"
        )
    for path in (checkpoint, card_path(checkpoint)):
        files.check_writable(path)


def pretrain(pretrainer: Pretrainer, out: Path, on_row: Callable[[Row], None]) -> PretrainedPolicy:
    """Takes all steps that are left, then says how good the policy is on held-out problems.

    Args:
        pretrainer: Where to go on.
        out: The checkpoint; written every now and then, and at the end with its card beside it.
        on_row: Called after each step.

    Raises:
        PlacerError: A file cannot be written.
    """
    from policies.pretraining import evaluate_held_out

    for path in (out, card_path(out)):
        files.remove_asides(path)
    written = time.monotonic()
    while not pretrainer.done:
        on_row(pretrainer.step())
        if time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS:
            pretrainer.save(out)
            written = time.monotonic()
    held_out = evaluate_held_out(pretrainer.policy())
    pretrainer.save(out, held_out)
    policy = pretrainer.policy(held_out)
    content = json.dumps(policy.card, indent=2, allow_nan=False) + "\n"
    files.write_bytes(card_path(out), content.encode())
    return policy


def place(problem: Problem, policy: PretrainedPolicy, evaluations: int, seed: int) -> Solution:
    """Places a graph without training: by the heuristics, then by a policy.

    Args:
        problem: The problem.
        policy: The policy.
        evaluations: Its budget; the heuristics' evaluations are not part of it.
        seed: All randomness comes from it.

    Raises:
        UsageError: As :func:`placer.problem.check_budget`.
        InfeasibleError: No feasible placement was found.
    """
    check_budget(evaluations, seed)

    def zero_shot(problem: Problem, **given: Any) -> SearchResult:
        return policy.search(problem, **given | {"evaluations": evaluations})

    return solve(problem, strategy=zero_shot, evaluations=MOST_EVALUATIONS, seed=seed)
