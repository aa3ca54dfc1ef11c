"""A walk from placement to placement by moves of single op groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.moves import Moves
from placer.search._ledger import INFEASIBLE_COST, Ledger
from placer.simulator import Simulator


class Walk:
    """A placement, and what it would cost if an op group were elsewhere.

    Where step times are simulated, moves are tried through the exact session of the simulator,
    which gives the step times of full simulations, sooner. From an infeasible placement all are
    simulated in full, as the session does not tell how much memory is lacking.

    Args:
        ledger: What moves are counted in.
        choices: Where to begin, ``[num_groups]``; evaluating them counts.
    """

    def __init__(self, ledger: Ledger, choices: NDArray[np.int32]) -> None:
        self.choices = choices.copy()
        self._ledger = ledger
        self._problem = ledger.problem
        self._ops = [
            int(ops[0]) if len(ops) == 1 else ops for ops in self._problem.groups.ops_of_group
        ]
        self._moved = (0, 0, 0.0)  # group, device, cost
        costs = ledger.evaluate(choices[None])
        self.cost = float(costs[0]) if len(costs) else np.inf
        self._session: Moves | None = None
        self._open_session()

    def try_move(self, group: int, device: int) -> float:
        """The cost as in :meth:`Ledger.evaluate` if an op group were on a device.

        It is infinite for what is infeasible if the walk is not.
        """
        here = self.choices[group]
        self.choices[group] = device
        if self._session is not None:
            cost = self._session.try_move(self._ops[group], device)
            self._ledger.add(cost, self.choices)
        else:
            costs = self._ledger.evaluate(self.choices[None])
            cost = float(costs[0]) if len(costs) else np.inf
            if cost >= INFEASIBLE_COST > self.cost:
                cost = np.inf
        self.choices[group] = here
        self._moved = group, device, cost
        return cost

    def accept(self) -> None:
        """Makes the last move."""
        group, device, self.cost = self._moved
        self.choices[group] = device
        if self._session is not None:
            self._session.commit()
        else:
            self._open_session()

    def _open_session(self) -> None:
        evaluator = self._problem.evaluator
        if isinstance(evaluator, Simulator) and self.cost < INFEASIBLE_COST:
            self._session = evaluator.moves(self._problem.expand(self.choices))
