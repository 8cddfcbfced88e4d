"""Tiny convfirst programs that together reach every variant of the templates, and random ones."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kgen.blocks.convfirst import Problem, default_config, draw, plan
from kgen.blocks.convfirst.config import ConvFirstConfig, PortableConfig
from kgen.cases import make_case
from kgen.devices import Device, find_device
from kgen.emulator import HostLibrary, build
from kgen.errors import EmulatorError, VerificationError
from kgen.machine import KernelPlan, Program
from kgen.render import Source, render
from kgen.verify import cached_case, verify_in_emulator

H200 = find_device("h200")
RUNS = ((0, "late"), (1, "random"), (2, "random"))
"""Seeds and completions that every program must pass."""

FUSED = PortableConfig(
    boundary="fused",
    tile_h=4,
    tile_w=4,
    pixels=16,
    warps_m=1,
    warps_n=1,
    channel_chunk=16,
    hidden_chunk=16,
    out_split=1,
    hidden_split=1,
    stages=2,
    weights="streamed",
    grid="persistent",
    conv_reuse="none",
    conv_output="shared",
    sigmoid="exp2",
    ctas_per_sm=1,
)
SPLIT = replace(
    FUSED,
    boundary="split",
    project_pixels=16,
    project_warps_m=1,
    project_warps_n=1,
    project_warps_k=1,
    project_chunk=16,
    project_stages=2,
)
LAYERS = replace(SPLIT, boundary="layers")


@dataclass(frozen=True)
class Example:
    """A problem and a config; ``ctas`` limits every kernel's grid (per split), ``shared_limit`` a CTA's shared memory.

    None leaves the plan's grid, and an H200's shared memory.
    """

    problem: Problem
    config: ConvFirstConfig
    ctas: int | None = None
    shared_limit: int | None = None

    @cached_property
    def program(self) -> Program:
        """The plan, with few CTAs so that each works through several items."""
        device = H200 if self.shared_limit is None else replace(H200, shared_per_cta_bytes=self.shared_limit)
        program = plan(self.problem, self.config, device)
        if self.ctas is None:
            return program
        kernels = [replace(one, grid=min(one.grid, self.ctas * self._splits(one))) for one in program.kernels]
        return replace(program, kernels=tuple(kernels))

    def _splits(self, kernel: KernelPlan) -> int:
        """What the grid of a kernel is a multiple of."""
        config, channels = self.config, self.problem.channels
        if isinstance(config, PortableConfig):
            return math.lcm(config.out_split, config.hidden_split, channels // config.channel_chunk)
        return channels // config.conv_channels if kernel.symbol == "convfirst_wgmma_conv" else kernel.cluster

    @cached_property
    def source(self) -> Source:
        return render(self.program)

    def failure(self, library: HostLibrary) -> str | None:
        """Why ``library`` is not this program: the first failing run's message, None when all runs pass."""
        case = cached_case(self.problem)
        for seed, completion in RUNS:
            try:
                verify_in_emulator(case, self.program, library, seed=seed, completion=completion)
            except (EmulatorError, VerificationError) as error:
                return str(error)
        return None


def _example(base: PortableConfig, batch: int, height: int, width: int, channels: int, **rest: Any) -> Example:
    ctas = rest.pop("ctas", 2)
    kinds = {name: rest.pop(name) for name in ("expansion", "activation", "dtype", "residual") if name in rest}
    problem = Problem(batch, height, width, channels, **({"expansion": 1} | kinds))
    return Example(problem, replace(base, **rest), ctas)


