"""Samplers of a listed space by name, each an Optuna sampler that proposes configs not proposed yet.

Optuna's own samplers choose a side, and then its fields in a study that shadows what the search knows of the side; the
nearest config that is left is proposed, and recorded there, in the place of what they choose. GP and CMA-ES cannot
choose a side, nor begin: TPE does it for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import optuna
from kgen.search.space import SWITCH, Space
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from kgen.errors import StudyError
from kgen.machine import Config, Program
from kgen.model import Constants

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class SpaceSampler(BaseSampler):
    """Proposes a config that is left in a space; a subclass says which."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def choose(self, study: optuna.Study, trial: FrozenTrial) -> Config:
        """One of the configs that are left, of which there is at least one."""
        raise NotImplementedError

    @property
    def expected_gain(self) -> float | None:
        """The most that a config which is left is expected to save, as a share of the best one's time.

        None where that is not known: there is no model, or too little to believe it.
        """
        return None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        params = self._space.params(self.choose(study, trial))
        assert params is not None, "a listed config lies within the choices"
        return params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError("a listed config has every parameter")


class ShadowSampler(SpaceSampler):
    """Asks an Optuna sampler, which ``make`` makes of a seed, and proposes what is nearest to its answer."""

    def __init__(self, space: Space, study: optuna.Study, make: Callable[[int], BaseSampler], seed: int) -> None:
        super().__init__(space)
        self._sides = make(seed)
        self._shadows = {
            side: optuna.create_study(directions=study.directions, sampler=make(seed + 1 + number))
            for number, side in enumerate(space.choices)
        }
        self._asked: dict[int, optuna.Trial] = {}
        for trial in study.get_trials(deepcopy=False, states=ENDED):
            self._follow(trial, trial.state, trial.values)

    def choose(self, study: optuna.Study, trial: FrozenTrial) -> Config:
        side = self._sides.sample_independent(study, trial, SWITCH, self._space.distributions[SWITCH])
        asked = self._asked[trial.number] = self._shadows[side].ask(self._distributions(side))
        values = {name: options[asked.params[name]] for name, options in self._space.choices[side].items()}
        return self._space.nearest(side, values) or self._space.left[0]

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._follow(trial, state, values)

    def _follow(self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell a side's shadow what was evaluated, in the place of what it was asked for."""
        attrs: dict[str, Any] = {}
        asked = self._asked.pop(trial.number, None)
        if asked is not None:
            attrs = asked.study.get_trials(deepcopy=False)[asked.number].system_attrs
            asked.study.tell(asked, state=TrialState.FAIL)
        side = trial.params.get(SWITCH)
        if state not in ENDED or side not in self._shadows:
            return
        params = {
            name: options.index(trial.params[f"{side}.{name}"]) for name, options in self._space.choices[side].items()
        }
        told = optuna.trial.create_trial(
            state=state, values=values, params=params, distributions=self._distributions(side), system_attrs=attrs
        )
        self._shadows[side].add_trial(told)

    def _distributions(self, side: str) -> dict[str, BaseDistribution]:
        """A field's choices by their places: nearly all are numbers in order, or two names."""
        return {name: IntDistribution(0, len(options) - 1) for name, options in self._space.choices[side].items()}


def make_sampler(
    name: str,
    space: Space,
    study: optuna.Study,
    plan: Callable[[Config], Program],
    seed: int,
    constants: Constants | None = None,
) -> SpaceSampler:
    """The sampler called ``name``, one of :data:`SAMPLERS`; ``plan`` makes a config's program.

    kgen's own has a performance model with ``constants``, by default the device's.

    Raises:
        StudyError: there is no such sampler, or the package that it needs is missing.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_sampler(name)
    if name == DEFAULT_SAMPLER:
        from kgen.search.forest import ForestSampler  # here, since scikit-learn is slow to import

        return ForestSampler(space, study, plan, seed, constants)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return ShadowSampler(space, study, _OPTUNA[name], seed)


def check_sampler(name: str, *, objectives: int = 1, until: bool = False) -> None:
    """Raise StudyError unless there is a sampler called ``name``, and what it needs is installed.

    It must take so many ``objectives`` and, with ``until``, tell what is left to gain.
    """
    if name not in SAMPLERS:
        raise StudyError(f"sampler must be one of {', '.join(SAMPLERS)}, but got {name!r}; choose one of them")
    if name == "cmaes" and objectives > 1:
        raise StudyError(f"sampler cmaes takes one objective, but got {objectives}; choose kgen, tpe, random or gp")
    if until and (name != DEFAULT_SAMPLER or objectives > 1):
        raise StudyError(
            f"--until needs the sampler {DEFAULT_SAMPLER} and one objective, of which it tells what is left to gain, "
            f"but got {name} and {objectives}; drop --until"
        )
    package, requirement = _NEEDED.get(name, ("optuna", ""))
    if find_spec(package) is None:
        raise StudyError(f"sampler {name} needs {package}, but it is not installed; pip install {requirement}")


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, independent_sampler=_tpe(seed), warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    independent = _tpe(seed)
    return CmaEsSampler(seed=seed, independent_sampler=independent, with_margin=True, warn_independent_sampling=False)


_OPTUNA: Mapping[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": _random, "gp": _gp, "cmaes": _cmaes}
_NEEDED = {"gp": ("torch", "'kgen[torch]'"), "cmaes": ("cmaes", "cmaes")}
DEFAULT_SAMPLER = "kgen"
SAMPLERS = (DEFAULT_SAMPLER, *_OPTUNA)
