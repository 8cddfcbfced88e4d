"""``kgen tune --replay``: search a recorded space, without a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kgen.cli.options import config_line, print_json


def tune_replayed(
    path: Path, *, trials: int, budget_s: float, until: float | None, sampler: str, seed: int, as_json: bool
) -> None:
    """Search the space recorded in a file, and print what was found and what that took; nothing is saved."""
    from kgen.search import read_recorded, replay, silent, terminal_progress

    recorded = read_recorded(path)
    with nullcontext(silent) if as_json else terminal_progress() as progress:
        replayed = replay(
            recorded, trials=trials, budget_s=budget_s, until=until, sampler=sampler, seed=seed, progress=progress
        )
    document: dict[str, Any] = {
        "problem": recorded.header.problem.to_json(),
        "configs": len(recorded.evaluations),
        "best_recorded_us": recorded.best.latency_us,
        "evaluations": len(replayed.found),
        "simulated_s": replayed.seconds,
        "ended": replayed.ended,
        "within_5_percent": replayed.until(0.05),
        "within_1_percent": replayed.until(0.01),
        "best_us": None,
        "config": None,
    }
    if replayed.best is not None:
        config, evaluation = replayed.best
        document |= {"best_us": evaluation.latency_us, "config": config.to_json()}
    if as_json:
        print_json(document)
        return
    print(f"{recorded.header.problem}: {len(replayed.found)} evaluations, {replayed.seconds:.1f} s as recorded")
    print(f"the search ended: {replayed.ended}")
    if replayed.best is not None:
        print(f"best {document['best_us']:.1f} us of {document['best_recorded_us']:.1f} us recorded")
        print(config_line(replayed.best[0]))
    for share, name in (("5%", "within_5_percent"), ("1%", "within_1_percent")):
        after = document[name]
        print(f"within {share} after {after} evaluations" if after else f"not within {share}")