# fmt: off
EXAMPLES = {
    # Tiles of 4 x 4 over three images of 5 x 6: they straddle images and are cut at the right and at the bottom.
    "smallest fused": _example(FUSED, 3, 5, 6, 16),
    "unused pixels": _example(FUSED, 3, 3, 7, 16, tile_h=2, tile_w=7, expansion=3, activation="gelu"),
    "one pixel of 32": _example(FUSED, 1, 1, 1, 16, tile_h=1, tile_w=1, pixels=32, warps_m=2, ctas=None),
    "taller than the images": _example(FUSED, 2, 3, 1, 16, tile_h=16, tile_w=1, ctas=None),
    "one-shot grid": _example(
        FUSED, 2, 2, 9, 32, tile_h=2, tile_w=8, grid="one_shot", stages=3, activation="gelu_tanh", ctas=None
    ),
    "rows in registers": _example(
        FUSED, 2, 4, 9, 32, tile_w=8, pixels=32, warps_m=2, expansion=2, stages=3,
        conv_reuse="rows", conv_output="registers", sigmoid="tanh",
    ),
    "strips of four rows": _example(
        FUSED, 2, 4, 8, 32, tile_w=8, pixels=32, channel_chunk=32, hidden_chunk=32, expansion=2, stages=4,
        conv_reuse="rows", activation="relu", dtype="bfloat16",
    ),
    "resident, two warps across": _example(
        FUSED, 3, 6, 9, 32, tile_w=8, pixels=32, warps_m=2, warps_n=2, hidden_chunk=32, expansion=2, channel_chunk=32,
        weights="resident", conv_reuse="rows", conv_output="registers", activation="gelu_tanh", sigmoid="tanh",
    ),
    "streamed, three warps across": _example(
        FUSED, 2, 5, 5, 48, tile_h=3, tile_w=5, warps_n=3, hidden_chunk=48, expansion=2, dtype="bfloat16",
        residual=False, activation="identity",
    ),
    "streamed, registers, two warps across": _example(
        FUSED, 2, 3, 5, 32, tile_h=3, tile_w=5, warps_n=2, hidden_chunk=32, expansion=2, conv_output="registers",
        activation="relu",
    ),
    "resident, outputs split": _example(
        FUSED, 2, 4, 7, 48, out_split=3, weights="resident", activation="relu", residual=False, stages=4
    ),
    "streamed, outputs split": _example(
        FUSED, 2, 3, 5, 32, out_split=2, hidden_chunk=32, expansion=2, dtype="bfloat16", activation="silu"
    ),
    "smallest split": _example(SPLIT, 3, 5, 6, 16),
    "everything split": _example(
        SPLIT, 2, 5, 5, 32, tile_h=5, tile_w=3, expansion=2, hidden_split=2, out_split=2, hidden_chunk=32,
        conv_output="registers", project_warps_k=2, project_chunk=32, sigmoid="tanh",
    ),
    "split, resident, two warps across": _example(
        SPLIT, 3, 4, 9, 32, tile_w=8, pixels=32, warps_n=2, hidden_chunk=32, expansion=3, weights="resident",
        conv_reuse="rows", conv_output="registers", dtype="bfloat16", activation="gelu_tanh",
        project_pixels=32, project_warps_n=2, project_warps_k=3, project_chunk=96, project_stages=3,
    ),
    "split, resident, one warp": _example(
        SPLIT, 2, 3, 5, 16, expansion=2, weights="resident", residual=False, activation="gelu",
        project_pixels=32, project_warps_m=2, project_stages=4,
    ),
    "split, one shot": _example(
        SPLIT, 1, 7, 3, 48, tile_w=3, expansion=1.0, grid="one_shot", hidden_split=3, activation="identity",
        project_pixels=32, project_warps_n=3, project_chunk=48, ctas=None,
    ),
    "smallest layers": _example(LAYERS, 3, 5, 6, 16),
    "layers, everything split": _example(
        LAYERS, 2, 7, 9, 48, tile_w=8, pixels=32, warps_m=2, grid="one_shot", expansion=2, hidden_split=2, out_split=3,
        stages=3, sigmoid="tanh", residual=False,
        project_pixels=32, project_warps_k=3, project_chunk=48, project_stages=3, ctas=None,
    ),
    "layers, two warps across": _example(
        LAYERS, 2, 4, 9, 32, tile_w=8, pixels=32, warps_n=2, channel_chunk=32, expansion=2, conv_reuse="rows",
        dtype="bfloat16", activation="gelu",
        project_pixels=32, project_warps_m=2, project_warps_n=2, project_chunk=32,
    ),
}
# fmt: on


def random_config(
    problem: Problem, device: Device, rng: random.Random, max_flops: float = float("inf")
) -> PortableConfig:
    """A feasible config whose kernels issue at most ``max_flops``; the default one when a hundred draws give none."""
    for _ in range(100):
        config = draw(problem, device, rng)
        if config is not None and issued_flops(plan(problem, config, device)) <= max_flops:
            return config
    return default_config(problem, device)


def issued_flops(program: Program) -> int:
    """What the tensor cores execute, padding and recomputation included."""
    return sum(kernel.total("issued_flops") for kernel in program.kernels)


def assert_nan_stays_near(one: Example, corner: int) -> None:
    """A NaN in the first image's lower left or the last one's upper right pixel reaches its neighbours only."""
    case, library = make_case(one.problem), build(one.source)
    x = case.images[case.index]
    row = one.problem.height - 1 if corner == 0 else 0
    near = np.zeros(x.shape[:3], bool)
    near[corner, max(row - 1, 0) : row + 2, slice(0, 2) if corner == 0 else slice(-2, None)] = True

    def run() -> Any:
        y = np.full_like(x, np.nan)
        library.launch(one.program, x, case.packed, y, batch=one.problem.batch)
        return y.astype(np.float32)

    clean = run()
    x[corner, row, corner] = np.nan
    spoiled = run()
    assert np.isfinite(clean).all()
    assert np.array_equal(spoiled[~near], clean[~near])
    assert np.isnan(spoiled[corner, row, corner]).all()
