"""The five answers at the top of a report, as sentences."""

from __future__ import annotations

from dataclasses import dataclass

from kgen import machine
from kgen.blocks import family
from kgen.compile import Resources
from kgen.machine import Program
from kgen.model import KernelTerms, model_terms
from kgen.report.analysis import Importance, importances, search_seconds
from kgen.report.peers import Peers
from kgen.report.trials import StudyTrials, Trial, config_text

_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Answer:
    """A question that a reader of a study asks, and what the study says."""

    question: str
    text: str


def answers(study: StudyTrials, program: Program, peers: Peers | None) -> tuple[Answer, ...]:
    """All five, and one more of several objectives; ``program`` is the winner's plan."""
    trades = [Answer("What can be had for what?", _what_for_what(study))] if study.front else []
    return (
        Answer("How good is the winner?", _how_good(study, program)),
        Answer("What limits it?", _what_limits(study.winner, program)),
        Answer("Which parameter matters most?", _what_matters(study)),
        Answer("What would half of its shared memory cost?", _half_the_shared_memory(study)),
        Answer("When has tuning paid for itself?", _paid_for_itself(study, peers)),
        *trades,
    )


def _how_good(study: StudyTrials, program: Program) -> str:
    winner = study.winner
    ideal_us = machine.ideal_us(study.problem.flops, study.device)
    attainable_us, attainable = machine.attainable_us(program), machine.attainable_efficiency(program)
    latency_us, efficiency = _latency(winner), winner.efficiency or 0.0
    times = latency_us / attainable_us
    return (
        f"Trial {winner.number} takes {_us(latency_us)} {_how(study)}: efficiency {100 * efficiency:.3g}% of "
        f"the {100 * attainable:.3g}% that the waterline allows its plan. The ideal latency is {_us(ideal_us)} and "
        f"the attainable one {_us(attainable_us)}, so the winner takes {times:.2f} times as long as it could."
    )


def _what_for_what(study: StudyTrials) -> str:
    found = sorted((trial for trial in study.passed if trial.number in study.front), key=_latency)
    told = "; ".join(f"trial {one.number} takes {', '.join(_figures(one))}" for one in found)
    return (
        f"By {', '.join(one.value for one in study.objectives)} no config is preferable to these {len(found)}: {told}."
    )


def _figures(trial: Trial) -> list[str]:
    energy = [] if trial.energy_mj is None else [f"{trial.energy_mj:.4g} mJ"]
    error = [] if trial.error is None else [f"error {trial.error:.2g}"]
    return [_us(_latency(trial)), *energy, *error]


def _what_limits(winner: Trial, program: Program) -> str:
    terms = winner_terms(winner, program)
    slowest = max(terms, key=lambda one: one.total_us)
    total_us = sum(one.total_us for one in terms)
    kernel = f" in {slowest.symbol}, which takes {_us(slowest.total_us)} of {_us(total_us)}" if len(terms) > 1 else ""
    spilled = winner.evaluation.spill_bytes
    spills = f" It spills {spilled} bytes of registers, which comes on top." if spilled else ""
    units = ", ".join(f"{name} {_us(time_us)}" for name, time_us in slowest.in_sm_us.items() if time_us)
    return (
        f"By the performance model, {slowest.binding}{kernel}: alone it would take {_us(slowest.binding_us)} of the "
        f"{_us(slowest.total_us)} predicted. An SM works for {_us(slowest.sm_us)} ({units}; the longest hides "
        f"{1 - slowest.exposed:.0%} of the others); the chip's L2 needs {_us(slowest.l2_us)}, DRAM "
        f"{_us(slowest.dram_us)}.{spills}"
    )


def winner_terms(winner: Trial, program: Program) -> tuple[KernelTerms, ...]:
    """The model's terms of the winner's kernels with the registers they were compiled to, spills left out."""
    registers = winner.evaluation.registers
    return model_terms(program, {symbol: Resources(count, 0, 0, 0, 0) for symbol, count in registers.items()})


def _what_matters(study: StudyTrials) -> str:
    found = importances(study)
    if not found or found[0].share < _LEAST_SHARE:
        return f"{len(study.passed)} configs that passed are too few, or too alike, to tell."
    rest = "".join(f", then {one.parameter} with {one.share:.0%}" for one in found[1:3] if one.share >= _LEAST_SHARE)
    first = found[0]
    return (
        f"{first.parameter} explains {first.share:.0%} of the variance of log latency {_among(first, study)}{rest}; "
        f"parameters share variance, so the figures need not add up to 100%."
    )


def _among(importance: Importance, study: StudyTrials) -> str:
    side = "" if importance.parameter == "boundary" else f" with boundary {study.winner.side}"
    return f"among the {importance.trials} configs{side} that passed"


def _half_the_shared_memory(study: StudyTrials) -> str:
    winner = study.winner
    if not winner.shared_bytes:
        return "The winner uses no dynamic shared memory."
    most = winner.shared_bytes / 2
    small = [trial for trial in study.passed if trial.shared_bytes is not None and trial.shared_bytes <= most]
    uses = f"The winner uses {_kb(winner.shared_bytes)} of shared memory a CTA"
    if not small:
        return f"{uses}, and no config that passed uses at most half of it."
    best = min(small, key=_latency)
    cost = _latency(best) / _latency(winner) - 1
    return (
        f"{uses}; the best config with at most half of it, trial {best.number} with {_kb(best.shared_bytes or 0)}, "
        f"takes {_us(_latency(best))}, {cost:.1%} longer ({config_text(best.config)})."
    )


def _paid_for_itself(study: StudyTrials, peers: Peers | None) -> str:
    spent_s = search_seconds(study)
    text = f"The search took {spent_s:.0f} s, and {_against_default(study, spent_s)}"
    if peers is None:
        return text
    peer = peers.find(study.problem, study.device.title)
    if peer is None:
        return f"{text} The results given hold no row of this problem on {study.device.title}."
    return f"{text} {_sentence(_break_even(f'{peer.name} ({_us(peer.latency_us)})', peer.latency_us, study, spent_s))}"


def _against_default(study: StudyTrials, spent_s: float) -> str:
    default = default_trial(study)
    if default is None:
        return "the default config did not pass, so that there is nothing to compare with."
    if default is study.winner:
        return "the default config won: it found nothing better."
    return _break_even(
        f"the default config ({_us(_latency(default))}, trial {default.number})", _latency(default), study, spent_s
    )


def default_trial(study: StudyTrials) -> Trial | None:
    """The trial of the config that runs where nothing was tuned, if it passed."""
    config = family(study.problem.family).default_config(study.problem, study.device).to_json()
    return next((trial for trial in study.passed if dict(trial.config) == config), None)


def _break_even(other: str, other_us: float, study: StudyTrials, spent_s: float) -> str:
    winner_us = _latency(study.winner)
    saved_us = other_us - winner_us
    if saved_us <= 0:
        return f"against {other} it never pays for itself: the winner is no faster."
    calls = spent_s / saved_us * 1e6
    return (
        f"against {other} it saves {_us(saved_us)} a call {_how(study)}: it has paid for itself after {calls:,.0f} "
        f"calls, {_duration(calls * winner_us / 1e6)} of running the winner."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _latency(trial: Trial) -> float:
    return trial.latency_us or 0.0


def _how(study: StudyTrials) -> str:
    return "measured" if study.measured else "by the model (not measured)"


def _us(value: float) -> str:
    return f"{value:,.1f} us" if value >= 10 else f"{value:.3g} us"


def _kb(value: int) -> str:
    return f"{value / 1024:.1f} KiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
