"""Recording a search space: every config of it, or of a sample, compiled ahead, verified and measured."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from kgen.search.evaluate import Bench, Evaluation
from kgen.search.history import program_key
from kgen.search.progress import Report, Snapshot, silent
from kgen.search.recorded import Header, Recorder
from kgen.search.space import Space, legal_space

from kgen import env
from kgen.blocks import family
from kgen.compile import CompilePool, Cubin
from kgen.devices import Device
from kgen.errors import DeviceError, ProblemError
from kgen.machine import Config, Program
from kgen.render import family_digest
from kgen.tuned import environment
from kgen.tuned_file import TunedProblem
from kgen.worker import Outcome, Worker

_AHEAD = 4
"""Candidates compiled ahead, for each core."""


def record(
    problem: TunedProblem,
    device: Device,
    path: Path,
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Report = silent,
) -> int:
    """Measure the listed configs of a problem, or a random ``sample`` of them, into a file; returns how many it has.

    Sides have equal shares of a sample, but that a side with fewer configs gives way to the others. Equal seeds choose
    alike, so that problems which differ in their batch share most programs, and compile them once. A recording that was
    interrupted goes on where it stopped.

    Raises:
        DeviceError: the device is not in this machine.
        ProblemError: ``sample`` is not positive.
        RecordError: the file holds another space, or cannot be written.
        InfeasibleError: the problem has no legal config.
    """
    if device.ordinal is None:
        raise DeviceError(
            f"a space is recorded on a local GPU, but {device.name} names a datasheet; pass --device cuda:0"
        )
    if sample is not None and sample < 1:
        raise ProblemError(f"sample must be at least 1, but got sample={sample}; pass a larger number")
    kind = family(problem.family)
    space = legal_space(problem, device, kind.choices(problem, device), [], seed)
    configs = sample_of(space, len(space) if sample is None else sample, seed)
    digest = family_digest(problem.family)
    header = Header(problem, device, environment(device, digest), space.extents, len(configs), seed, env.cores())
    recorder = Recorder(path, header)
    todo = [config for config in configs if config not in recorder.done]
    if todo:
        with CompilePool() as pool, Worker(device) as worker:
            _Recording(problem, device, Bench(device, pool, worker), recorder, progress, header.size).run(todo)
        recorder.pack()
    return len(recorder.done)


def sample_of(space: Space, size: int, seed: int) -> list[Config]:
    """``size`` of the configs that are left, in random order; configs of several spaces are chosen alike."""
    left: dict[str, list[Config]] = {}
    for config in sorted(space.left, key=lambda config: _priority(config, seed)):
        left.setdefault(config.boundary, []).append(config)
    chosen: list[Config] = []
    for parts, of in zip(range(len(left), 0, -1), sorted(left.values(), key=len), strict=True):
        chosen += of[: (size - len(chosen)) // parts]
    return sorted(chosen, key=lambda config: _priority(config, seed))


def _priority(config: Config, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {json.dumps(config.to_json(), sort_keys=True)}".encode()).digest()


@dataclass(frozen=True)
class _Candidate:
    config: Config
    program: Program
    cubin: Future[Cubin]


class _Recording:
    """Evaluates configs in order into a recorder."""

    def __init__(
        self, problem: TunedProblem, device: Device, bench: Bench, recorder: Recorder, report: Report, size: int
    ) -> None:
        self._problem = problem
        self._device = device
        self._bench = bench
        self._recorder = recorder
        self._report = report
        self._size = size
        self._start_s = time.monotonic()
        self._programs: dict[str, Evaluation] = {}
        self._best: Evaluation | None = None
        self._new = 0
        for config, evaluation in recorder.done.items():
            self._note(self._plan(config), evaluation)

    def run(self, configs: Sequence[Config]) -> None:
        """Evaluate and write each config."""
        waiting: deque[_Candidate] = deque()
        coming = self._started(configs)
        while True:
            while len(waiting) < _AHEAD * env.cores() and (candidate := next(coming, None)) is not None:
                waiting.append(candidate)
            self._tell_progress(len(waiting))
            if not waiting:
                return
            self._finish(waiting.popleft())

    def _started(self, configs: Sequence[Config]) -> Iterator[_Candidate]:
        for config in configs:
            program = self._plan(config)
            yield _Candidate(config, program, self._bench.start(program))

    def _finish(self, candidate: _Candidate) -> None:
        evaluation = self._programs.get(program_key(candidate.program))
        if evaluation is None:
            best = self._best.efficiency if self._best else None
            evaluation = self._bench.finish(candidate.program, candidate.cubin, best_efficiency=best, may_spill=True)
        self._recorder.add(candidate.config, evaluation)
        self._note(candidate.program, evaluation)
        self._new += 1

    def _note(self, program: Program, evaluation: Evaluation) -> None:
        self._programs.setdefault(program_key(program), evaluation)
        if (evaluation.efficiency or 0.0) > ((self._best.efficiency or 0.0) if self._best else 0.0):
            self._best = evaluation

    def _plan(self, config: Config) -> Program:
        program: Program = family(self._problem.family).plan(self._problem, config, self._device)
        return program

    def _tell_progress(self, ahead: int) -> None:
        failures = Counter(one.kind for one in self._recorder.done.values() if one.outcome is not Outcome.OK)
        self._report(
            Snapshot(
                done=len(self._recorder.done),
                trials=self._size,
                ahead=ahead,
                best_us=self._best.latency_us if self._best else None,
                best_efficiency=self._best.efficiency if self._best else None,
                failures=dict(failures),
                elapsed_s=time.monotonic() - self._start_s,
                budget_s=float("inf"),
                measured=True,
                new=self._new,
            )
        )
