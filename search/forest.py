"""kgen's own sampler: the performance model's ranking, corrected by a random forest as times come in.

The forest learns by how much log2 of a latency exceeds what the model predicts, of features of config and plan; a
failure counts as twice the worst time. Proposed is what has the greatest expected improvement on the best time and, now
and then, any other one that promises much, so that a wrong forest is found out. A candidate under way counts as what
the forest expects of it, so that those that compile ahead differ from one another.

Energies are learned like times, errors without the model. Several objectives are made one, anew for every proposal, as
in ParEGO (Knowles, 2006): by an augmented Chebyshev norm of their costs (log2, from 0 at the least evaluated to 1 at
the greatest) with random weights, each of which aims at another place on the Pareto front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import optuna
from kgen.search.features import Features, Featurizer
from kgen.search.objectives import Objective, objectives_of
from kgen.search.samplers import ENDED, SpaceSampler
from kgen.search.space import SWITCH, Space
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm
from sklearn.ensemble import RandomForestRegressor

from kgen.errors import InfeasibleError
from kgen.machine import Config, Program
from kgen.model import Constants

Costs = np.ndarray[Any, np.dtype[np.float64]]

_TREES = 64
_LEAST_PASSED = 6
"""Evaluations that passed before the forest has a say."""
_EXPLORED, _PROMISING = 0.05, 1 / 16
"""Share of proposals that do not have the greatest expected improvement, and of the configs they are one of."""
_REFIT = 8
"""The forest is grown anew when it lacks one in so many evaluations."""
_LEAST_SPREAD = 1e-3
_LEAST_BELIEVED = 48
"""Evaluations that passed before the forest may say that nothing is left to gain."""
_SUM_SHARE = 0.05
"""Of the sum of weighted costs beside the greatest, without which what is dominated may rank with the front."""
_LEAST_VALUE = 1e-12
"""Of an objective, for its log2: an error may be 0."""


class ForestSampler(SpaceSampler):
    """Proposes what a random forest expects most of; ``plan`` makes a config's program.

    ``constants`` are the performance model's, by default the device's.
    """

    def __init__(
        self,
        space: Space,
        study: optuna.Study,
        plan: Callable[[Config], Program],
        seed: int,
        constants: Constants | None = None,
    ) -> None:
        super().__init__(space)
        self._rng = np.random.default_rng(seed)
        self._featurize = Featurizer(space.choices, plan, constants)
        self._features: dict[Config, Features] = {}
        self._objectives = objectives_of(study)
        self._evaluated: dict[Config, Costs | None] = {}
        """By config, a cost for each objective, which is log2 of its value or its inverse; None where it failed."""
        self._under_way: dict[int, Config] = {}
        self._expected: dict[Config, tuple[float, float]] = {}
        """Mean and spread of what the trees say of the configs that were left when they grew."""
        self._expected_costs: dict[Config, Costs] = {}
        self._weights = np.ones(len(self._objectives))
        self._grown_with = 0
        for trial in study.get_trials(deepcopy=False, states=ENDED):
            self._learn(trial, trial.state, trial.values)

    def choose(self, study: optuna.Study, trial: FrozenTrial) -> Config:
        left = self._space.left
        if len(self._passed) < _LEAST_PASSED:
            chosen = min(left, key=self._predicted)
        else:
            self._grow(left)
            expecting = [config for config in left if config in self._expected]
            explores = self._rng.random() < _EXPLORED
            chosen = self._any_promising(expecting) if explores else self._most_promising(expecting)
        self._under_way[trial.number] = chosen
        return chosen

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._learn(trial, state, values)

    def _learn(self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._under_way.pop(trial.number, None)
        if state not in ENDED or trial.params.get(SWITCH) not in self._space.choices:
            return
        config = self._space.suggest(optuna.trial.FixedTrial(trial.params))
        with suppress(InfeasibleError):  # by rules that are new since it was proposed
            self._of(config)
            self._evaluated[config] = self._costs(values) if values else None

    @property
    def expected_gain(self) -> float | None:
        left = self._space.left
        if len(self._passed) < _LEAST_BELIEVED or not left or any(config not in self._expected for config in left):
            return None
        best = self._ranked(np.array(self._passed)).min()
        mean, spread = np.array([self._expected[config] for config in left]).T * math.log(2)
        # Of a latency whose logarithm is normal: E[max(0, 1 - latency / best)].
        shift = mean - best * math.log(2)
        gains = norm.cdf(-shift / spread) - np.exp(shift + spread**2 / 2) * norm.cdf(-shift / spread - spread)
        return float(gains.max())

    @property
    def _passed(self) -> list[Costs]:
        return [costs for costs in self._evaluated.values() if costs is not None]

    def _most_promising(self, left: Sequence[Config]) -> Config:
        best = self._ranked(np.array(self._passed)).min()
        mean, spread = np.array([self._expected[config] for config in left]).T
        gain = (best - mean) / spread
        return left[int(np.argmax(spread * (gain * norm.cdf(gain) + norm.pdf(gain))))]

    def _any_promising(self, left: Sequence[Config]) -> Config:
        ranked = sorted(left, key=lambda config: self._expected[config][0])
        return ranked[int(self._rng.integers(math.ceil(len(ranked) * _PROMISING)))]

    def _grow(self, left: Sequence[Config]) -> None:
        """Grow the forest, and ask it of what is left, unless it knows nearly all there is to know."""
        several, told = len(self._objectives) > 1, len(self._evaluated) + len(self._under_way)
        known_well = (told - self._grown_with) * _REFIT < self._grown_with
        if not several and known_well and any(config in self._expected for config in left):
            return
        if several:
            self._weights = self._rng.dirichlet(np.ones(len(self._objectives)))
        worst = np.max(self._passed, axis=0)
        costs = {config: worst + 1 if one is None else one for config, one in self._evaluated.items()}
        for config in self._under_way.values():
            costs.setdefault(config, self._expected_costs.get(config, worst))
        forest = RandomForestRegressor(_TREES, max_features=0.5, random_state=int(self._rng.integers(1 << 31)))
        excess = np.array(list(costs.values())) - self._modelled(list(costs))
        forest.fit(self._rows(list(costs)), excess if several else excess[:, 0])
        rows = self._rows(left)
        trees = np.stack([tree.predict(rows, check_input=False) for tree in forest.estimators_])
        expected = trees.reshape(len(trees), len(left), -1) + self._modelled(left)
        ranked = self._ranked(expected)
        mean, spread = ranked.mean(axis=0), np.maximum(ranked.std(axis=0), _LEAST_SPREAD)
        self._expected |= dict(zip(left, zip(mean.tolist(), spread.tolist(), strict=True), strict=True))
        self._expected_costs |= dict(zip(left, expected.mean(axis=0), strict=True))
        self._grown_with = told

    def _ranked(self, costs: Costs) -> Costs:
        """Costs (..., objectives) as one figure by which to rank (...)."""
        if len(self._objectives) == 1:
            return costs[..., 0]
        low, high = np.min(self._passed, axis=0), np.max(self._passed, axis=0)
        weighted = self._weights * (costs - low) / np.maximum(high - low, _LEAST_SPREAD)
        return np.asarray(weighted.max(axis=-1) + _SUM_SHARE * weighted.sum(axis=-1))

    def _costs(self, values: Sequence[float]) -> Costs:
        logs = (math.log2(max(value, _LEAST_VALUE)) for value in values)
        return np.array([-one.sign * log for one, log in zip(self._objectives, logs, strict=True)])

    def _modelled(self, configs: Sequence[Config]) -> Costs:
        """What the performance model says of costs (configs, objectives), which is nothing of errors."""
        told = [one is not Objective.ERROR for one in self._objectives]
        return np.outer([self._predicted(config) for config in configs], told)

    def _rows(self, configs: Sequence[Config]) -> Any:
        return np.array([self._of(config) for config in configs])

    def _predicted(self, config: Config) -> float:
        """log2 of what the performance model predicts."""
        return float(self._of(config)[0])

    def _of(self, config: Config) -> Features:
        found = self._features.get(config)
        if found is None:
            found = self._features[config] = self._featurize(config)
        return found
