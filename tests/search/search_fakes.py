"""A search without compilers and GPUs: small configs, a rule that ties their fields, and a bench that computes."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from kgen.search.evaluate import Evaluation, Meanwhile
from kgen.search.history import History
from kgen.search.loop import Limits, Search
from kgen.search.progress import silent
from kgen.search.samplers import make_sampler
from kgen.search.space import Extent, Space

from kgen.budget import Budget
from kgen.errors import InfeasibleError
from kgen.worker import Outcome

FUSED: dict[str, tuple[Any, ...]] = {
    "rows": tuple(range(1, 9)),
    "columns": tuple(range(1, 9)),
    "chunk": (16, 32, 64),
}
CHOICES = {"fused": FUSED, "split": FUSED | {"project_chunk": (16, 32)}}


@dataclass(frozen=True)
class FakeConfig:
    """The fused side's; the other side has a class of its own."""

    boundary: str
    rows: int
    columns: int
    chunk: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SplitConfig(FakeConfig):
    project_chunk: int


def config_from_json(values: Mapping[str, Any]) -> FakeConfig:
    return {"fused": FakeConfig, "split": SplitConfig}[values["boundary"]](**values)


DEFAULT = SplitConfig("split", 1, 1, 16, 16)


@dataclass(frozen=True)
class FakeProgram:
    config: FakeConfig
    arch = template = ""
    kernels = ()
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def constants(self) -> dict[str, Any]:
        return self.config.to_json()


def plan(config: Any) -> Any:
    """rows * columns must be at most 16: 24 of 64 pairs break the rule."""
    if config.rows * config.columns > 16:
        raise InfeasibleError("area", f"rows * columns must be at most 16, but got {config.rows} * {config.columns}")
    return FakeProgram(config)


def efficiency_of(config: FakeConfig) -> float:
    return (config.rows * config.columns + config.chunk / 64 + (config.boundary == "fused")) / 20


class FakeBench:
    """Evaluates by a formula; ``bad`` configs fail, and ``log`` holds what was evaluated."""

    measures = True

    def __init__(self, bad: dict[FakeConfig, Outcome] | None = None, delay_s: float = 0.0) -> None:
        self.bad = bad or {}
        self.delay_s = delay_s
        self.log: list[FakeConfig] = []
        self.allowed_to_spill: list[FakeConfig] = []

    def start(self, program: FakeProgram) -> Future[Any]:
        return Future()

    def first(self, futures: Sequence[Future[Any]]) -> int:
        return 0

    def finish(
        self,
        program: FakeProgram,
        future: Future[Any],
        *,
        best_efficiency: float | None,
        may_spill: bool,
        meanwhile: Meanwhile,
    ) -> Evaluation:
        meanwhile()
        time.sleep(self.delay_s)
        self.log.append(program.config)
        if may_spill:
            self.allowed_to_spill.append(program.config)
        if program.config in self.bad:
            return Evaluation(self.bad[program.config], "it is bad", compiled=True)
        return Evaluation(
            Outcome.OK, efficiency=efficiency_of(program.config), verified=True, compiled=True, predicted_us=1.0
        )


def feasible(config: FakeConfig) -> bool:
    return config.rows * config.columns <= 16


def every_config() -> list[FakeConfig]:
    """In the order of the choices, infeasible ones too."""
    return [
        config_from_json({"boundary": side, **dict(zip(fields, values, strict=True))})
        for side, fields in CHOICES.items()
        for values in itertools.product(*fields.values())
    ]


def make_space() -> Space:
    configs: Any = [config for config in every_config() if feasible(config)]
    counts = Counter(config.boundary for config in configs)
    extents = {side: Extent(True, count, count) for side, count in counts.items()}
    return Space(config_from_json, CHOICES, configs, extents, lambda config: (), 0)


def make_search(
    study: optuna.Study,
    bench: Any,
    trials: int,
    *,
    budget_s: float = 60.0,
    until: float | None = None,
    seed: int = 0,
    ahead: int = 3,
    clock: Callable[[], float] = time.monotonic,
    report: Any = silent,
    improved: Any = lambda search: None,
) -> Search:
    history, space = History(study, config_from_json, plan), make_space()
    study.sampler = make_sampler("tpe", space, study, plan, seed)
    limits = Limits(trials, Budget(budget_s), ahead, until)
    return Search(study, space, plan, bench, history, limits, report=report, improved=improved, clock=clock)
