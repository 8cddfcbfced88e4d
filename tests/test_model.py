"""The performance model: each instruction's share of the tensor cores' peak rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.devices import find_device
from kgen.machine import KernelPlan, Program, Stage, ideal_us
from kgen.model import Constants, model_terms, predict_us

H200 = find_device("h200")
FLOPS = 10**12
OWN = Constants()
LAUNCH_US = OWN.launch_us


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
        ("h200", "mma", 0.62 * OWN.mma_share),
        ("h200", "wgmma", OWN.wgmma_share),
        ("h200", "wgmma_float8", 2 * OWN.wgmma_share),
        ("a100", "mma", OWN.mma_share),
        ("b200", "mma", 0.5 * OWN.mma_share),
    ],
)
def test_an_instruction_reaches_its_share_of_the_peak(device: str, unit: str, share: float) -> None:
    one = program(matmul(unit), device_name=device)
    assert predict_us(one) - LAUNCH_US == pytest.approx(ideal_us(FLOPS, one.device) / share)


def test_both_instructions_share_one_pipe() -> None:
    both = predict_us(program(matmul("mma"), matmul("wgmma"), matmul("wgmma", FLOPS // 2)))
    apart = predict_us(program(matmul("mma"))), 1.5 * (predict_us(program(matmul("wgmma"))) - LAUNCH_US)
    assert both == pytest.approx(sum(apart))


@pytest.mark.parametrize(
    ("stage", "binding"),
    [
        (matmul("mma"), "tensor cores"),
        (Stage("load", "load", shared_bytes=10**12), "shared-memory bandwidth"),
        (Stage("store", "store", distributed_bytes=10**12), "distributed shared memory"),
        (Stage("activate", "activate", special=10**12), "special functions"),
        (Stage("load", "load", dram_bytes=10**12), "DRAM bandwidth"),
        (Stage("load", "load", l2_bytes=10**12), "the chip's L2 bandwidth"),
        (Stage("load", "load", dram_bytes=10**6), "the launch"),
    ],
)
def test_the_term_that_binds_is_named(stage: Stage, binding: str) -> None:
    one = program(stage)
    (terms,) = model_terms(one)
    assert terms.binding == binding and terms.total_us == predict_us(one)
    assert terms.binding_us == pytest.approx(LAUNCH_US if binding == "the launch" else terms.total_us - LAUNCH_US)


def test_a_kernel_of_steps_is_bound_by_their_latency() -> None:
    one = program(Stage("load", "load"))
    (terms,) = model_terms(replace(one, kernels=(replace(one.kernels[0], steps=100),)))
    assert terms.binding == "pipeline-step latency" and terms.binding_us == pytest.approx(
        100 * OWN.step_clocks / H200.clock_mhz
    )
