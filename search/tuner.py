"""tune(): one search, from a problem and a device to a saved entry."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import optuna
from kgen.search.about import About
from kgen.search.evaluate import Bench
from kgen.search.final import Final, hold_final
from kgen.search.helpers import Helpers
from kgen.search.history import History, Known
from kgen.search.loop import Limits, Search
from kgen.search.progress import Report, silent
from kgen.search.samplers import DEFAULT_SAMPLER, check_sampler, make_sampler
from kgen.search.shared import SharedStudy
from kgen.search.space import Choices, Space, legal_space
from kgen.search.storage import join_study, open_study, place_of

from kgen import env, tuned
from kgen.blocks import family
from kgen.compile import INSTALL, CompilePool
from kgen.devices import Device
from kgen.emulator.toolchain import find_compiler
from kgen.errors import CompileError, ProblemError, StudyError, TunedConfigError
from kgen.machine import Config, Program, attainable_efficiency, intensity
from kgen.render import family_digest, template_digest
from kgen.tuned import TunedEntry
from kgen.tuned_file import TunedProblem
from kgen.worker import Worker

FAVOURITES, _FIRST = 24, 4
"""Favourites of the performance model that are listed with their neighbours, and those of them that are tried first."""
_NEAR = 4
"""Tuned configs that are tried first."""
_MOST_AHEAD = 8


@dataclass(frozen=True)
class Found:
    """The best entry of a search and the file it went to; ``kept`` is a better one that was there and stayed.

    ``space`` says how many configs were in it, of how many legal ones.
    """

    entry: TunedEntry
    path: Path
    kept: TunedEntry | None
    space: str


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
    timeout_s: float,
    out: Path | None = None,
    storage: str | None = None,
    sampler: str = DEFAULT_SAMPLER,
    seed: int = 0,
    progress: Report = silent,
) -> TunedEntry:
    """Search for the config of highest computational efficiency and save it in ``out`` (the user's folder by default).

    With a local GPU, candidates are verified and measured on it. For a named device they are compiled and ranked by the
    performance model, and those that would be the best are verified in the emulator. The search ends when the study
    holds ``trials`` compiled candidates, those of earlier runs included, or after ``timeout_s`` seconds; a candidate
    under way is finished. Measured ones then end with a final (:mod:`kgen.search.final`), whose winner is saved with
    those that tie with it. ``storage`` is a journal file or a database URL, by default a journal in the user's cache.

    Raises:
        SearchInterrupted: Ctrl-C; what was found is saved.
        StudyError: the storage or the sampler cannot be used, or no config passed.
        TunedConfigError: the entry cannot be saved, or is modelled and would replace a measured one.
        CompileError: the compiler, or the emulator's host compiler, is missing.
        ProblemError: ``trials`` or ``timeout_s`` is not positive.
    """
    return find(
        problem,
        device,
        trials=trials,
        timeout_s=timeout_s,
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
    timeout_s: float,
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
    check_limits(trials, timeout_s)
    check_sampler(sampler)
    _check_tools(device)
    saver = _Saver(problem, device, out)
    kind = family(problem.family)
    seeds = [kind.default_config(problem, device), *kind.favourites(problem, device, FAVOURITES)]
    choices = _with_values_of(seeds, kind.choices(problem, device))
    name = _study_name(saver, choices)
    limits = Limits(trials, timeout_s, ahead_of(cores_of(others)))
    task = _Task(
        problem, device, tuple(seeds), choices, place_of(storage, name), name, limits, tuple(others), sampler, seed
    )
    with open_study(storage, name) as study:
        tasks = [replace(task, device=other, seed=seed + part) for part, other in enumerate(others, 1)]
        with Helpers(study, _help, tasks) as helpers, _opened(bench, device, others) as used:
            search = _prepare(study, task, progress, saver.save, used)
            near = (search.space.admit(config) for config in tuned.near(problem, device, out, _NEAR))
            search.seed([*(config for config in near if config is not None), *seeds[: 1 + _FIRST]])
            try:
                search.run()
                helpers.wait()
                search.history.read(study)
                plan = partial(plan_of, problem, device)
                final = hold_final(search.history, seeds[0], plan, used) if used.measures else None
            except KeyboardInterrupt:
                raise SearchInterrupted(saver.save(search)) from None
        found = saver.save(search, final)
    if found is None:
        raise StudyError(_nothing_passed(problem, search.history))
    return found


@dataclass(frozen=True)
class _Task:
    """What one process of a search needs, which may be another one than decided it."""

    problem: TunedProblem
    device: Device
    seeds: tuple[Config, ...]
    choices: Choices
    where: str
    name: str
    limits: Limits
    others: tuple[Device, ...]
    sampler: str
    seed: int


def _help(task: _Task) -> None:
    with join_study(task.where, task.name) as study, open_bench(task.device, task.others) as bench:
        _prepare(study, task, silent, lambda search: None, bench).run()


@contextmanager
def open_bench(device: Device, others: Sequence[Device] = ()) -> Iterator[Bench]:
    """What compiles and evaluates candidates on a device, beside tuners of ``others``; it takes seconds to start."""
    with CompilePool(cores_of(others)) as pool, Worker(device) as worker:
        yield Bench(device, pool, worker)


def cores_of(others: Sequence[Device]) -> int:
    """Cores that one tuner has when others search beside it."""
    return max(1, (os.cpu_count() or 1) // (1 + len(others)))


def _opened(bench: Bench | None, device: Device, others: Sequence[Device]) -> AbstractContextManager[Bench]:
    return nullcontext(bench) if bench else open_bench(device, others)


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


class _Saver:
    """Saves the best config of a search whenever there is a better one, but never over a better measurement."""

    def __init__(self, problem: TunedProblem, device: Device, folder: Path | None) -> None:
        self.problem = problem
        self.device = device
        self.digest = family_digest(problem.family)
        self._folder = env.user_tuned_dir() if folder is None else folder
        self._check_replaceable()

    def save(self, search: Search, final: Final | None = None) -> Found | None:
        """Save the search's best verified config, if it has one, or the winner of its final."""
        best = final.winner if final else search.history.best
        if best is None:
            return None
        entry = replace(self._entry(best, search), tied=final.tied if final else None)
        beaten = final.took_part if final else ()
        path, kept = tuned.save_unless(
            entry,
            self.device,
            self._folder,
            keep=lambda saved: saved.config not in beaten and _is_better(saved, entry),
        )
        return Found(entry, path, kept, str(search.space))

    def _check_replaceable(self) -> None:
        """Refuse a modelled search where the folder that is saved to has a fresh measured entry of the problem."""
        found = tuned.lookup(self.problem, self.device, self._folder)
        if found is None or not found.exact or found.stale or self._folder not in found.path.parents:
            return
        if found.entry.measured is not None and self.device.ordinal is None:
            raise TunedConfigError(
                f"a modelled search must not replace a measured entry, but {found.path} has one for {self.problem}; "
                "pass another --out"
            )

    def _entry(self, best: Known, search: Search) -> TunedEntry:
        program = plan_of(self.problem, self.device, best.config)
        return TunedEntry(
            problem=self.problem,
            config=best.config,
            measured=best.evaluation.measured,
            modelled_us=best.evaluation.predicted_us,
            intensity=intensity(program),
            attainable_efficiency=attainable_efficiency(program),
            error=best.evaluation.error,
            trials=search.history.evaluated,
            seconds=search.seconds,
            when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            template_digest=template_digest(best.config.template),
        )


def _waiting(study: optuna.Study, space: Space) -> list[Config]:
    """Configs that an earlier run was to evaluate."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    return [space.suggest(optuna.trial.FixedTrial(trial.system_attrs["fixed_params"])) for trial in trials]


def _is_better(saved: TunedEntry, entry: TunedEntry) -> bool:
    """Whether a saved entry stays: it is fresh, and measured to be faster than ``entry``, which has another config.

    Of one config the later measurement counts, unless the earlier was made beside others, and the later was not.
    """
    if saved.failed or saved.measured is None or saved.template_digest != template_digest(saved.config.template):
        return False
    if entry.measured is None:
        return True
    if saved.config == entry.config:
        return saved.tied is not None and entry.tied is None
    return saved.measured.median_us < entry.measured.median_us


def _check_tools(device: Device) -> None:
    """Fail at once where every candidate would: those failures must not be recorded as the candidates' own."""
    if env.nvrtc_version() is None:
        raise CompileError(f"tuning needs CuPy and NVRTC, but they were not found; install them: {INSTALL}")
    if device.ordinal is None:
        find_compiler(os.environ.get("CXX", ""), os.environ.get("PATH", os.defpath))


def plan_of(problem: TunedProblem, device: Device, config: Config) -> Program:
    """A config's program; InfeasibleError when it breaks a rule."""
    program: Program = family(problem.family).plan(problem, config, device)
    return program


def check_limits(trials: int, timeout_s: float) -> None:
    """Raise ProblemError unless a search within these limits can find something."""
    for name, value in (("trials", trials), ("timeout", timeout_s)):
        if not value > 0:
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


def _study_name(saver: _Saver, choices: Choices) -> str:
    """Equal for searches whose trials can be compared: same problem, device, objective, templates and space."""
    objective = "modelled" if saver.device.ordinal is None else "measured"
    parts = [str(saver.problem), saver.device.slug, saver.device.arch, objective, saver.digest, choices]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    return f"{saver.problem.family}-{saver.device.slug}-{objective}-{digest}"


def _nothing_passed(problem: TunedProblem, history: History) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in history.failures.most_common()) or "none was evaluated"
    last = f"; the last one: {history.last_failure}" if history.last_failure else ""
    return f"a search must find a config that passes, but none did for {problem} ({counts}{last}); raise the time limit"
