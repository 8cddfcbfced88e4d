"""tune(): one search, from a problem and a device to a saved entry."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import optuna
from kgen.search.about import About
from kgen.search.evaluate import Bench, plan_of
from kgen.search.final import hold_final
from kgen.search.helpers import Helpers
from kgen.search.history import History
from kgen.search.loop import Limits, Search
from kgen.search.objectives import BY_EFFICIENCY, Objective, Objectives, shown
from kgen.search.progress import Report, silent
from kgen.search.samplers import DEFAULT_SAMPLER, check_sampler, make_sampler
from kgen.search.saving import Found, Saver
from kgen.search.shared import SharedStudy
from kgen.search.space import Choices, Space, legal_space
from kgen.search.storage import join_study, open_study, place_of

from kgen import env, tuned
from kgen.blocks import family
from kgen.budget import Budget
from kgen.compile import INSTALL, CompilePool
from kgen.devices import Device
from kgen.emulator.toolchain import find_compiler
from kgen.energy import check_energy
from kgen.errors import CompileError, ProblemError, StudyError
from kgen.machine import Config
from kgen.tuned import TunedEntry
from kgen.tuned_file import TunedProblem
from kgen.worker import Worker

FAVOURITES, _FIRST = 24, 4
"""Favourites of the performance model that are listed with their neighbours, and those of them that are tried first."""
_NEAR = 4
"""Tuned configs that are tried first."""
_MOST_AHEAD = 20


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a search; ``found`` is the best so far, saved already, or None when nothing was verified yet."""

    def __init__(self, found: Found | None) -> None:
        super().__init__("the search was interrupted")
        self.found = found


def tune(
    problem: TunedProblem,
    device: Device,
    *,
    trials: int,
    budget_s: float,
    until: float | None = None,
    objectives: Objectives = BY_EFFICIENCY,
    out: Path | None = None,
    storage: str | None = None,
    sampler: str = DEFAULT_SAMPLER,
    seed: int = 0,
    progress: Report = silent,
) -> TunedEntry:
    """Search for the best config by the first of ``objectives`` and save it in ``out`` (the user's folder by default).

    The objective is computational efficiency unless others are asked for. Several give a Pareto set, which is saved
    with the config.

    With a local GPU, candidates are verified and measured on it. For a named device they are compiled and ranked by the
    performance model, and those that would be the best are verified in the emulator. The search ends when the study
    holds ``trials`` compiled candidates, those of earlier runs included, when ``budget_s`` seconds have passed, or when
    no config that is left is expected to save the share ``until`` of the best one's time; a candidate under way is
    finished. Those measured for efficiency then end with a final (:mod:`kgen.search.final`), whose winner is saved with
    those that tie with it. ``storage`` is a journal file or a database URL, by default a journal in the user's cache.

    Raises:
        SearchInterrupted: Ctrl-C; what was found is saved.
        StudyError: the storage or the sampler cannot be used, no config passed, or there was no time for any.
        DeviceError: energy is an objective but cannot be measured.
        TunedConfigError: the entry cannot be saved, or is modelled and would replace a measured one.
        CompileError: the compiler, or the emulator's host compiler, is missing.
        ProblemError: ``trials`` or ``until`` is not positive.
    """
    return find(
        problem,
        device,
        trials=trials,
        budget=Budget(budget_s),
        until=until,
        objectives=objectives,
        out=out,
        storage=storage,
        sampler=sampler,
        seed=seed,
        progress=progress,
    ).entry


def find(
    problem: TunedProblem,
    device: Device,
    *,
    others: Sequence[Device] = (),
    trials: int,
    budget: Budget,
    until: float | None = None,
    objectives: Objectives = BY_EFFICIENCY,
    out: Path | None,
    storage: str | None,
    sampler: str,
    seed: int,
    progress: Report,
    bench: Bench | None = None,
) -> Found:
    """:func:`tune`, which says more of what it found, and may search on ``others`` too, of the same GPU model.

    ``bench`` is the device's of :func:`open_bench`, for several searches one after the other.
    """
    check_limits(trials, until)
    if time.monotonic() >= budget.end_s:
        raise _too_small(budget, problem)
    check_sampler(sampler, objectives=len(objectives), until=until is not None)
    _check_tools(device)
    if Objective.ENERGY in objectives:
        check_energy(device)
    saver = Saver(problem, device, out, objectives)
    kind = family(problem.family)
    seeds = [kind.default_config(problem, device), *kind.favourites(problem, device, FAVOURITES)]
    choices = _with_values_of(seeds, kind.choices(problem, device))
    name = _study_name(saver, choices)
    limits = Limits(trials, budget, ahead_of(cores_of(others)), until)
    task = _Task(
        problem=problem,
        device=device,
        objectives=objectives,
        seeds=tuple(seeds),
        choices=choices,
        where=place_of(storage, name),
        name=name,
        limits=limits,
        others=tuple(others),
        sampler=sampler,
        seed=seed,
    )
    with open_study(storage, name, objectives) as study:
        tasks = [replace(task, device=other, seed=seed + part) for part, other in enumerate(others, 1)]
        opened = nullcontext(bench) if bench else open_bench(device, others, objectives)
        with Helpers(study, _help, tasks) as helpers, opened as used:
            search = _prepare(study, task, progress, saver.save, used)
            near = (search.space.admit(config) for config in tuned.near(problem, device, out, _NEAR))
            search.seed([*(config for config in near if config is not None), *seeds[: 1 + _FIRST]])
            try:
                search.run()
                helpers.wait()
                search.history.read(study.get_trials(deepcopy=False))
                final = None
                if used.measures and objectives == BY_EFFICIENCY:
                    final = hold_final(search.history, seeds[0], partial(plan_of, problem, device), used)
            except KeyboardInterrupt:
                raise SearchInterrupted(saver.save(search)) from None
        found = saver.save(search, final)
    if found is None:
        raise _nothing_passed(problem, search.history) if search.history.configs else _too_small(budget, problem)
    return found


