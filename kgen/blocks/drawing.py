"""Drawing configs at random, and making them feasible: what the search spaces of the families share."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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


def thriftier(config: Any, changes: Sequence[Mapping[str, Any]], check: Callable[[Any], None]) -> Any:
    """The config, or the first that passes ``check`` as the changes are made to it one after another, else None.

    A field that is None has no use for a change.
    """
    for change in ({}, *changes):
        config = replace(config, **{name: value for name, value in change.items() if getattr(config, name) is not None})
        try:
            check(config)
        except InfeasibleError:
            continue
        return config
    return None
