"""Kernel Tuner's strategies in its simulation mode on a recorded space.

Its search space is a table of one parameter for each field of any side, "absent" where a side lacks it, restricted to
the configs that were recorded.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import kernel_tuner
import numpy as np
from constraint import FunctionConstraint
from kgen.search.evaluate import refuse_spills
from kgen.search.recorded import Recorded

STRATEGIES = (
    "adaptive_tabu_greywolf",
    "bayes_opt",
    "diff_evo",
    "genetic_algorithm",
    "hybrid_vndx",
    "mls",
    "simulated_annealing",
)
"""Those that need no further package and evaluated more than a few configs of a space with strings in it."""
_ABSENT = "absent"


class OneOf(FunctionConstraint):
    """The restriction to some rows, which also turns down values of some parameters that no row has together."""

    def __init__(self, names: list[str], rows: list[tuple[Any, ...]]) -> None:
        wanted = set(rows)
        super().__init__(lambda *values: values in wanted)
        self._having: dict[tuple[str, Any], int] = {}  # a bit for each row
        for number, row in enumerate(rows):
            for pair in zip(names, row, strict=True):
                self._having[pair] = self._having.get(pair, 0) | 1 << number

    def __call__(self, variables: Any, domains: Any, assignments: dict[str, Any], *_: Any) -> bool:
        left = -1
        for pair in assignments.items():
            left &= self._having[pair]
        return left != 0

    def __deepcopy__(self, memo: Any) -> OneOf:
        return self


def evaluated(strategy: str, recorded: Recorded, trials: int, seed: int) -> list[float | None]:
    """Efficiencies of the distinct configs that a strategy evaluates, in order; None for one that failed."""
    names = list(dict.fromkeys(name for config in recorded.evaluations for name in config.to_json()))
    rows = {_row(config.to_json(), names): refuse_spills(one) for config, one in recorded.evaluations.items()}
    parameters = {name: list(dict.fromkeys(row[place] for row in rows)) for place, name in enumerate(names)}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cache = Path(folder) / "cache.json"
        cache.write_text(json.dumps(_cache(names, parameters, rows)))
        random.seed(seed)
        np.random.seed(seed)
        with contextlib.redirect_stdout(io.StringIO()):
            results, _ = kernel_tuner.tune_kernel(
                "recorded",
                "__global__ void recorded() {}",
                "1",
                [],
                parameters,
                restrictions=[OneOf(names, list(rows))],
                cache=str(cache),
                simulation_mode=True,
                strategy=strategy,
                strategy_options={"max_fevals": trials},
                quiet=True,
            )
    order = dict.fromkeys(tuple(result[name] for name in names) for result in results)
    return [rows[row].efficiency for row in order]


def _row(values: dict[str, Any], names: list[str]) -> tuple[Any, ...]:
    return tuple(_ABSENT if values.get(name) is None else values[name] for name in names)


def _cache(names: list[str], parameters: dict[str, list[Any]], rows: dict[tuple[Any, ...], Any]) -> dict[str, Any]:
    """Its cache file: a result for each row, as far as a simulation reads it."""
    spent = dict.fromkeys(
        ("compile_time", "verification_time", "benchmark_time", "strategy_time", "framework_time"), 0.0
    )
    results = {
        ",".join(map(str, row)): {
            **dict(zip(names, row, strict=True)),
            **spent,
            "time": one.latency_us if one.efficiency is not None else "RuntimeFailedConfig",
            "timestamp": "2000-01-01T00:00:00",
        }
        for row, one in rows.items()
    }
    return {
        "device_name": "recorded",
        "kernel_name": "recorded",
        "problem_size": "1",
        "tune_params_keys": names,
        "tune_params": parameters,
        "objective": "time",
        "cache": results,
    }
