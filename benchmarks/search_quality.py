"""How many evaluations searches need: kgen's sampler, Optuna's and Kernel Tuner's strategies on recorded spaces.

    python benchmarks/search_quality.py FOLDER --out benchmarks/results/search-quality-nvidia-h200.json

FOLDER holds files of ``kgen record``. Every contender searches each space with 50 seeds, one candidate at a time and at
most 100 of them; counted are the evaluations until the first that is within 5% or 1% of the best recorded latency. A
seed that did not get there counts as 101. For kgen's the performance model's constants are fitted to the files of other
shapes, so that it has not seen the space, but for "as shipped". Needs the package kernel_tuner.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from statistics import mean, median
from typing import Any

import kernel_tuner_replay
from kgen.search import read_recorded, replay
from kgen.search.recorded import Recorded
from model_quality import fit_elsewhere, shape_of

from kgen.model import Constants

SEEDS, TRIALS = 50, 100
SHARES = {"within_5_percent": 0.05, "within_1_percent": 0.01}
OWN = "kgen"
_BEST_OF_KERNEL_TUNER = 5
Efficiencies = list[float | None]


def _replayed(
    sampler: str, ahead: int | None, recorded: Recorded, constants: Constants | None, trials: int, seed: int
) -> Efficiencies:
    how: dict[str, Any] = {"sampler": sampler, "ahead": ahead, "constants": constants, "seed": seed}
    replayed = replay(recorded, trials=trials, budget_s=float("inf"), **how)
    return [evaluation.efficiency for _, evaluation in replayed.found]


def _as_shipped(recorded: Recorded, constants: Constants | None, trials: int, seed: int) -> Efficiencies:
    return _replayed(OWN, 0, recorded, None, trials, seed)


def _kernel_tuner(
    strategy: str, recorded: Recorded, constants: Constants | None, trials: int, seed: int
) -> Efficiencies:
    return kernel_tuner_replay.evaluated(strategy, recorded, trials, seed)


CONTENDERS: dict[str, Callable[[Recorded, Constants | None, int, int], Efficiencies]] = {
    OWN: partial(_replayed, OWN, 0),
    f"{OWN}, compiling ahead": partial(_replayed, OWN, None),
    f"{OWN}, as shipped": _as_shipped,
    "optuna tpe": partial(_replayed, "tpe", 0),
    "optuna random": partial(_replayed, "random", 0),
    **{f"kernel_tuner {one}": partial(_kernel_tuner, one) for one in kernel_tuner_replay.STRATEGIES},
}
"""By name, the efficiencies of so many evaluations in order, of a recorded space, the model's constants and a seed."""


def evaluations_until(efficiencies: Iterable[float | None], best: float, share: float) -> int | None:
    """Evaluations until a latency within ``share`` of the best; None when there is none."""
    counted = enumerate(efficiencies, 1)
    return next((count for count, one in counted if (one or 0.0) >= best / (1 + share)), None)


def judge(
    path: Path, contender: str, constants: Constants | None, seed: int, trials: int = TRIALS
) -> dict[str, int | None]:
    """One search of one space."""
    recorded = _read(path)
    efficiencies = CONTENDERS[contender](recorded, constants, trials, seed)
    best = recorded.best.efficiency or 0.0
    return {name: evaluations_until(efficiencies, best, share) for name, share in SHARES.items()}


@lru_cache(maxsize=1)
def _read(path: Path) -> Recorded:
    return read_recorded(path)


def summary(counts: Sequence[int | None], trials: int = TRIALS) -> dict[str, Any]:
    """Median evaluations, a search that did not get there counting as one more than it had, and the share that did."""
    return {
        "median": median(trials + 1 if count is None else count for count in counts),
        "share_of_seeds": sum(count is not None for count in counts) / len(counts),
    }


def judge_space(path: Path, constants: Constants | None, seeds: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Every contender's summary on one space."""
    jobs = {
        contender: [pool.submit(judge, path, contender, constants, seed) for seed in range(seeds)]
        for contender in CONTENDERS
    }
    header = read_recorded(path).header
    contenders = {}
    for contender, futures in jobs.items():
        results = [future.result() for future in futures]
        contenders[contender] = {name: summary([one[name] for one in results]) for name in SHARES}
    return {
        "file": path.name,
        "problem": header.problem.to_json(),
        "configs": header.size,
        "environment": asdict(header.environment),
        "contenders": contenders,
    }


def compare(spaces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Goals over all spaces: kgen's medians and shares, and on how many spaces it beats each of the others.

    Of Kernel Tuner's strategies the five count that are best, by the mean of their medians within 5%.
    """

    def medians(contender: str, name: str) -> list[float]:
        return [space["contenders"][contender][name]["median"] for space in spaces]

    others = [contender for contender in CONTENDERS if not contender.startswith(OWN)]
    strategies = sorted(
        (contender for contender in others if contender.startswith("kernel_tuner")),
        key=lambda contender: mean(medians(contender, "within_5_percent")),
    )
    rivals = [one for one in others if one not in strategies[_BEST_OF_KERNEL_TUNER:]]
    compared: dict[str, Any] = {"spaces": len(spaces), "rivals": rivals}
    for name in SHARES:
        contenders = [{one: space["contenders"][one][name] for one in CONTENDERS} for space in spaces]
        better = [all(of[OWN]["median"] < of[one]["median"] for one in rivals) for of in contenders]
        compared[name] = {
            "median_of_medians": {one: median(medians(one, name)) for one in CONTENDERS},
            "least_share_of_seeds": min(of[OWN]["share_of_seeds"] for of in contenders),
            "spaces_better_than_every_rival": sum(better),
        }
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # a process a core
    paths = sorted(options.folder.glob("*.jsonl.gz"))
    if not paths:
        parser.error(f"{options.folder} must hold files of kgen record (*.jsonl.gz), but has none")
    recorded = {path: read_recorded(path) for path in paths}
    elsewhere = fit_elsewhere(list(recorded.values()))
    spaces = []
    with ProcessPoolExecutor() as pool:
        for path in paths:
            spaces.append(judge_space(path, elsewhere[shape_of(recorded[path])], options.seeds, pool))
            for contender, result in spaces[-1]["contenders"].items():
                figures = (f"{name} {one['median']:g} ({one['share_of_seeds']:.0%})" for name, one in result.items())
                print(f"{path.name}: {contender}: {', '.join(figures)}", flush=True)
    versions = {name: metadata.version(name) for name in ("kernel_tuner", "optuna", "scikit-learn")}
    document = {
        "seeds": options.seeds,
        "trials": TRIALS,
        "versions": versions,
        "all": compare(spaces),
        "spaces": spaces,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document["all"], indent=2))


if __name__ == "__main__":
    main()
