"""The rendered convfirst kernels in the emulator: right as they are, and wrong without any one step of their ring."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kgen.blocks.convfirst.plan import plan
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.space import default_config
from kgen.cases import make_case
from kgen.devices import find_device
from kgen.emulator import build
from kgen.errors import EmulatorError
from kgen.machine import Program
from kgen.render import Source, render
from kgen.verify import verify_in_emulator

PROBLEM = ConvFirst(batch=2, height=5, width=9, channels=64, expansion=2)


@pytest.fixture(scope="module")
def program() -> Program:
    device = replace(find_device("h200"), sms=1)
    return plan(PROBLEM, default_config(PROBLEM, device), device)


@pytest.mark.parametrize(("seed", "completion"), [(0, "late"), (1, "random"), (2, "random")])
def test_rendered_kernels_are_right(program: Program, seed: int, completion: str) -> None:
    errors = verify_in_emulator(make_case(PROBLEM), program, build(render(program)), seed=seed, completion=completion)
    assert errors.output < 1e-3


@pytest.mark.parametrize("step", ["cp_async_wait<Stages - 2>();", "__syncthreads();"])
def test_ring_without_a_step_is_noticed(program: Program, step: str) -> None:
    source = render(program)
    ring = source.headers["tile/ring.cuh"]
    assert ring.count(step) == 1
    broken = Source(source.text, {**source.headers, "tile/ring.cuh": ring.replace(step, "")}, "broken")
    library = build(broken)
    for seed in range(5):
        with pytest.raises(EmulatorError, match=r"in flight|race on shared memory"):
            verify_in_emulator(make_case(PROBLEM), program, library, seed=seed)
