"""The search space: configs out of trials, and what to try in the place of a config that breaks a rule.

Optuna's distributions are fixed, so a proposal may break rules that tie parameters to one another. Such a proposal is
recorded, and the nearest feasible config that was not tried yet is enqueued in its place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import optuna

from kgen.errors import InfeasibleError
from kgen.machine import Config, Program

Values = Mapping[str, Any]

SWITCH = "boundary"
_ANCHORS = 4
_WALKS = 4
_DRAWS = 300
"""Plans tried before a neighbourhood counts as exhausted; a plan takes well under a millisecond."""


class SearchSpace:
    """The configs of one problem. ``choices`` maps a config's field to its values; ``plan`` raises InfeasibleError.

    Parameters are named ``<boundary>.<field>``, because a value that suits one side of the fusion boundary says
    nothing about the other. Fields with a default of None do not belong to the fused side.
    """

    def __init__(
        self,
        config_type: type[Any],
        choices: Mapping[str, Sequence[Any]],
        plan: Callable[[Config], Program],
        seed: int,
    ) -> None:
        self._config_type = config_type
        self._choices = {name: tuple(v for v in values if v is not None) for name, values in choices.items()}
        self._unfused_only = frozenset(one.name for one in fields(config_type) if one.default is None)
        self._plan = plan
        self._random = random.Random(seed)

    def suggest(self, trial: optuna.Trial) -> Config:
        """The config that ``trial`` proposes."""
        boundary = trial.suggest_categorical(SWITCH, self._choices[SWITCH])
        values = {
            name: trial.suggest_categorical(f"{boundary}.{name}", self._choices[name])
            for name in self._fields(boundary)
        }
        return self.config({SWITCH: boundary, **values})

    def config(self, values: Values) -> Config:
        """A config by field; fields that its boundary has no use for are left at None."""
        config: Config = self._config_type(**values)
        return config

    def params(self, config: Config) -> dict[str, Any] | None:
        """The trial parameters that give ``config``; None when it lies outside the choices."""
        values = config.to_json()
        names = self._fields(values[SWITCH])
        if any(values[name] not in self._choices[name] for name in (SWITCH, *names)):
            return None
        return {SWITCH: values[SWITCH], **{f"{values[SWITCH]}.{name}": values[name] for name in names}}

    def nearest(self, config: Config, anchors: Iterable[Config], is_new: Callable[[Config], bool]) -> Config | None:
        """A feasible new config near an infeasible one: one field away, else on the shortest walk to an anchor.

        ``anchors`` are feasible. A walk takes over one field of the anchor after the other, in random order.
        """
        values = config.to_json()
        for other in self._one_field_away(values):
            if is_new(other) and self.feasible(other):
                return other
        same_side = [anchor.to_json() for anchor in anchors if anchor.to_json()[SWITCH] == values[SWITCH]]
        close = sorted(same_side, key=lambda anchor: sum(anchor[name] != values[name] for name in values))[:_ANCHORS]
        walks = [self._walk(values, anchor, is_new) for anchor in close for _ in range(_WALKS)]
        found = [walk for walk in walks if walk is not None]
        return min(found, key=lambda walk: walk[0])[1] if found else None

    def neighbour(self, config: Config, is_new: Callable[[Config], bool]) -> Config | None:
        """A random feasible new config that differs from a feasible one in one to three fields."""
        values = config.to_json()
        names = self._fields(values[SWITCH])
        for _ in range(_DRAWS):
            changed = self._random.sample(names, min(len(names), self._random.randint(1, 3)))
            other = self.config({**values, **{name: self._random.choice(self._choices[name]) for name in changed}})
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

    def _fields(self, boundary: str) -> list[str]:
        hidden = self._unfused_only if boundary == "fused" else frozenset()
        return [name for name in self._choices if name != SWITCH and name not in hidden]

    def _one_field_away(self, values: Values) -> list[Config]:
        moves = [(n, v) for n in self._fields(values[SWITCH]) for v in self._choices[n] if v != values[n]]
        self._random.shuffle(moves)
        return [self.config({**values, name: value}) for name, value in moves]

    def _walk(self, start: Values, anchor: Values, is_new: Callable[[Config], bool]) -> tuple[int, Config] | None:
        """How many fields had to change, and the config that the walk came upon."""
        values, names = dict(start), [name for name in start if start[name] != anchor[name]]
        self._random.shuffle(names)
        for steps, name in enumerate(names, 1):
            values[name] = anchor[name]
            config = self.config(values)
            if is_new(config) and self.feasible(config):
                return steps, config
        return None
