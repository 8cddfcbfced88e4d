"""What a study knows: every config's evaluation, the best verified one, and failures counted by kind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from kgen.search.evaluate import Evaluation
from kgen.search.objectives import merit, objectives_of
from optuna.trial import FrozenTrial, TrialState

from kgen.errors import InfeasibleError
from kgen.machine import Config, Program
from kgen.worker import Outcome

DUPLICATE_OF = "duplicate_of"


@dataclass(frozen=True)
class Known:
    """An evaluated config and the number of its trial."""

    number: int
    config: Config
    evaluation: Evaluation


def program_key(program: Program) -> str:
    """Equal for programs of the same source and launch, which are the same kernels whatever their configs."""
    launches = [(one.symbol, one.grid, one.threads, one.shared_bytes, one.cluster) for one in program.kernels]
    source = [program.arch, program.template, dict(program.fields), dict(program.constants)]
    return json.dumps([source, launches], sort_keys=True)


class History:
    """The evaluations of a study by config and by program: it reads those of others, and a search adds its own.

    ``plan`` raises InfeasibleError for a config that breaks a rule.
    """

    def __init__(
        self,
        study: optuna.Study,
        make_config: Callable[[Mapping[str, Any]], Config],
        plan: Callable[[Config], Program],
    ) -> None:
        self.objectives = objectives_of(study)
        self._plan = plan
        self._known: dict[Config, Known] = {}
        self._programs: dict[str, Known] = {}
        self.best: Known | None = None
        self.failures: Counter[str] = Counter()
        self.last_failure = ""
        self.evaluated = 0
        self._make_config = make_config
        self._numbers: set[int] = set()
        ended = self.read(study.get_trials(deepcopy=False))
        self.seconds = max((trial.user_attrs.get("search_s", 0.0) for trial in ended), default=0.0)

    def read(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Take in those of a study's trials that ended and are not known yet, and return them."""
        new = [
            trial
            for trial in trials
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and trial.number not in self._numbers
            and "outcome" in trial.user_attrs
            and DUPLICATE_OF not in trial.user_attrs
        ]
        for trial in new:
            self.add(trial.number, self.config_of(trial), Evaluation.from_attrs(trial.user_attrs))
        return new

    def config_of(self, trial: FrozenTrial) -> Config:
        """The config that a trial has recorded."""
        return self._make_config(trial.user_attrs["config"])

    def add(self, number: int, config: Config, evaluation: Evaluation) -> bool:
        """Take in an evaluation; True when it is the best verified one so far, by the first objective."""
        known = Known(number, config, evaluation)
        self._numbers.add(number)
        self._known[config] = known
        if evaluation.compiled:
            with suppress(InfeasibleError):  # by rules that are new since it was evaluated
                self._programs.setdefault(program_key(self._plan(config)), known)
        self.evaluated += evaluation.compiled
        if evaluation.outcome is not Outcome.OK:
            self.failures[evaluation.kind] += 1
            self.last_failure = evaluation.reason
            return False
        if not evaluation.verified:
            return False
        best = self.best.evaluation if self.best else None
        if best is not None and merit(self.objectives, evaluation) <= merit(self.objectives, best):
            return False
        self.best = known
        return True

    @property
    def passed(self) -> list[Known]:
        """Verified configs, the most efficient first."""
        found = [
            one for one in self._known.values() if one.evaluation.outcome is Outcome.OK and one.evaluation.verified
        ]
        return sorted(found, key=lambda one: (-(one.evaluation.efficiency or 0.0), one.number))

    @property
    def configs(self) -> list[Config]:
        """Configs that were evaluated, in the order they were tried."""
        return list(self._known)

    def same(self, config: Config, program: Program) -> Known | None:
        """What is known of ``config``, or of another one that makes the same program."""
        return self._known.get(config) or self._programs.get(program_key(program))

    @property
    def best_efficiency(self) -> float | None:
        """Efficiency of the best verified config."""
        return self.best.evaluation.efficiency if self.best else None

    def front(self, study: optuna.Study) -> list[Known]:
        """The Pareto set of a study that was read, the best by the first objective first."""
        numbers = {trial.number for trial in study.best_trials}
        found = [known for known in self._known.values() if known.number in numbers]
        return sorted(found, key=lambda known: merit(self.objectives, known.evaluation), reverse=True)
