"""The search space: the legal configs of a problem, listed, and which of them have not been proposed yet.

A side whose legal configs are too many to list has a uniform sample of them, and the neighbours of configs that are
known to be good.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import getitem
from typing import Any

import numpy as np
from kgen.search.legal import Legal, list_legal
from optuna.distributions import CategoricalDistribution
from optuna.trial import BaseTrial

from kgen.blocks import family
from kgen.devices import Device
from kgen.errors import InfeasibleError
from kgen.machine import Config
from kgen.tuned_file import TunedProblem

Values = Mapping[str, Any]
Choices = Mapping[str, Mapping[str, Sequence[Any]]]
Position = np.ndarray[Any, np.dtype[np.float64]]
"""Of a config among those of its side: for each field the place of its value among the choices, from 0 to 1."""

SWITCH = "boundary"
_MOST_LISTED = 16_384
_SAMPLE = 1024
_NEIGHBOURS = 64
"""Of one config that are listed beside a sample."""


@dataclass(frozen=True)
class Extent:
    """How many configs of a side are legal: ``count``, all of which are listed when ``whole``, else a ``sample``."""

    whole: bool
    count: float
    sample: int

    def __str__(self) -> str:
        return f"all {self.count:.0f}" if self.whole else f"{self.sample} of about {self.count:.2g}"


class Space:
    """Listed configs, each proposed at most once. ``choices`` maps a side, and a field that it has, to values.

    Parameters of a trial are named ``<side>.<field>``, because a value that suits one side says nothing about another.
    ``neighbours`` gives legal configs near one, or None; it serves the sides of ``extents`` that are not whole.
    """

    def __init__(
        self,
        make_config: Callable[[Values], Config],
        choices: Choices,
        configs: Iterable[Config],
        extents: Mapping[str, Extent],
        neighbours: Callable[[Config], Iterable[Config | None]],
        seed: int,
    ) -> None:
        self._make_config = make_config
        self.choices = choices
        self.extents = extents
        self._neighbours = neighbours
        self._random = random.Random(seed)
        self.configs: list[Config] = []
        self._positions: dict[int, Position] = {}
        self._index: dict[Config, int] = {}
        self._left: dict[int, None] = {}  # a set in the order of the list
        self.distributions = {SWITCH: CategoricalDistribution(tuple(choices))} | {
            f"{side}.{name}": CategoricalDistribution(tuple(options))
            for side, fields in choices.items()
            for name, options in fields.items()
        }
        self._places = {
            side: {name: {value: _place(value, options) for value in options} for name, options in fields.items()}
            for side, fields in choices.items()
        }
        self.add(configs)

    @property
    def left(self) -> list[Config]:
        """Listed configs that were not proposed yet."""
        return [self.configs[index] for index in self._left]

    def __len__(self) -> int:
        """How many are left."""
        return len(self._left)

    def __contains__(self, config: object) -> bool:
        """Whether ``config`` is left."""
        return self._index.get(config) in self._left  # type: ignore[call-overload]

    def add(self, configs: Iterable[Config]) -> None:
        """List legal configs, but for those that lie outside the choices."""
        for config in configs:
            if config not in self._index and self._has_choices(config):
                self._left[len(self.configs)] = None
                self._index[config] = len(self.configs)
                self.configs.append(config)

    def admit(self, config: Config) -> Config | None:
        """List a legal config and, where it is not listed whole, its neighbours; or else what is left nearest to it."""
        if not self._has_choices(config):
            return self.nearest(config.boundary, config.to_json()) if config.boundary in self.choices else None
        self.add([config])
        self.grow(config)
        return config

    def grow(self, config: Config) -> None:
        """List neighbours of a good config of a side that is not listed whole."""
        extent = self.extents.get(config.boundary)
        if extent is not None and not extent.whole:
            near = dict.fromkeys(other for other in self._neighbours(config) if other is not None)
            self.add(self._random.sample(list(near), min(_NEIGHBOURS, len(near))))

    def take(self, config: Config) -> None:
        """Propose ``config`` no more."""
        index = self._index.get(config)
        if index is not None:
            self._left.pop(index, None)

    def suggest(self, trial: BaseTrial) -> Config:
        """The config that ``trial`` proposes."""
        side = trial.suggest_categorical(SWITCH, tuple(self.choices))
        values = {
            name: trial.suggest_categorical(f"{side}.{name}", options) for name, options in self.choices[side].items()
        }
        return self._make_config({SWITCH: side, **values})

    def params(self, config: Config) -> dict[str, Any] | None:
        """The trial parameters that give ``config``; None when it lies outside the choices."""
        if not self._has_choices(config):
            return None
        side = config.boundary
        return {SWITCH: side, **{f"{side}.{name}": getattr(config, name) for name in self.choices[side]}}

    def _has_choices(self, config: Config) -> bool:
        """Whether each of a config's values is among the choices."""
        fields = self.choices.get(config.boundary)
        return fields is not None and all(getattr(config, name) in options for name, options in fields.items())

    def nearest(self, side: str, values: Values) -> Config | None:
        """The config that is left of a side and differs least from one with these values, illegal though it may be.

        A field of numbers differs by how far apart the values stand among its choices, any other one by 0 or 1.
        """
        left = [index for index in self._left if self.configs[index].boundary == side]
        if not left:
            return None
        off = abs(np.array([self._position_of(index) for index in left]) - self._position(side, values))
        named = [not ordered(options) for options in self.choices[side].values()]
        off[:, named] = off[:, named] > 0
        return self.configs[left[int(off.sum(axis=1).argmin())]]

    def _position_of(self, index: int) -> Position:
        """The position of a listed config, which is only worked out where it is asked for."""
        if index not in self._positions:
            config = self.configs[index]
            self._positions[index] = self._position(config.boundary, config.to_json())
        return self._positions[index]

    def _position(self, side: str, values: Values) -> Position:
        places, fields = self._places[side], self.choices[side].items()
        return np.array(
            [
                places[name][values[name]] if values[name] in places[name] else _place(values[name], options)
                for name, options in fields
            ]
        )

    def __str__(self) -> str:
        return ", ".join(f"{extent} {side}" for side, extent in self.extents.items())


