"""Drawing configs at random, and making them feasible: what the search spaces of the families share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kgen.blocks.configs import changed
from kgen.blocks.requirements import Rule
from kgen.devices import Device
from kgen.errors import InfeasibleError


class Picker:
    """Random values of a side's fields, some chosen so that they fit those picked before."""

    def __init__(self, values: Mapping[str, Sequence[Any]], rng: random.Random) -> None:
        self._values = values
        self._rng = rng
        self.picked: dict[str, Any] = {}

    def pick(self, name: str, fits: Callable[[Any], bool] = lambda value: True) -> Any:
        """A value that fits, or the first of all where none does."""
        fitting = [value for value in self._values[name] if fits(value)]
        self.picked[name] = self._rng.choice(fitting) if fitting else self._values[name][0]
        return self.picked[name]

    def rest(self) -> dict[str, Any]:
        """All fields, those not picked yet by chance."""
        for name in [name for name in self._values if name not in self.picked]:
            self.pick(name)
        return self.picked


def thriftier(
    problem: Any, config: Any, device: Device, changes: Iterable[Mapping[str, Any]], rules: Sequence[Rule]
) -> Any:
    """The config, or the first that obeys ``rules`` as the changes are made to it one after another, else None.

    A field that is None has no use for a change.
    """
    if obeys(problem, config, device, rules):
        return config
    for change in changes:
        new = {name: value for name, value in change.items() if getattr(config, name) not in (None, value)}
        if new:
            config = changed(config, new)
            if obeys(problem, config, device, rules):
                return config
    return None


def obeys(problem: Any, config: Any, device: Device, rules: Sequence[Rule]) -> bool:
    """Whether a config breaks none of ``rules``."""
    try:
        for rule in rules:
            rule(problem, config, device)
    except InfeasibleError:
        return False
    return True
