"""Random convfirst problems for kernels that have a space of their own, and shapes that tiles fit badly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kgen.blocks.convfirst import Problem, plan
from kgen.blocks.convfirst.config import ConvFirstConfig
from kgen.cases import make_case
from kgen.compile import CompilePool
from kgen.devices import Device
from kgen.errors import KgenError
from kgen.render import render
from kgen.verify import verify_on_gpu

ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh", "identity")
DTYPES = ("float16", "bfloat16")
# Ragged last tiles, images of one column or one row, one pixel, and images that a tile holds many of.
# fmt: off
BAD_BOUNDARIES = (
    (1, 1, 1), (1, 1, 65), (1, 65, 1), (3, 43, 1), (3, 1, 43), (1, 7, 9), (1, 8, 8), (1, 8, 9), (133, 1, 1),
    (200, 2, 3), (1, 56, 56), (5, 31, 33),
)
# fmt: on
SEEDS = st.integers(0, 2**32 - 1)
REPEATABLE = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@st.composite
def problems(
    draw: st.DrawFn, max_channels: Mapping[int, int], max_size: int, max_batch: int, max_flops: float
) -> Problem:
    """Problems whose channels and hidden channels are multiples of one of the units of ``max_channels``."""
    unit = draw(st.sampled_from(sorted(max_channels)))
    channels = unit * draw(st.integers(1, max_channels[unit] // unit))
    hidden = unit * draw(st.integers(max(32, channels) // unit, 4 * channels // unit))
    one = Problem(1, 1, 1, channels, hidden / channels)
    pixels = max(1, int(max_flops / one.flops))
    height = draw(st.integers(1, min(max_size, pixels)))
    width = draw(st.integers(1, min(max_size, pixels // height)))
    return replace(
        one,
        batch=draw(st.integers(1, min(max_batch, pixels // height // width))),
        height=height,
        width=width,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        dtype=draw(st.sampled_from(DTYPES)),
        residual=draw(st.booleans()),
    )


def random_candidates(count: int, of: st.SearchStrategy[Problem]) -> list[tuple[Problem, int]]:
    """Problems, each with the seed of its config."""
    found = []

    @settings(REPEATABLE, max_examples=count, phases=[Phase.generate])
    @given(problem=of, seed=SEEDS)
    def collect(problem: Problem, seed: int) -> None:
        found.append((problem, seed))

    collect()
    return found


def failures_on_the_gpu(device: Device, candidates: Sequence[tuple[Problem, ConvFirstConfig]]) -> list[str]:
    """What goes wrong, a sentence each."""
    from kgen.launch import LoadedProgram

    programs = [plan(problem, config, device) for problem, config in candidates]
    failures = []
    with CompilePool() as pool:
        cubins = [pool.submit(render(program), program.arch) for program in programs]
        for (problem, config), program, cubin in zip(candidates, programs, cubins, strict=True):
            try:
                verify_on_gpu(make_case(problem), LoadedProgram(program, cubin.result()))
            except KgenError as error:
                failures.append(f"{problem} with {config}: {error}")
    return failures