def legal_space(problem: TunedProblem, device: Device, choices: Choices, seeds: Sequence[Config], seed: int) -> Space:
    """The space of a problem on a device: ``seeds``, what is legal of ``choices``, and neighbours of seeds.

    Raises:
        InfeasibleError: no side has a legal config; it says what left each of them empty.
    """
    kind = family(problem.family)
    listed: dict[str, list[Config]] = {}
    extents: dict[str, Extent] = {}
    empty: list[InfeasibleError] = []
    for side, fields in choices.items():
        try:
            legal, listed[side] = _side(problem, device, side, fields, seed)
            extents[side] = Extent(legal.whole, legal.count, len(legal.rows))
        except InfeasibleError as error:
            empty.append(error)
    if not listed:
        reasons = "; ".join(str(error) for error in empty)
        raise InfeasibleError(empty[0].rule, f"{problem} must have a legal config on {device.name}, but: {reasons}")
    configs = [*seeds, *(config for side in listed.values() for config in side)]
    near = partial(_neighbours, problem, device)
    # All sides that a config can be made for, listed or not: Optuna wants the same choices of a study's every trial.
    whole = {side: fields for side, fields in choices.items() if all(fields.values())}
    space = Space(kind.config_from_json, whole, configs, extents, near, seed)
    for config in seeds:
        space.grow(config)
    return space


def recorded_space(make_config: Callable[[Values], Config], configs: Sequence[Config]) -> Space:
    """The space of these configs alone."""
    choices: dict[str, dict[str, tuple[Any, ...]]] = {}
    extents: dict[str, Extent] = {}
    for side in dict.fromkeys(config.boundary for config in configs):
        values = [config.to_json() for config in configs if config.boundary == side]
        extents[side] = Extent(True, len(values), len(values))
        choices[side] = {name: _sorted({one[name] for one in values}) for name in values[0] if name != SWITCH}
    return Space(make_config, choices, configs, extents, lambda config: (), 0)


def _side(
    problem: TunedProblem, device: Device, side: str, fields: Mapping[str, Sequence[Any]], seed: int
) -> tuple[Legal, list[Config]]:
    kind = family(problem.family)

    def bound(rule: Callable[[Any, Any, Device], None]) -> Callable[[Any], None]:
        return lambda config: rule(problem, config, device)

    first = {name: next(iter(options), None) for name, options in fields.items()}
    one = kind.config_from_json({SWITCH: side, **first})
    fixed = one.to_json()
    rules = [bound(rule) for rule in kind.rules(side)]
    legal = list_legal(fields, rules, fixed, most=_MOST_LISTED, sample=_SAMPLE, seed=seed)
    rows = (map(getitem, fields.values(), row) for row in legal.rows.tolist())
    return legal, [type(one)(**(fixed | dict(zip(fields, row, strict=True)))) for row in rows]


def _neighbours(problem: TunedProblem, device: Device, config: Config) -> Iterable[Config | None]:
    found: Iterable[Config | None] = family(problem.family).neighbours(problem, config, device)
    return found


def _place(value: Any, options: Sequence[Any]) -> float:
    """Where a value stands among a field's choices, from 0 to 1; a number may stand between two of them."""
    if ordered((value, *options)):
        return float(np.interp(math.log(value), np.log(sorted(options)), np.linspace(0, 1, len(options))))
    return options.index(value) / max(1, len(options) - 1) if value in options else -1.0


def ordered(options: Sequence[Any]) -> bool:
    """Whether a field's choices are numbers, of which some are closer to one another than others."""
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in options)


def _sorted(values: set[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values, key=lambda value: (str(type(value)), value if value is not None else 0)))
