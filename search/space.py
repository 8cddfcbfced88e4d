"""The search space: configs out of trials, and what to try in the place of a config that breaks a rule.

Optuna's distributions are fixed, so a proposal may break rules that tie parameters to one another. Such a proposal is
recorded, and the nearest feasible config that was not tried yet is enqueued in its place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import optuna

from kgen.errors import InfeasibleError
from kgen.machine import Config, Program

Values = Mapping[str, Any]
Choices = Mapping[str, Mapping[str, Sequence[Any]]]

SWITCH = "boundary"
_ANCHORS = 4
_WALKS = 4
_DRAWS = 300
"""Plans tried before a neighbourhood counts as exhausted; a plan takes well under a millisecond."""


class SearchSpace:
    """The configs of one problem. ``choices`` maps a side, and a field that it has, to the field's values.

    ``make_config`` makes a config of its fields' values, ``boundary`` among them; ``plan`` raises InfeasibleError.
    Parameters are named ``<side>.<field>``, because a value that suits one side says nothing about another.
    """

    def __init__(
        self,
        make_config: Callable[[Values], Config],
        choices: Choices,
        plan: Callable[[Config], Program],
        seed: int,
    ) -> None:
        self._make_config = make_config
        self._choices = choices
        self._plan = plan
        self._random = random.Random(seed)

    def suggest(self, trial: optuna.Trial) -> Config:
        """The config that ``trial`` proposes."""
        side = trial.suggest_categorical(SWITCH, tuple(self._choices))
        values = {
            name: trial.suggest_categorical(f"{side}.{name}", options) for name, options in self._choices[side].items()
        }
        return self._make_config({SWITCH: side, **values})

    def params(self, config: Config) -> dict[str, Any] | None:
        """The trial parameters that give ``config``; None when it lies outside the choices."""
        side, values = config.boundary, config.to_json()
        options = self._choices.get(side)
        if options is None or any(values[name] not in options[name] for name in options):
            return None
        return {SWITCH: side, **{f"{side}.{name}": values[name] for name in options}}

    def nearest(self, config: Config, anchors: Iterable[Config], is_new: Callable[[Config], bool]) -> Config | None:
        """A feasible new config near an infeasible one: one field away, else on the shortest walk to an anchor.

        ``anchors`` are feasible. A walk takes over one field of the anchor after the other, in random order.
        """
        values = config.to_json()
        for other in self._one_field_away(values):
            if is_new(other) and self.feasible(other):
                return other
        same_side = [anchor.to_json() for anchor in anchors if anchor.boundary == config.boundary]
        close = sorted(same_side, key=lambda anchor: sum(anchor[name] != values[name] for name in values))[:_ANCHORS]
        walks = [self._walk(values, anchor, is_new) for anchor in close for _ in range(_WALKS)]
        found = [walk for walk in walks if walk is not None]
        return min(found, key=lambda walk: walk[0])[1] if found else None

    def neighbour(self, config: Config, is_new: Callable[[Config], bool]) -> Config | None:
        """A random feasible new config that differs from a feasible one in one to three fields."""
        values = config.to_json()
        options = self._choices[config.boundary]
        for _ in range(_DRAWS):
            changed = self._random.sample(list(options), min(len(options), self._random.randint(1, 3)))
            other = self._make_config({**values, **{name: self._random.choice(options[name]) for name in changed}})
            if is_new(other) and self.feasible(other):
                return other
        return None

    def sample(self, configs: Sequence[Config]) -> list[Config]:
        """At most one of ``configs``, at random."""
        return self._random.sample(configs, min(1, len(configs)))

    def feasible(self, config: Config) -> bool:
        """Whether the config obeys every rule."""
        try:
            self._plan(config)
        except InfeasibleError:
            return False
        return True

    def _one_field_away(self, values: Values) -> list[Config]:
        options = self._choices[values[SWITCH]]
        moves = [(name, value) for name in options for value in options[name] if value != values[name]]
        self._random.shuffle(moves)
        return [self._make_config({**values, name: value}) for name, value in moves]

    def _walk(self, start: Values, anchor: Values, is_new: Callable[[Config], bool]) -> tuple[int, Config] | None:
        """How many fields had to change, and the config that the walk came upon."""
        values, names = dict(start), [name for name in start if start[name] != anchor[name]]
        self._random.shuffle(names)
        for steps, name in enumerate(names, 1):
            values[name] = anchor[name]
            config = self._make_config(values)
            if is_new(config) and self.feasible(config):
                return steps, config
        return None
