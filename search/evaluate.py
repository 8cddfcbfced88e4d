"""One candidate's way: render and compile ahead in the pool, then check resources, verify, and measure or model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from kgen.blocks import family
from kgen.compile import Cubin, Resources
from kgen.devices import Device
from kgen.errors import KgenError
from kgen.finals import Finalist, hold
from kgen.machine import Config, Program, efficiency, ideal_us
from kgen.model import predict_us
from kgen.render import Source, render
from kgen.shots import RESOLUTION
from kgen.tuned import Measurement
from kgen.tuned_file import TunedProblem
from kgen.worker import Job, Outcome, Result

COMPILE_LIMIT_S = 120.0
SPILL_LIMIT_BYTES = 256
"""More spills never paid: of recorded configs, the best with 161 to 256 bytes won, with 257 to 512 they lost by 21%."""
MEASURE_LIMIT_S = 30.0
GIVE_UP = 2.0
"""Times the best latency: a candidate whose first shots take longer is measured no further."""
FINALS_LIMIT_S = 120.0
EMULATE_LIMIT_S = 90.0


Meanwhile = Callable[[], object]
"""What is called while a candidate is being measured, which leaves this process nothing to do."""


class Pool(Protocol):
    """What a search needs of :class:`kgen.compile.CompilePool`."""

    def submit(self, source: Source, arch: str) -> Future[Cubin]: ...


class Verifier(Protocol):
    """What a search needs of :class:`kgen.worker.Worker`."""

    def run(self, job: Job, timeout_s: float, meanwhile: Meanwhile) -> Result: ...
    def run_together(self, jobs: Sequence[Job], timeout_s: float) -> tuple[Result, ...]: ...


class Evaluator(Protocol):
    """What a search needs of :class:`Bench`."""

    @property
    def measures(self) -> bool: ...
    def start(self, program: Program) -> Future[Any]: ...
    def first(self, futures: Sequence[Future[Any]]) -> int: ...
    def finish(
        self,
        program: Program,
        future: Future[Any],
        *,
        best_efficiency: float | None,
        may_spill: bool,
        meanwhile: Meanwhile,
    ) -> Evaluation: ...


@dataclass(frozen=True)
class Evaluation:
    """What became of one config. ``efficiency`` is None unless the outcome is OK.

    ``verified`` is False for a modelled config that was not worth verifying because a verified one is better by model.
    ``compiled`` tells candidates that count towards ``trials`` from those that a rule turned down before. The search
    waited ``wait_s`` until this one was compiled, which began before and took ``compile_s`` in all, and ``run_s`` for
    the worker, which verifies and measures.
    """

    outcome: Outcome
    reason: str = ""
    rule: str | None = None
    efficiency: float | None = None
    verified: bool = False
    compiled: bool = False
    predicted_us: float | None = None
    compile_s: float | None = None
    wait_s: float | None = None
    run_s: float | None = None
    registers: Mapping[str, int] = field(default_factory=dict)
    spill_bytes: int | None = None
    measured: Measurement | None = None
    error: float | None = None

    @property
    def kind(self) -> str:
        """The outcome, with the rule that a config breaks: the key under which failures are counted."""
        return f"{self.outcome.value}:{self.rule}" if self.rule else self.outcome.value

    @property
    def latency_us(self) -> float | None:
        """The measured latency, else the modelled one."""
        return self.measured.median_us if self.measured else self.predicted_us

    def to_attrs(self) -> dict[str, Any]:
        """Trial attributes of JSON types; fields that are unknown are left out."""
        return asdict(self, dict_factory=_known) | {"outcome": self.outcome.value}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Evaluation:
        """Inverse of :meth:`to_attrs`; other attributes of the trial are ignored."""
        values = {name: attrs[name] for name in cls.__dataclass_fields__ if name in attrs}
        measured = values.get("measured")
        values["measured"] = Measurement(**measured) if measured else None
        return cls(**{**values, "outcome": Outcome(values["outcome"])})


class Bench:
    """Evaluates candidates of one problem on one device, maybe their energy too; one without an ordinal is modelled."""

    def __init__(self, device: Device, pool: Pool, worker: Verifier, *, energy: bool = False) -> None:
        self._device = device
        self._pool = pool
        self._worker = worker
        self._energy = energy

    @property
    def measures(self) -> bool:
        """Whether times come from a GPU."""
        return self._device.ordinal is not None

    def start(self, program: Program) -> Future[Cubin]:
        """Render ``program`` and have it compiled while other candidates are measured."""
        return self._pool.submit(render(program), program.arch)

    def first(self, futures: Sequence[Future[Cubin]]) -> int:
        """The place of one that is compiled, once there is one or the first has taken too long."""
        done, _ = wait(futures, timeout=COMPILE_LIMIT_S, return_when=FIRST_COMPLETED)
        return next((place for place, future in enumerate(futures) if future in done), 0)

    def finish(
        self,
        program: Program,
        future: Future[Cubin],
        *,
        best_efficiency: float | None,
        may_spill: bool,
        meanwhile: Meanwhile = lambda: None,
    ) -> Evaluation:
        """Evaluate a started candidate. It never raises for a bad one: the outcome says what is wrong with it."""
        done, _ = wait([future], timeout=COMPILE_LIMIT_S)
        known: dict[str, Any] = {"compiled": True}
        if not done:
            return Evaluation(Outcome.TIMEOUT, f"compiling took longer than {COMPILE_LIMIT_S:g} s", **known)
        try:
            cubin = future.result()
        except KgenError as error:
            return Evaluation(Outcome.COMPILE_FAILED, str(error), **known)
        known |= {
            "compile_s": cubin.seconds,
            "registers": {symbol: resources.registers for symbol, resources in cubin.resources.items()},
            "spill_bytes": _spill_bytes(cubin.resources),
            "predicted_us": predict_us(program, cubin.resources),
        }
        if cubin.serialized:
            reason = (
                "a candidate's wgmma instructions must overlap, but the compiler serialized them (C7510 to C7516); "
                "use smaller chunks or fewer warpgroups"
            )
            return Evaluation(Outcome.INFEASIBLE, reason, "serialized", **known)
        compiled = Evaluation(Outcome.OK, **known)
        if not may_spill and refuse_spills(compiled) is not compiled:
            return refuse_spills(compiled)
        return self._run(program, cubin, best_efficiency, known, meanwhile)

    def _run(
        self,
        program: Program,
        cubin: Cubin,
        best_efficiency: float | None,
        known: dict[str, Any],
        meanwhile: Meanwhile,
    ) -> Evaluation:
        modelled = efficiency(program.problem.flops, known["predicted_us"], self._device)
        if not self.measures and best_efficiency is not None and modelled <= best_efficiency:
            return Evaluation(Outcome.OK, efficiency=modelled, **known)
        problem: Any = program.problem  # a program's family is known at run time only
        config: Any = program.config
        give_up_us = self._give_up_us(program, best_efficiency)
        job = Job(problem, config, self._device, cubin, RESOLUTION, give_up_us, self._energy)
        result = self._worker.run(job, MEASURE_LIMIT_S if self.measures else EMULATE_LIMIT_S, meanwhile)
        known |= {"measured": result.measured, "error": result.error, "run_s": round(result.seconds, 3)}
        if result.outcome is not Outcome.OK:
            return Evaluation(result.outcome, result.reason, **known)
        objective = result.measured.efficiency if result.measured else modelled
        return Evaluation(Outcome.OK, efficiency=objective, verified=True, **known)

    def _give_up_us(self, program: Program, best_efficiency: float | None) -> float:
        return (
            GIVE_UP * ideal_us(program.problem.flops, self._device) / best_efficiency if best_efficiency else math.inf
        )

    def compare(self, programs: Sequence[Program]) -> tuple[Finalist, ...]:
        """Programs of one problem verified and timed turn by turn."""
        return hold([(one, self.start(one)) for one in programs], self._device, self._worker, FINALS_LIMIT_S)


def _known(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if value is not None}


def plan_of(problem: TunedProblem, device: Device, config: Config) -> Program:
    """A config's program; InfeasibleError when it breaks a rule."""
    program: Program = family(problem.family).plan(problem, config, device)
    return program


def refuse_spills(evaluation: Evaluation) -> Evaluation:
    """The same evaluation or, where it spills too much, one that is infeasible for it and was not measured."""
    if (evaluation.spill_bytes or 0) <= SPILL_LIMIT_BYTES:
        return evaluation
    reason = (
        f"a candidate's kernels must spill at most {SPILL_LIMIT_BYTES} bytes of registers, but the compiler "
        f"spilled {evaluation.spill_bytes}; use fewer pixels or smaller chunks a warp"
    )
    unmeasured: dict[str, Any] = {"efficiency": None, "verified": False, "measured": None, "error": None, "run_s": None}
    return replace(evaluation, outcome=Outcome.INFEASIBLE, reason=reason, rule="spills", **unmeasured)


def _spill_bytes(resources: Mapping[str, Resources]) -> int:
    return sum(one.spill_store_bytes + one.spill_load_bytes for one in resources.values())
