"""A policy that was trained before, on other problems: its file, and what it says of a new one."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer.errors import FormatError, InfeasibleError
from placer.heuristics._figures import group_seconds
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem, Progress, SearchResult, check_budget
from placer.search._ledger import Ledger
from policies import BUNDLED, checkpoint, learner
from policies.config import MODERN, TrainingConfig
from policies.graph_inputs import (
    DEVICE_FEATURES,
    GROUP_FEATURES,
    PAIR_FEATURES,
    graph_inputs,
    rounded,
)
from policies.graph_network import STATE_FEATURES, list_schedule_weights, weight_shapes
from policies.hierarchical import expand, fastest_devices
from policies.learner import LearnerState
from policies.networks import load_network
from policies.parts import partitions
from policies.reinforce import Trainer

KIND = "graph policy"
NETWORK = "graph"
ZERO_SHOT = "zero_shot"
FINE_TUNED = "pretrained"
FEATURES = {
    "group": list(GROUP_FEATURES),
    "device": list(DEVICE_FEATURES),
    "pair": list(PAIR_FEATURES),
    "state": list(STATE_FEATURES),
}
"""What the policy sees; a file says what its policy saw."""

_BATCH = 16

ZERO_SHOT_EVALUATIONS = 3 * _BATCH
"""A third are list schedules, and a third are of parts of the graph, but one of all of it."""

_NUM_PARTS = 4, 8
_DISORDER = 0.5  # of parts by their time, as the deviation of its logarithm


@dataclass(frozen=True, eq=False)
class PretrainedPolicy:
    """Weights that serve any graph and any cluster, and what is known of them.

    Attributes:
        weights: As :func:`policies.graph_network.weight_shapes`.
        card: On what they were trained, for how long, by which versions, and how good they are.
    """

    weights: dict[str, NDArray[np.float32]]
    card: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PretrainedPolicy:
        """Reads what :class:`policies.pretraining.Pretrainer` wrote.

        Raises:
            FormatError: The file is missing, no checkpoint, of something else, or its weights do
                not fit this version of the network.
        """
        arrays, facts = checkpoint.load(path)
        card = facts.get("card")
        if facts.get("kind") != KIND or not isinstance(card, dict):
            raise FormatError(
                f"{path}: a checkpoint, but not of a pretrained policy; expected a file written by "
                "placer pretrain"
            )
        if facts.get("features") != FEATURES:
            raise FormatError(
                f"{path}: its policy sees other features than this version of placer gives"
            )
        weights = {
            name.removeprefix("weights/"): array
            for name, array in arrays.items()
            if name.startswith("weights/")
        }
        _check(path, weights, card.get("hidden"))
        return cls(weights, card)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file to share and to place with: weights and card.

        Raises:
            PlacerError: The file cannot be written.
        """
        arrays = {f"weights/{name}": weight for name, weight in self.weights.items()}
        checkpoint.save(path, arrays, {"kind": KIND, "features": FEATURES, "card": self.card})

    @property
    def hidden(self) -> int:
        """Units of each layer."""
        return int(self.card["hidden"])

    def weights_for(self, problem: Problem) -> dict[str, NDArray[np.float32]]:
        """The weights with a bias of zero for each op group, as training on a problem begins."""
        shape = problem.num_groups, problem.num_devices
        return {**self.weights, "group_bias": np.zeros(shape, np.float32)}

    def search(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        seconds: float | None = None,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SearchResult:
        """Places a graph without training: the likeliest choices, then samples; the best counts.

        The samples of a batch are drawn at temperatures from 0 to 1: of hundreds of decisions few
        are to differ from the likeliest in some samples, and many in others. Two batches of three
        are of what no policy needs to learn, which is better for some graphs, and worse for others:
        one is drawn from the policy that pretraining begins with, which samples list schedules, and
        one balances parts of the graph over some of the devices, and at last has all of it on one.
        While nothing was feasible, op groups are moved off devices that are too full before a batch
        is evaluated, as heuristics do. `start` is evaluated after the likeliest choices.

        See :class:`placer.problem.Search` for arguments, result and errors.
        """
        ledger = Ledger(
            ZERO_SHOT,
            problem,
            evaluations=evaluations,
            seed=seed,
            seconds=seconds,
            on_progress=on_progress,
        )
        no_prior = np.zeros((problem.num_groups, problem.num_devices), np.float32)
        inputs = rounded(graph_inputs(problem, no_prior))
        num_groups, num_devices = inputs.allowed.shape
        rng, network = np.random.default_rng(seed), load_network(NETWORK)
        list_schedules = list_schedule_weights(rng, self.hidden)
        partitioned: list[NDArray[np.int32]] = []

        def evaluate(choices: NDArray[np.int32]) -> None:
            if ledger.count and ledger.best_choices is None:
                choices = np.array([keep_to_limits(problem, row) for row in choices])
            ledger.evaluate(choices)

        for weights in itertools.cycle([self.weights, list_schedules, None]):
            if not ledger.left:
                break
            if weights is None:
                partitioned = partitioned or partitions(problem, _NUM_PARTS)
                evaluate(_placed_by_parts(problem, partitioned, rng))
                continue
            noise = rng.gumbel(size=(num_groups, _BATCH, num_devices))
            noise *= (np.arange(_BATCH)[:, None] + (ledger.count > 0)) / _BATCH  # temperatures
            samples = learner.sample(network, weights, inputs, noise.astype(np.float32))
            choices = np.array(samples.choices)[:, : problem.num_groups]
            if start is not None and not ledger.count:
                choices[1] = problem.check_start(start)
            evaluate(choices)
        return ledger.result()

    def fine_tune(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        seconds: float | None = None,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        config: TrainingConfig = MODERN,
    ) -> SearchResult:
        """Places a graph as :meth:`search` with 48 evaluations, then trains from the best of these.

        Training evaluates the best again, as any start. `config` says how to train, as in
        :meth:`trainer`.

        See :class:`placer.problem.Search` for arguments, result and errors.
        """
        check_budget(evaluations, seed, seconds)
        began = time.perf_counter()
        found: SearchResult | None = None
        num_tried = min(ZERO_SHOT_EVALUATIONS, evaluations)

        def is_late() -> bool:
            return seconds is not None and time.perf_counter() - began >= seconds

        try:
            found = self.search(
                problem,
                evaluations=num_tried,
                seed=seed,
                seconds=seconds,
                start=start,
                on_progress=on_progress,
            )
        except InfeasibleError:  # training learns to fit
            if num_tried == evaluations or is_late():
                raise
        if found is not None and (num_tried == evaluations or is_late()):
            return dataclasses.replace(found, method=FINE_TUNED)
        trainer = self.trainer(
            problem,
            config,
            evaluations=evaluations - num_tried,
            seed=seed,
            start=start if found is None else found.choices,
        )
        spent = time.perf_counter() - began
        try:
            trained = trainer.run(
                None if on_progress is None else _after(num_tried, on_progress),
                seconds=None if seconds is None else max(seconds - spent, 1e-9),
            )
        except InfeasibleError as error:
            error.evaluations += num_tried
            raise
        before = np.full(num_tried, np.inf) if found is None else found.best_so_far
        times = np.zeros(num_tried) if found is None else found.seconds_so_far
        best = trained if found is None or trained.step_time_seconds < before[-1] else found
        return SearchResult(
            method=FINE_TUNED,
            choices=best.choices,
            step_time_seconds=best.step_time_seconds,
            evaluations=num_tried + trained.evaluations,
            seconds=time.perf_counter() - began,
            best_so_far=np.minimum.accumulate(np.concatenate([before, trained.best_so_far])),
            seconds_so_far=np.concatenate([times, spent + trained.seconds_so_far]),
        )

    def trainer(
        self,
        problem: Problem,
        config: TrainingConfig = MODERN,
        *,
        evaluations: int,
        seed: int,
        start: NDArray[np.int32] | None = None,
    ) -> Trainer:
        """A trainer that begins with this policy instead of a fresh one.

        Args:
            problem: The problem.
            config: How to train; the network and its size are those of the policy.
            evaluations: The budget.
            seed: All randomness comes from it.
            start: Choices to start from, ``[num_groups]``: the policy is biased towards them as a
                fresh one is. The best that :meth:`search` finds is a good start.

        Raises:
            UsageError: As :class:`policies.reinforce.Trainer`.
            InfeasibleError: Some op group may go nowhere.
        """
        config = dataclasses.replace(config, network=NETWORK, hidden=self.hidden)
        trainer = Trainer(problem, config, evaluations=evaluations, seed=seed, start=start)
        weights = self.weights_for(problem) if config.group_bias_rate else self.weights
        trainer.state = LearnerState.fresh(weights)
        return trainer


@functools.cache
def bundled() -> PretrainedPolicy:
    """The policy that placer brings along."""
    return PretrainedPolicy.load(BUNDLED)


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Trains the bundled policy on: :meth:`PretrainedPolicy.fine_tune`.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    return bundled().fine_tune(
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        start=start,
        on_progress=on_progress,
    )


def _placed_by_parts(
    problem: Problem, partitioned: list[NDArray[np.int32]], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Choices that balance parts of the graph over random devices, ``[_BATCH, num_groups]``.

    The parts of a partition go, roughly the longest first, to the device that is done first with
    them and with what it has (Graham, SIAM J. Appl. Math. 1969); which devices take part is drawn.
    The last row has all of them on the device that is fastest for all. An op group that may not go
    along goes to its fastest device.
    """
    fastest, num_devices = fastest_devices(problem), problem.num_devices
    seconds = group_seconds(problem)
    elsewhere = seconds[np.arange(problem.num_groups), fastest][:, None]
    seconds = np.where(problem.allowed, seconds, elsewhere)
    rows = []
    for parts in itertools.islice(itertools.cycle(partitioned), _BATCH):
        part_seconds = np.zeros((problem.num_groups, num_devices))
        np.add.at(part_seconds, parts, seconds)
        loads = np.full(num_devices, np.inf)
        num_used = int(rng.integers(min(2, num_devices), num_devices + 1))
        loads[rng.choice(num_devices, num_used, replace=False)] = 0.0
        devices = np.zeros(problem.num_groups, np.int32)
        disorder = rng.lognormal(sigma=_DISORDER, size=problem.num_groups)
        for part in np.argsort(-part_seconds.mean(axis=1) * disorder):
            devices[part] = (loads + part_seconds[part]).argmin()
            loads[devices[part]] += part_seconds[part, devices[part]]
        rows.append(np.concatenate([parts, devices]))
    rows[-1][problem.num_groups :] = seconds.sum(axis=0).argmin()
    return expand(np.array(rows), problem.allowed, fastest)


def _after(
    num_evaluations: int, on_progress: Callable[[Progress], None]
) -> Callable[[Progress], None]:
    """Counts evaluations that were made before."""

    def told(now: Progress) -> None:
        on_progress(dataclasses.replace(now, evaluations=num_evaluations + now.evaluations))

    return told


def _check(
    path: str | os.PathLike[str], weights: dict[str, NDArray[np.float32]], hidden: object
) -> None:
    """Checks names, shapes and values of weights.

    Raises:
        FormatError: The first misfit.
    """
    if not isinstance(hidden, int) or hidden < 1:
        raise FormatError(f"{path}: hidden is {hidden!r}; expected a whole number above 0")
    shapes = weight_shapes(hidden)
    for name in sorted(shapes.keys() ^ weights.keys()):
        what = "lacks" if name in shapes else "has an unknown"
        raise FormatError(f"{path}: {what} weight {name!r}")
    for name, shape in shapes.items():
        weight = weights[name]
        if weight.shape != shape or weight.dtype != np.float32:
            raise FormatError(
                f"{path}: weight {name!r} is {weight.dtype} {weight.shape}; "
                f"expected float32 {shape}"
            )
        if not np.isfinite(weight).all():
            raise FormatError(f"{path}: weight {name!r} is not finite everywhere")
