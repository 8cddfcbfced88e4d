"""Tuned entries verified and timed again, where the driver, NVRTC, kgen or the templates changed since.

A config that was tuned beside others which tied with it is retested beside them (:mod:`kgen.finals`), and one of them
takes its place where it is the winner now, or the only one that passes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from kgen import tuned
from kgen.blocks import family
from kgen.compile import INSTALL, CompilePool, Cubin
from kgen.devices import Device
from kgen.energy import check_energy
from kgen.env import nvrtc_version
from kgen.errors import CompileError, DeviceError, InfeasibleError, ProblemError, TunedConfigError
from kgen.finals import choose, hold
from kgen.machine import Config, Program, attainable_efficiency, intensity
from kgen.render import render, template_digest
from kgen.tuned_file import Environment, TunedEntry, TunedFile, load_file
from kgen.worker import Outcome, Worker

LIMIT_S = 300.0
_COMPARED = ("driver", "nvrtc", "kgen", "template_digest")

_Started = tuple[Program, Future[Cubin]] | str
"""A program that is being compiled, or why there is none."""


@dataclass(frozen=True)
class Due:
    """An entry to retest, and what ``changed`` since it was measured: names of fields of its environment."""

    entry: TunedEntry
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Retested:
    """An entry before and after; ``after.failed`` says why it is out of service now, if it is."""

    before: TunedEntry
    after: TunedEntry
    changed: tuple[str, ...]
    seconds: float


def due(folder: Path, family_name: str | None, device: Device, *, every: bool) -> dict[Path, tuple[Due, ...]]:
    """By file, a folder's entries to retest on ``device``: of one family or of all.

    They are those whose environment changed, those that failed, or ``every`` one.

    Raises:
        DeviceError: ``device`` is not in this machine.
        ProblemError: the family is unknown.
        TunedConfigError: a file is corrupt, or there is none.
    """
    if device.ordinal is None:
        raise DeviceError(
            f"tuned configs are retested on a GPU of this machine only, but {device.name} is a datasheet's; run it "
            "where that GPU is"
        )
    if family_name is not None:
        family(family_name)
    pattern = f"{family_name or '*'}/{device.slug}.json"
    files = sorted(folder.glob(pattern))
    if not files:
        raise TunedConfigError(
            f"a folder to retest must have {pattern}, but {folder} has not; pass another --tuned, or make tuned "
            "configs with kgen tune"
        )
    return {path: _due(load_file(path), device, every) for path in files}


def _due(file: TunedFile, device: Device, every: bool) -> tuple[Due, ...]:
    found = [Due(entry, _changed(file.environment_of(entry), entry, device)) for entry in file.entries]
    return tuple(one for one in found if every or one.changed or one.entry.failed)


def retest(path: Path, entries: tuple[Due, ...], device: Device) -> Iterator[Retested]:
    """Verify and time entries of a file on ``device``, saving each: what won, when and where, or why the entry failed.

    All are compiled ahead. An entry that a tuner replaces meanwhile stays as the tuner left it. Energy is measured
    where it was before; a Pareto set is dropped, since its figures are not taken again.

    Raises:
        CompileError: CuPy or NVRTC is missing.
        DeviceError: the worker process cannot start, or an entry has an energy, which cannot be measured here.
        TunedConfigError: the file cannot be written.
    """
    if nvrtc_version() is None:
        raise CompileError(f"retesting needs CuPy and NVRTC, but they were not found; install them: {INSTALL}")
    if any(_has_energy(one.entry) for one in entries):
        check_energy(device)
    with CompilePool() as pool, Worker(device) as worker:
        started = [_start(one.entry, device, pool) for one in entries]
        for one, programs in zip(entries, started, strict=True):
            start_s = time.perf_counter()
            tested = _test(one.entry, programs, device, worker)
            after = _save(one.entry, tested, path, device)
            yield Retested(one.entry, after, one.changed, time.perf_counter() - start_s)


def _save(before: TunedEntry, tested: TunedEntry | str, path: Path, device: Device) -> TunedEntry:
    if isinstance(tested, str):
        return tuned.take_out_of_service(before, path, tested)
    tuned.save_unless(tested, device, path.parent.parent, keep=lambda saved: not saved.same(before))
    return tested


def _changed(before: Environment, entry: TunedEntry, device: Device) -> tuple[str, ...]:
    old = asdict(before)
    now = asdict(tuned.environment(device, template_digest(entry.config.template)))
    return tuple(name for name in _COMPARED if old[name] != now[name])


def _start(entry: TunedEntry, device: Device, pool: CompilePool) -> list[_Started]:
    """The programs of the entry's config and of those that tied with it, being compiled, or why there is none."""
    return [_start_one(entry, config, device, pool) for config in (entry.config, *(entry.tied or ()))]


def _start_one(entry: TunedEntry, config: Config, device: Device, pool: CompilePool) -> _Started:
    try:
        program: Program = family(entry.problem.family).plan(entry.problem, config, device)
    except (InfeasibleError, ProblemError) as error:
        return f"{Outcome.INFEASIBLE.value}: {error}"
    return program, pool.submit(render(program), program.arch)


def _test(entry: TunedEntry, started: Sequence[_Started], device: Device, worker: Worker) -> TunedEntry | str:
    """The entry as it is measured now, or why it failed."""
    compiling = [one for one in started if not isinstance(one, str)]
    finalists = hold(compiling, device, worker, LIMIT_S, energy=_has_energy(entry))
    winner, *others = choose(finalists) or (None,)
    if winner is None:
        own = started[0]
        return own if isinstance(own, str) else f"{finalists[0].result.outcome.value}: {finalists[0].result.reason}"
    return replace(
        entry,
        config=winner.config,
        measured=winner.result.measured,
        modelled_us=winner.predicted_us,
        intensity=intensity(winner.program),
        attainable_efficiency=attainable_efficiency(winner.program),
        error=winner.result.error,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        template_digest=template_digest(winner.config.template),
        environment=None,
        failed=None,
        tied=None if entry.tied is None else tuple(one.config for one in others),
        pareto=None,  # its figures were of before
    )


def _has_energy(entry: TunedEntry) -> bool:
    return entry.measured is not None and entry.measured.energy_j is not None
