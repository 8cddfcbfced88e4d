"""How well the performance model ranks recorded configs, with its own constants and with constants fitted elsewhere.

    python benchmarks/model_quality.py FOLDER --out benchmarks/results/model-quality-nvidia-h200.json

FOLDER holds files of ``kgen record``. For each, the constants are fitted to the files of all other shapes (a shape is a
problem but for its batch), so that the model has not seen what it is judged by: the rank correlation of predicted and
measured latencies, and the regret of the 1, 8 and 32 configs that it ranks first, by how much the best of them is
slower than the best recorded one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from kgen.search import read_recorded
from kgen.search.evaluate import plan_of, refuse_spills
from kgen.search.recorded import Recorded
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from kgen.machine import Program
from kgen.model import Constants, constants_of, model_terms

TOPS = (1, 8, 32)
_GUESS = Constants(
    mma_share=0.62,
    wgmma_share=0.9,
    shared_bytes=128.0,
    distributed_bytes=16.0,
    special=16.0,
    l2_bytes=64.0,
    l2_to_dram=1.3,
    warps_to_overlap=12.0,
    least_exposed=0.25,
    step_clocks=250.0,
    launch_us=1.8,
    spill_bytes_to_double=256.0,
)
"""Where a fit for an H200 begins: rates of its hardware, and guesses."""
_RATES = ("shared_bytes", "special", "l2_bytes", "l2_to_dram")
_SURE, _UNSURE = 1.25, 4.0
"""A fitted constant is at most so many times the guess, or that part of it: a rate of the hardware, or another one."""
_FIXED = "spill_bytes_to_double"  # what spills much is not measured
_PER_SPACE = 200
"""Configs of a space that a fit looks at."""
_SHARES = ("mma_share", "wgmma_share", "least_exposed")
"""Constants that are at most 1."""
Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Measured:
    """The programs of a recorded space that passed, and their latencies."""

    programs: Sequence[Program]
    latencies_us: Vector

    @classmethod
    def of(cls, recorded: Recorded) -> Measured:
        """Of a recorded space, but for what a search would not have measured."""
        passed = [
            (plan_of(recorded.header.problem, recorded.header.device, config), one.latency_us)
            for config, one in recorded.evaluations.items()
            if refuse_spills(one).efficiency is not None
        ]
        programs, latencies_us = zip(*passed, strict=True)
        return cls(programs, np.array(latencies_us))

    def predicted_us(self, constants: Constants) -> Vector:
        """By the model with these constants."""
        terms = (model_terms(program, constants=constants) for program in self.programs)
        return np.array([sum(one.total_us for one in of) for of in terms])

    def fastest(self, count: int) -> Measured:
        """Every other one or so, so that ``count`` are left, the fastest among them."""
        order = np.argsort(self.latencies_us)
        kept = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))]
        return Measured([self.programs[index] for index in kept], self.latencies_us[kept])


def fit(spaces: Sequence[Measured]) -> Constants:
    """The constants with the least error of log2 of the latency; slow configs weigh less, and outliers little."""
    names = [field.name for field in fields(Constants) if field.name != _FIXED]
    parts = [space.fastest(_PER_SPACE) for space in spaces]

    def constants(logs: Vector) -> Constants:
        factors = dict(zip(names, np.exp2(logs).tolist(), strict=True))
        return replace(_GUESS, **{name: getattr(_GUESS, name) * factor for name, factor in factors.items()})

    def errors(logs: Vector) -> Vector:
        known = constants(logs)
        return np.concatenate([_weighted_errors(part, known) for part in parts])

    limits = np.log2([_SURE if name in _RATES else _UNSURE for name in names])
    whole = [-np.log2(getattr(_GUESS, name)) if name in _SHARES else np.inf for name in names]
    solved = least_squares(
        errors,
        np.zeros(len(names)),
        bounds=(-limits, np.minimum(limits, whole)),
        loss="soft_l1",
        f_scale=0.2,
        diff_step=0.02,
        max_nfev=30,
    )
    return constants(solved.x)


def _weighted_errors(space: Measured, constants: Constants) -> Vector:
    weights = np.sqrt(space.latencies_us.min() / space.latencies_us)
    errors: Vector = weights * np.log2(space.predicted_us(constants) / space.latencies_us)
    return errors


def judge(space: Measured, constants: Constants) -> dict[str, float]:
    """Rank correlation, and regret of what the model ranks first."""
    predicted_us = space.predicted_us(constants)
    ranked = space.latencies_us[np.argsort(predicted_us, kind="stable")]
    regrets = {f"regret_of_top_{top}": float(ranked[:top].min() / ranked.min() - 1) for top in TOPS}
    return {"rank_correlation": float(spearmanr(predicted_us, space.latencies_us).statistic), **regrets}


def shape_of(recorded: Recorded) -> str:
    """What problems that differ in their batch alone have in common."""
    header = recorded.header
    return json.dumps({**header.problem.to_json(), "batch": None, "family": header.problem.family}, sort_keys=True)


def fit_elsewhere(spaces: Sequence[Recorded]) -> dict[str, Constants]:
    """By shape, constants fitted to the spaces of all other shapes."""
    measured = [Measured.of(one) for one in spaces]
    shapes = list(map(shape_of, spaces))
    distinct = list(dict.fromkeys(shapes))
    if len(distinct) < 2:
        raise SystemExit("fitting elsewhere needs recorded spaces of two shapes at least; record another")
    others = [[one for one, of in zip(measured, shapes, strict=True) if of != shape] for shape in distinct]
    with ProcessPoolExecutor() as pool:
        return dict(zip(distinct, pool.map(fit, others), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    spaces = {path: read_recorded(path) for path in sorted(options.folder.glob("*.jsonl.gz"))}
    elsewhere = fit_elsewhere(list(spaces.values()))
    judged = []
    for path, recorded in spaces.items():
        measured = Measured.of(recorded)
        own = judge(measured, constants_of(recorded.header.device))
        fitted = judge(measured, elsewhere[shape_of(recorded)])
        judged.append({"file": path.name, "own_constants": own, "fitted_to_other_shapes": fitted})
        print(json.dumps(judged[-1]), flush=True)
    whole = fit([Measured.of(recorded) for recorded in spaces.values()])
    document = {"constants_fitted_to_all": asdict(whole), "spaces": judged}
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document["constants_fitted_to_all"], indent=2))


if __name__ == "__main__":
    main()