@dataclass(frozen=True)
class _Task:
    """What one process of a search needs, which may be another one than decided it."""

    problem: TunedProblem
    device: Device
    objectives: Objectives
    seeds: tuple[Config, ...]
    choices: Choices
    where: str
    name: str
    limits: Limits
    others: tuple[Device, ...]
    sampler: str
    seed: int


def _help(task: _Task) -> None:
    opened = open_bench(task.device, task.others, task.objectives)
    with join_study(task.where, task.name, task.objectives) as study, opened as bench:
        _prepare(study, task, silent, lambda search: None, bench).run()


@contextmanager
def open_bench(
    device: Device, others: Sequence[Device] = (), objectives: Objectives = BY_EFFICIENCY
) -> Iterator[Bench]:
    """What compiles and evaluates candidates on a device, beside tuners of ``others``; it takes seconds to start."""
    with CompilePool(cores_of(others)) as pool, Worker(device) as worker:
        yield Bench(device, pool, worker, energy=Objective.ENERGY in objectives)


def cores_of(others: Sequence[Device]) -> int:
    """Cores that one tuner has when others search beside it."""
    return max(1, env.cores() // (1 + len(others)))


def _prepare(
    study: SharedStudy, task: _Task, progress: Report, improved: Callable[[Search], object], bench: Bench
) -> Search:
    problem, device = task.problem, task.device
    About(problem, device).join(study)
    plan = partial(plan_of, problem, device)
    history = History(study, family(problem.family).config_from_json, plan)
    space = legal_space(problem, device, task.choices, task.seeds, task.seed)
    space.add(_waiting(study, space))
    # A resumed search must not draw again what it drew before.
    study.sampler = make_sampler(task.sampler, space, study, plan, task.seed + len(study.get_trials(deepcopy=False)))
    return Search(study, space, plan, bench, history, task.limits, report=progress, improved=improved)


def _waiting(study: optuna.Study, space: Space) -> list[Config]:
    """Configs that an earlier run was to evaluate."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    return [space.suggest(optuna.trial.FixedTrial(trial.system_attrs["fixed_params"])) for trial in trials]


def _check_tools(device: Device) -> None:
    """Fail at once where every candidate would: those failures must not be recorded as the candidates' own."""
    if env.nvrtc_version() is None:
        raise CompileError(f"tuning needs CuPy and NVRTC, but they were not found; install them: {INSTALL}")
    if device.ordinal is None:
        find_compiler(os.environ.get("CXX", ""), os.environ.get("PATH", os.defpath))


def check_limits(trials: int, until: float | None) -> None:
    """Raise ProblemError unless these limits are positive."""
    for name, value in (("trials", trials), ("until", until)):
        if value is not None and not value > 0:
            raise ProblemError(f"{name} must be greater than 0, but got {name}={value:g}; pass a larger number")


def ahead_of(cores: int) -> int:
    """Candidates to compile ahead: enough to measure without a pause, few enough to learn from what was measured."""
    return min(2 * cores, _MOST_AHEAD)


def _with_values_of(configs: Sequence[Config], choices: Choices) -> Choices:
    """``choices`` with the values of configs that are to be tried first and may lie outside."""
    seen = {side: [config.to_json() for config in configs if config.boundary == side] for side in choices}
    return {
        side: {name: tuple(dict.fromkeys([*values, *(one[name] for one in seen[side])])) for name, values in of.items()}
        for side, of in choices.items()
    }


def _study_name(saver: Saver, choices: Choices) -> str:
    """Equal for searches whose trials can be compared: same problem, device, objectives, templates and space."""
    objective = "modelled" if saver.device.ordinal is None else "measured"
    if saver.objectives != BY_EFFICIENCY:
        objective += f"-{shown(saver.objectives).replace(',', '-')}"
    parts = [str(saver.problem), saver.device.slug, saver.device.arch, objective, saver.digest, choices]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    return f"{saver.problem.family}-{saver.device.slug}-{objective}-{digest}"


def _nothing_passed(problem: TunedProblem, history: History) -> StudyError:
    counts = ", ".join(f"{count} {kind}" for kind, count in history.failures.most_common())
    return StudyError(
        f"a search must find a config that passes, but none did for {problem} ({counts}; the last one: "
        f"{history.last_failure}); raise --budget or --trials"
    )


def _too_small(budget: Budget, problem: TunedProblem) -> StudyError:
    return StudyError(
        f"a budget must suffice for one candidate of {problem}, but {budget.seconds:.3g} s for it were spent before "
        "the first was evaluated; pass a larger --budget (what was saved before is kept)"
    )
