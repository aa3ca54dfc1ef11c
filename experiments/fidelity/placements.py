"""The placements under which simulated and measured step times are compared."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.heuristics import evaluate_heuristics
from placer.problem import Problem, Progress
from placer.strategies import STRATEGIES, resolve

KINDS = ("heuristic", "learned", "moved", "random")
LEARNING_EVALUATIONS = 800


class Candidate(msgspec.Struct, frozen=True):
    """A placement to measure and predict.

    Attributes:
        kind: One of :data:`KINDS`.
        devices: Device index of each op, ``[num_ops]``.
    """

    kind: str
    devices: list[int]


def choose_placements(problem: Problem, count: int, seed: int) -> list[Candidate]:
    """Placements of all kinds, each once, fewer than `count` where there are no more.

    Those of heuristics; those that REINFORCE on the simulator holds for the best so far on its
    way; of what is left, a third drawn uniformly, and the others from the first two kinds, with a
    share of the op groups that differs from placement to placement moved elsewhere. None that the
    simulator says does not fit: it predicts no step time of those.

    Args:
        problem: The problem, with simulated step times.
        count: How many.
        seed: All randomness comes from it.
    """
    rng = np.random.default_rng(seed)
    heuristics = evaluate_heuristics(problem, rng.spawn(1)[0])
    found: dict[bytes, tuple[str, NDArray[np.int32]]] = {}

    def add(kind: str, choices: NDArray[np.int32]) -> None:
        if len(found) < count and problem.evaluate(choices[None]).feasible[0]:
            found.setdefault(choices.astype(np.int32).tobytes(), (kind, choices))

    for row in heuristics:
        if row.choices is not None:
            add("heuristic", row.choices)
    learned = _learn(problem, seed)
    for choices in learned[:: max(1, len(learned) * 4 // count)]:
        add("learned", choices)
    known = np.array([choices for _, choices in found.values()])
    for _ in range(20 * count):  # small problems have fewer placements than asked for
        if len(found) == count:
            break
        (drawn,) = draw_choices(problem, rng, 1)
        if rng.random() < 1 / 3:
            add("random", drawn)
        else:
            start = known[rng.integers(len(known))]
            moves = rng.random(problem.num_groups) < rng.random() ** 2
            add("moved", np.where(moves, drawn, start).astype(np.int32))
    return [Candidate(kind, problem.expand(c).tolist()) for kind, c in found.values()]


def _learn(problem: Problem, seed: int) -> list[NDArray[np.int32]]:
    """The best choices so far after each batch of REINFORCE, without repetitions."""
    best: dict[bytes, NDArray[np.int32]] = {}

    def note(progress: Progress) -> None:
        if progress.choices is not None:
            best.setdefault(progress.choices.tobytes(), progress.choices)

    search = resolve("strategy", "reinforce", STRATEGIES)
    search(problem, evaluations=LEARNING_EVALUATIONS, seed=seed, on_progress=note)
    return list(best.values())
