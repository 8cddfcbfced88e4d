"""Verification: a program's kernels must reproduce the float64 reference, on the GPU or in the emulator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.buffers import Buffers
from kgen.cases import Case, Errors, cached_case
from kgen.devices import Device
from kgen.launch import LoadedProgram
from kgen.machine import Config, Program

if TYPE_CHECKING:
    from kgen.emulator import HostLibrary
    from kgen.emulator.library import Completion

_EMULATOR_FLOPS_PER_S = 4096e6  # about a microsecond per mma.m16n8k16
_EMULATOR_BUDGET_S = 20.0
_EMULATED_TILES = 3  # the least with a first, a middle and a last one
_MAX_EMULATED_BATCH = 8


def verify_on_gpu(case: Case, loaded: LoadedProgram) -> Errors:
    """Run the kernels once on guarded buffers and return the output's errors.

    Raises:
        VerificationError: the output is wrong, or something beside it was written.
        LaunchError: the driver refuses the launch.
    """
    import cupy

    with cupy.cuda.Device(loaded.ordinal):
        buffers = Buffers(cupy, case, loaded.program.workspace_bytes)
        buffers.blank()
        stream = cupy.cuda.get_current_stream()
        loaded.launch(*buffers.pointers(), case.problem.batch, stream.ptr)
        stream.synchronize()
        return buffers.check()


def verify_in_emulator(
    case: Case, program: Program, library: HostLibrary, *, seed: int = 0, completion: Completion = "random"
) -> Errors:
    """:func:`verify_on_gpu` for a source compiled for the CPU; ``seed`` orders the fibres and the asynchronous copies.

    Raises:
        VerificationError: the output is wrong, or something beside it was written.
        EmulatorError: a kernel did something illegal.
    """
    buffers = Buffers(np, case, 0)
    buffers.blank()
    library.launch(
        program, buffers.x(), buffers.weights, buffers.y(), batch=case.problem.batch, seed=seed, completion=completion
    )
    return buffers.check()


def smaller_program(problem: KernelProblem, config: Config, device: Device) -> tuple[KernelProblem, Program]:
    """The problem and program to emulate in place of the asked one: a smaller batch, on a GPU of one SM.

    Height, width and channels are compiled into the kernel and stay. The batch is the smallest with a few tiles, the
    last of them partial if a batch can make it so; fewer when the emulator would take too long. With one SM a
    persistent CTA works through several tiles.

    Raises:
        InfeasibleError: the config cannot run the problem on the device.
    """
    one_sm = replace(device, sms=1)
    batches = range(1, min(problem.batch, _MAX_EMULATED_BATCH) + 1)
    candidates = [_with_batch(problem, batch, config, one_sm) for batch in batches]
    affordable = [one for one in candidates if one[0].batch == 1 or _emulation_s(one[1]) <= _EMULATOR_BUDGET_S]
    enough = [one for one in affordable if one[1].tiles >= _EMULATED_TILES] or affordable[-1:]
    partial = [one for one in enough if one[1].ragged]
    return (partial or enough)[0]


def check_in_emulator(problem: KernelProblem, config: Config, device: Device, *, seed: int = 0) -> Errors:
    """Render and compile the very source that the GPU would run, and verify it in the emulator.

    The batch may be cut, as :func:`smaller_program` says.

    Raises:
        VerificationError, EmulatorError: the kernel is wrong.
        CompileError: there is no host compiler, or it rejects the source.
        InfeasibleError: the config cannot run the problem on the device.
    """
    from kgen.emulator import build
    from kgen.render import render

    smaller, program = smaller_program(problem, config, device)
    library = build(render(family(problem.family).plan(problem, config, device)))
    return verify_in_emulator(cached_case(smaller), program, library, seed=seed)


def _with_batch(problem: Any, batch: int, config: Config, device: Device) -> tuple[KernelProblem, Program]:
    smaller = replace(problem, batch=batch)
    return smaller, family(problem.family).plan(smaller, config, device)


def _emulation_s(program: Program) -> float:
    return sum(kernel.total("issued_flops") for kernel in program.kernels) / _EMULATOR_FLOPS_PER_S
