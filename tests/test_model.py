"""The performance model: each instruction's share of the tensor cores' peak rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.devices import find_device
from kgen.machine import KernelPlan, Program, Stage, ideal_us
from kgen.model import predict_us

H200 = find_device("h200")
FLOPS = 10**12
LAUNCH_US = 1.6


def program(*stages: Stage, device_name: str = "h200") -> Program:
    """One kernel of these stages alone, on CTAs that fill the chip and overlap everything."""
    problem, device = Problem(1, 7, 7, 16), find_device(device_name)
    kernel = KernelPlan("kernel", stages, device.sms, 1024, 0, device.sms, 0, 1, 0)
    return replace(plan(problem, default_config(problem, device), device), kernels=(kernel,))


def matmul(unit: str, flops: int = FLOPS) -> Stage:
    return Stage("matmul", "matmul", issued_flops=flops, unit=unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "unit", "share"),
    [
        ("h200", "mma", 0.62),
        ("h200", "wgmma", 0.9),
        ("h200", "wgmma_float8", 1.8),
        ("a100", "mma", 1.0),
        ("b200", "mma", 0.5),
    ],
)
def test_an_instruction_reaches_its_share_of_the_peak(device: str, unit: str, share: float) -> None:
    one = program(matmul(unit), device_name=device)
    assert predict_us(one) - LAUNCH_US == pytest.approx(ideal_us(FLOPS, one.device) / share)


def test_both_instructions_share_one_pipe() -> None:
    both = predict_us(program(matmul("mma"), matmul("wgmma"), matmul("wgmma", FLOPS // 2)))
    apart = predict_us(program(matmul("mma"))), 1.5 * (predict_us(program(matmul("wgmma"))) - LAUNCH_US)
    assert both == pytest.approx(sum(apart))
