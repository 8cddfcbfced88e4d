"""A small study with figures made by hand, written by the search's own storage code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kgen.search.about import About
from kgen.search.evaluate import Evaluation
from kgen.search.history import DUPLICATE_OF
from kgen.search.objectives import BY_EFFICIENCY, Objectives, values_of
from kgen.search.storage import open_study
from optuna.trial import TrialState

from kgen.blocks.convfirst import default_config
from kgen.blocks.convfirst.config import PortableConfig, WgmmaFusedConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device
from kgen.machine import efficiency
from kgen.tuned import Measurement
from kgen.worker import Outcome

H200 = replace(find_device("h200"), ordinal=0)
PROBLEM = ConvFirst(256, 56, 56, 64)
SCRIPT = "</script><script>document.title='owned'</script>"
MARKUP = '<img src=x onerror="document.title=1"> & "co" \ud800'

DEFAULT = default_config(PROBLEM, H200)
WINNER = WgmmaFusedConfig(
    boundary="wgmma_fused",
    warpgroups=2,
    hidden_chunk=128,
    weight_slots=4,
    x_slots=2,
    overlap=False,
    conv_reuse="rows",
    conv_output="registers",
    sigmoid="tanh",
    cluster=2,
    warpgroup_pixels=128,
)
SMALL = PortableConfig(
    boundary="fused",
    tile_h=32,
    tile_w=4,
    pixels=128,
    warps_m=4,
    warps_n=1,
    channel_chunk=16,
    hidden_chunk=16,
    out_split=1,
    hidden_split=1,
    stages=2,
    weights="streamed",
    grid="one_shot",
    conv_reuse="none",
    conv_output="registers",
    sigmoid="tanh",
    ctas_per_sm=3,
)


@dataclass(frozen=True)
class Told:
    """A trial to write: a config, what became of it, and the search's seconds at its end."""

    config: Any
    evaluation: Evaluation
    search_s: float | None = None
    duplicate_of: int | None = None


def passed(latency_us: float, predicted_us: float, compile_s: float, *, spill_bytes: int = 0) -> Evaluation:
    share = efficiency(PROBLEM.flops, latency_us, H200)
    return Evaluation(
        Outcome.OK,
        efficiency=share,
        verified=True,
        compiled=True,
        predicted_us=predicted_us,
        compile_s=compile_s,
        registers={"convfirst_wgmma_fused": 168},
        spill_bytes=spill_bytes,
        measured=Measurement(latency_us, latency_us, latency_us, share, 1e-4),
        error=1e-4,
    )


def failed(outcome: Outcome, reason: str, compile_s: float) -> Evaluation:
    return Evaluation(outcome, reason, compiled=True, compile_s=compile_s)


def too_large(reason: str) -> Evaluation:
    return Evaluation(Outcome.INFEASIBLE, reason, "shared_memory")


HOSTILE = {**WINNER.to_json(), "sigmoid": SCRIPT}
TRIALS = (
    Told(DEFAULT.to_json(), passed(250, 200, 2), 10),
    Told(HOSTILE, too_large(MARKUP)),
    Told(HOSTILE, failed(Outcome.COMPILE_FAILED, SCRIPT, 3), 14),
    Told(SMALL.to_json(), passed(150, 140, 4), 24),
    Told(SMALL.to_json(), passed(150, 140, 4), None, duplicate_of=3),
    Told(replace(WINNER, overlap=True).to_json(), passed(125, 150, 5, spill_bytes=64), 30),
    Told(replace(WINNER, cluster=4).to_json(), failed(Outcome.WRONG_ANSWER, "its output is wrong", 1), 33),
    Told(WINNER.to_json(), passed(100, 120, 5), 40),
    Told({**replace(WINNER, x_slots=1).to_json(), "sigmoid": SCRIPT}, passed(110, 120, 5), 46),
    Told(replace(WINNER, cluster=8).to_json(), too_large("it needs too much shared memory")),
)
"""Trial 7 wins with 100 us; the default config, trial 0, takes 250 us; trial 8 has no plan."""


def split(evaluation: Evaluation, wait_s: float, run_s: float | None = None) -> Evaluation:
    """An evaluation that says what the search waited for and ran."""
    return replace(evaluation, wait_s=wait_s, run_s=run_s)


SPLIT = (
    Told(DEFAULT.to_json(), split(passed(250, 200, 2), 2, 5), 10),
    Told(replace(WINNER, cluster=8).to_json(), too_large("it needs too much shared memory"), 11),
    Told(replace(WINNER, cluster=4).to_json(), split(failed(Outcome.WRONG_ANSWER, "it is wrong", 1), 1, 2), 15),
    Told(SMALL.to_json(), split(failed(Outcome.COMPILE_FAILED, "it is odd", 1), 1), 16.5),
    Told(WINNER.to_json(), split(passed(100, 120, 5), 0, 3), 20),
)
"""Of 20 s the search waits for 2, measures for 8, fails for 4, and does the rest in 6."""


def trading(latency_us: float, energy_j: float) -> Evaluation:
    """An evaluation that measured energy too."""
    evaluation = passed(latency_us, latency_us, 1)
    assert evaluation.measured is not None
    return replace(evaluation, measured=replace(evaluation.measured, energy_j=energy_j))


PARETO = (
    Told(DEFAULT.to_json(), trading(250, 0.05), 10),
    Told(SMALL.to_json(), trading(150, 0.02), 20),
    Told(WINNER.to_json(), trading(100, 0.03), 30),
    Told(replace(WINNER, cluster=8).to_json(), too_large("it needs too much shared memory"), 31),
    Told(replace(WINNER, overlap=True).to_json(), trading(125, 0.025), 40),
    Told(replace(WINNER, cluster=4).to_json(), trading(125, 0.04), 50),
)
"""By latency and energy nothing is preferable to trials 2, 4 and 1."""


def write(
    storage: Path | str,
    trials: tuple[Told, ...] = TRIALS,
    name: str = "sample",
    device: Any = H200,
    objectives: Objectives = BY_EFFICIENCY,
) -> str:
    """Write a study; returns its storage."""
    with open_study(str(storage), name, objectives) as study:
        About(PROBLEM, device).write(study)
        for told in trials:
            trial = study.ask()
            trial.set_user_attr("config", told.config)
            for key, value in told.evaluation.to_attrs().items():
                trial.set_user_attr(key, value)
            if told.search_s is not None:
                trial.set_user_attr("search_s", told.search_s)
            if told.duplicate_of is not None:
                trial.set_user_attr(DUPLICATE_OF, told.duplicate_of)
            if told.evaluation.outcome is Outcome.OK:
                study.tell(trial, values_of(objectives, told.evaluation))
            else:
                study.tell(trial, state=TrialState.PRUNED)
    return str(storage)
