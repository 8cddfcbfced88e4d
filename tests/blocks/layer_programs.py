"""Tiny programs of the families that are one layer each, and random configs of theirs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from convfirst_programs import H200, Example, issued_flops

from kgen.blocks import family
from kgen.cases import make_case
from kgen.compile import CompilePool
from kgen.devices import Device
from kgen.emulator import HostLibrary
from kgen.errors import KgenError
from kgen.machine import Program
from kgen.render import render
from kgen.verify import verify_on_gpu

ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh", "identity")
DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class LayerExample(Example):
    """A problem of any family and a config; ``ctas`` is the SMs of the H200 that it is planned for, None for all."""

    problem: Any
    config: Any

    @cached_property
    def program(self) -> Program:
        device = H200 if self.ctas is None else replace(H200, sms=self.ctas)
        return family(self.problem.family).plan(self.problem, self.config, device)

    def run(self, library: HostLibrary, x: np.ndarray, packed: np.ndarray) -> np.ndarray:
        """y in float32."""
        y = np.full(self.problem.y.views[0].shape, np.nan, self.problem.y.storage)
        library.launch(self.program, np.ascontiguousarray(x), packed, y, batch=self.problem.batch)
        return y.astype(np.float32)


def random_config(problem: Any, device: Device, rng: random.Random, max_flops: float = float("inf")) -> Any:
    """A feasible config whose kernel issues at most ``max_flops``; the default one when a hundred draws give none."""
    block = family(problem.family)
    for _ in range(100):
        config = block.draw(problem, device, rng)
        if config is not None and issued_flops(block.plan(problem, config, device)) <= max_flops:
            return config
    return block.default_config(problem, device)


def failures_on_the_gpu(device: Device, candidates: Sequence[tuple[Any, Any]]) -> list[str]:
    """What goes wrong with problems and their configs, a sentence each."""
    from kgen.launch import LoadedProgram

    programs = [family(problem.family).plan(problem, config, device) for problem, config in candidates]
    failures = []
    with CompilePool() as pool:
        cubins = [pool.submit(render(program), program.arch) for program in programs]
        for (problem, config), program, cubin in zip(candidates, programs, cubins, strict=True):
            try:
                verify_on_gpu(make_case(problem), LoadedProgram(program, cubin.result()))
            except KgenError as error:
                failures.append(f"{problem} with {config}: {error}")
    return failures
