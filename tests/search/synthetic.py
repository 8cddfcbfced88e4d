"""Recorded spaces that no GPU made: the performance model's times, disturbed by seeded effects of fields and pairs.

They exercise searches; nothing measured on them says anything about a GPU.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any

from kgen.search.evaluate import Evaluation
from kgen.search.recorded import Header, Recorded
from kgen.search.recording import sample_of
from kgen.search.space import legal_space

from kgen.blocks import family
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device
from kgen.machine import Program, efficiency
from kgen.model import predict_us
from kgen.tuned import Environment, Measurement
from kgen.worker import Outcome

DEVICE = replace(find_device("h200"), ordinal=0)
ENVIRONMENT = Environment("synthetic", "sm_90", 132, 1980, "13.0", "13.0", "0", "0" * 16)
_PAIRS = 6


@lru_cache
def synthetic_space(problem: ConvFirst, size: int, seed: int = 0) -> Recorded:
    """``size`` configs, of which one in twenty or so spills or fails to compile."""
    kind = family(problem.family)
    space = legal_space(problem, DEVICE, kind.choices(problem, DEVICE), [], seed)
    configs = sample_of(space, size, seed)
    evaluations = {config: _evaluate(kind.plan(problem, config, DEVICE), seed) for config in configs}
    return Recorded(Header(problem, DEVICE, ENVIRONMENT, space.extents, len(configs), seed, cores=16), evaluations)


def _evaluate(program: Program, seed: int) -> Evaluation:
    values = program.config.to_json()
    known: dict[str, Any] = {
        "compiled": True,
        "compile_s": 0.5 + _uniform(seed, "compile", values),
        "registers": {kernel.symbol: min(255, kernel.accumulators + 40) for kernel in program.kernels},
        "predicted_us": predict_us(program),
        "spill_bytes": 0,
    }
    chance = _uniform(seed, "chance", {"fields": [values[name] for name in sorted(values)][2:7]})
    if chance < 0.02:
        return Evaluation(Outcome.COMPILE_FAILED, "it does not compile", compiled=True)
    if max(kernel.accumulators for kernel in program.kernels) > 170 and chance > 0.5:
        known["spill_bytes"] = 400
    time_us = known["predicted_us"] * (1 + known["spill_bytes"] / 400) * 2 ** _disturbance(values, seed)
    share = efficiency(program.problem.flops, time_us, program.device)
    measured = Measurement(time_us, 0.99 * time_us, 1.01 * time_us, share, 1e-4)
    return Evaluation(Outcome.OK, efficiency=share, verified=True, run_s=0.1, measured=measured, error=1e-4, **known)


def _disturbance(values: Mapping[str, Any], seed: int) -> float:
    """Of log2 of the time: an effect of the side, of each of its fields, of some pairs of them, and noise."""
    side = values["boundary"]
    fields = {name: value for name, value in values.items() if value is not None}
    pairs = list(combinations(sorted(fields), 2))
    random.Random(f"{seed} {side}").shuffle(pairs)
    effects = [0.3 * _normal(seed, side)]
    effects += [0.1 * _normal(seed, side, name, value) for name, value in fields.items()]
    effects += [0.15 * _normal(seed, side, a, fields[a], b, fields[b]) for a, b in pairs[:_PAIRS]]
    return sum(effects) + 0.01 * _normal(seed, sorted(fields.items()))


def _normal(*key: object) -> float:
    return random.Random(repr(key)).gauss(0, 1)


def _uniform(*key: object) -> float:
    return random.Random(repr(key)).random()
