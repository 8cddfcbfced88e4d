"""What a learner is told of a config: its fields, and what its plan and the performance model say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from kgen.search.space import Choices

from kgen.machine import Config, KernelPlan, Program
from kgen.model import Constants, KernelTerms, model_terms

Features = np.ndarray[Any, np.dtype[np.float32]]
ABSENT = -1.0
"""Of a field that a side does not have."""


class Featurizer:
    """Features of a space's configs; sizes and times as log2. Fields of one name are one feature on every side.

    ``constants`` are the performance model's, by default the device's.
    """

    def __init__(self, choices: Choices, plan: Callable[[Config], Program], constants: Constants | None = None) -> None:
        self._plan = plan
        self._constants = constants
        self._sides = list(choices)
        self._codes: dict[str, dict[Any, float]] = {}
        for fields in choices.values():
            for name, options in fields.items():
                codes = self._codes.setdefault(name, {})
                for value in options:
                    codes.setdefault(value, math.log2(value) if _is_size(value) else float(len(codes)))

    def __call__(self, config: Config) -> Features:
        """One config's features; the first is log2 of the predicted latency."""
        values, program = config.to_json(), self._plan(config)
        terms = model_terms(program, constants=self._constants)
        predicted_us = sum(one.total_us for one in terms)
        sides = [float(config.boundary == side) for side in self._sides]
        fields = [self._code(name, values) for name in self._codes]
        return np.array([math.log2(predicted_us), *sides, *fields, *_of_plan(program, terms)], dtype=np.float32)

    def _code(self, name: str, values: Mapping[str, Any]) -> float:
        value = values.get(name)
        return ABSENT if value is None else self._codes[name].get(value, ABSENT)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _of_plan(program: Program, terms: Sequence[KernelTerms]) -> list[float]:
    """The launch of the kernel that takes longest, and the model's terms of it and of all."""
    kernel, longest = max(zip(program.kernels, terms, strict=True), key=lambda pair: pair[1].total_us)
    units = list(longest.units_us.values())
    parts = [*units, longest.steps_us, longest.dram_us, longest.l2_us, sum(one.dram_us for one in terms)]
    return [_log2(part) for part in parts] + _of_launch(kernel)


def _of_launch(kernel: KernelPlan) -> list[float]:
    rounds = kernel.work_items / kernel.grid
    sizes = [kernel.grid, kernel.threads, kernel.shared_bytes, kernel.steps, kernel.ctas_per_sm, rounds]
    return [float(kernel.accumulators), math.ceil(rounds) / rounds, *map(_log2, sizes)]


def _log2(value: float) -> float:
    return math.log2(max(value, 1e-3))
