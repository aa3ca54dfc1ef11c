"""A walk from placement to placement by moves of single op groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer._move_tables import PlacedGroups, Records, device_of
from placer.moves import Moves
from placer.search._ledger import INFEASIBLE_COST, Ledger
from placer.simulator import Simulator

_BLOCK = 512  # moves that are tried at a time
LEAST = float(np.finfo(float).tiny)
"""As a limit, makes all moves that cost nothing."""


class Walk:
    """A placement that moves of op groups change.

    Where step times are simulated, moves are tried through the exact session of the simulator,
    which gives the step times of full simulations, sooner. From an infeasible placement all are
    simulated in full, as the session does not tell how much memory is lacking.

    Args:
        ledger: What moves are counted in.
        choices: Where to begin, ``[num_groups]``; evaluating them counts.

    Attributes:
        cost: As in :meth:`Ledger.evaluate`.
    """

    def __init__(self, ledger: Ledger, choices: NDArray[np.int32]) -> None:
        self._ledger = ledger
        self._problem = ledger.problem
        group_of_op = self._problem.groups.group_of_op
        self._groups = PlacedGroups(
            ops=np.argsort(group_of_op, kind="stable").astype(np.uint32),
            offsets=np.append(0, np.bincount(group_of_op).cumsum()).astype(np.uint32),
            allowed=self._problem.allowed.copy(),
            choices=choices.copy(),
        )
        costs = ledger.evaluate(choices[None])
        self.cost = float(costs[0]) if len(costs) else np.inf
        self._session: Moves | None = None
        self._open_session()

    @property
    def choices(self) -> NDArray[np.int32]:
        """Where it is, ``[num_groups]``."""
        return self._groups.choices

    def take(self, proposals: Records, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tries moves in turn, each from where the walk then is; makes those that cost little.

        It pauses after 512, or before; but not before the first, unless the budget is spent.

        Args:
            proposals: The moves, as ``placer._move_tables.PROPOSAL``, ``[num_proposals]``.
            limits: A move is made if it changes the cost by less, ``[num_proposals]``; none is
                less than 0, so that all that improve on the best are made.

        Returns:
            How the cost changes by each move that was tried. From a feasible placement to an
            infeasible one it is infinite.
        """
        proposals = proposals[: min(self._ledger.left, _BLOCK)]
        if self._session is None:
            return self._take_by_evaluations(proposals, limits)
        if not len(proposals):
            return np.zeros(0)
        outcomes = self._session.walk(self._groups, proposals, limits[: len(proposals)])
        made = np.flatnonzero(outcomes["change"] < limits[: len(outcomes)])

        def choices_of(which: int) -> NDArray[np.int32]:
            choices = self.choices.copy()
            for later in made[made > which][::-1]:
                choices[proposals["group"][later]] = outcomes["origin"][later]
            return choices

        self._ledger.add(outcomes["seconds"], choices_of)
        self.cost = self._session.step_time_seconds
        return outcomes["change"]

    def _take_by_evaluations(
        self, proposals: Records, limits: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Evaluates whole placements, until a session can be opened."""
        changes: list[float] = []
        for proposal, limit in zip(proposals, limits, strict=False):
            group, was_feasible = proposal["group"], self.cost < INFEASIBLE_COST
            here = self.choices[group]
            self.choices[group] = device_of(proposal, self._groups.allowed, self.choices)
            costs = self._ledger.evaluate(self.choices[None])
            if not len(costs):
                self.choices[group] = here
                break
            cost = float(costs[0])
            change = np.inf if was_feasible and cost >= INFEASIBLE_COST else cost - self.cost
            changes.append(change)
            if not change < limit:
                self.choices[group] = here
                continue
            self.cost = cost
            if not was_feasible and cost < INFEASIBLE_COST:  # limits have another unit from here
                self._open_session()
                break
        return np.array(changes)

    def _open_session(self) -> None:
        evaluator = self._problem.evaluator
        if isinstance(evaluator, Simulator) and self.cost < INFEASIBLE_COST:
            self._session = evaluator.moves(self._problem.expand(self.choices))
