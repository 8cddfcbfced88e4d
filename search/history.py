"""What a study knows: every config's evaluation, the best verified one, and failures counted by kind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from kgen.search.evaluate import Evaluation
from optuna.trial import TrialState

from kgen.machine import Config
from kgen.worker import Outcome

DUPLICATE_OF = "duplicate_of"


@dataclass(frozen=True)
class Known:
    """An evaluated config and the number of its trial."""

    number: int
    config: Config
    evaluation: Evaluation


def config_key(config: Config) -> str:
    """A config as a dictionary key."""
    return json.dumps(config.to_json(), sort_keys=True)


class History:
    """The evaluations of a study by config; it reads what earlier runs left, and the search adds to it."""

    def __init__(self, study: optuna.Study, make_config: Callable[[Mapping[str, Any]], Config]) -> None:
        self._known: dict[str, Known] = {}
        self.best: Known | None = None
        self.failures: Counter[str] = Counter()
        self.last_failure = ""
        self.evaluated = 0
        self.seconds = 0.0
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            attrs = trial.user_attrs
            if "outcome" in attrs and DUPLICATE_OF not in attrs:
                self.add(trial.number, make_config(attrs["config"]), Evaluation.from_attrs(attrs))
                self.seconds = max(self.seconds, attrs.get("search_s", 0.0))

    def add(self, number: int, config: Config, evaluation: Evaluation) -> bool:
        """Take in an evaluation; True when it is the best verified one so far."""
        known = Known(number, config, evaluation)
        self._known[config_key(config)] = known
        self.evaluated += evaluation.compiled
        if evaluation.outcome is not Outcome.OK:
            self.failures[evaluation.kind] += 1
            self.last_failure = evaluation.reason
            return False
        if not evaluation.verified or (evaluation.efficiency or 0.0) <= (self.best_efficiency or 0.0):
            return False
        self.best = known
        return True

    def get(self, config: Config) -> Known | None:
        """What is known of ``config``."""
        return self._known.get(config_key(config))

    @property
    def best_efficiency(self) -> float | None:
        """Efficiency of the best verified config."""
        return self.best.evaluation.efficiency if self.best else None

    @property
    def feasible(self) -> list[Config]:
        """Configs that obey every rule, in the order they were tried."""
        return [known.config for known in self._known.values() if known.evaluation.compiled]
