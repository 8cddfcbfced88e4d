from __future__ import annotations

from dataclasses import replace

import pytest
from stubs import stub

from kgen import emulator
from kgen.blocks.convfirst import Problem, default_config, plan
from kgen.cases import cached_case
from kgen.devices import find_device
from kgen.errors import EmulatorError, VerificationError
from kgen.render import render
from kgen.verify import check_in_emulator, smaller_program, verify_in_emulator

H200 = find_device("h200")
PROBLEM = Problem(batch=64, height=5, width=6, channels=16, expansion=2)
CONFIG = default_config(PROBLEM, H200)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_right_kernel_passes_within_its_bound(dtype):
    problem = replace(PROBLEM, dtype=dtype)
    errors = check_in_emulator(problem, CONFIG, H200)
    smaller, _ = smaller_program(problem, CONFIG, H200)
    assert 0 < errors.output <= cached_case(smaller).bound.output


def run_stub(body):
    """Verify kernels whose body is replaced."""
    problem = replace(PROBLEM, batch=1)
    program = plan(problem, CONFIG, H200)
    return verify_in_emulator(cached_case(problem), program, emulator.build(stub(program, body)))


def test_a_kernel_that_writes_nothing_fails():
    with pytest.raises(VerificationError, match="got nan"):
        run_stub("")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("y[batch * 5 * 6 * 16] = 0;", "bytes next to y changed"),
        ("y[-1] = 0;", "bytes next to y changed"),
        ("const_cast<unsigned short*>(x)[7] = 0;", "must not write its inputs"),
        ("const_cast<unsigned char*>(weights)[7] += 1;", "must not write its inputs"),
    ],
)
def test_a_kernel_that_writes_elsewhere_fails(body, complaint):
    with pytest.raises(VerificationError, match=complaint):
        run_stub(f"if (blockIdx.x == 0 && threadIdx.x == 0) {body}")


def test_a_kernel_that_hangs_in_a_barrier_is_illegal():
    with pytest.raises(EmulatorError):
        run_stub("if (threadIdx.x == 0) __syncthreads();")


def test_another_activation_is_a_wrong_answer():
    case = cached_case(replace(PROBLEM, batch=2))
    other = replace(PROBLEM, batch=2, activation="gelu")
    library = emulator.build(render(plan(other, CONFIG, H200)))
    with pytest.raises(VerificationError, match="this config's kernel computes something else"):
        verify_in_emulator(case, plan(other, CONFIG, H200), library)


@pytest.mark.parametrize(("tile_h", "batch"), [(4, 2), (2, 1), (5, 3), (10, 5)])
def test_the_smaller_program_keeps_the_kernels_and_has_few_tiles_with_a_partial_one(tile_h, batch):
    config = replace(CONFIG, tile_h=tile_h, tile_w=6, pixels=-(-tile_h * 6 // 16) * 16, warps_m=1)
    smaller, program = smaller_program(PROBLEM, config, H200)
    assert smaller == replace(PROBLEM, batch=batch)
    assert render(program).text == render(plan(PROBLEM, config, H200)).text


def test_persistent_ctas_of_the_smaller_program_work_through_several_tiles():
    _, program = smaller_program(PROBLEM, replace(CONFIG, grid="persistent"), H200)
    kernel = program.kernels[0]
    assert kernel.grid < kernel.work_items


def test_the_smaller_program_never_has_more_images_than_the_problem():
    one = Problem(batch=1, height=2, width=2, channels=16, expansion=1)
    assert smaller_program(one, default_config(one, H200), H200)[0] == one


def test_costly_problems_are_cut_to_one_image():
    costly = Problem(batch=4, height=56, width=56, channels=1024, expansion=8)
    assert smaller_program(costly, default_config(costly, H200), H200)[0].batch == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_right_kernel_passes_on_the_gpu(dtype):
    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram
    from kgen.verify import verify_on_gpu

    device = find_device("cuda:0")
    problem = replace(PROBLEM, dtype=dtype)
    program = plan(problem, CONFIG, device)
    case = cached_case(problem)
    errors = verify_on_gpu(case, LoadedProgram(program, compile_cubin(render(program), program.arch)))
    assert 0 < errors.output <= case.bound.output


@pytest.mark.gpu
def test_another_activation_is_a_wrong_answer_on_the_gpu():
    from kgen.compile import compile_cubin
    from kgen.launch import LoadedProgram
    from kgen.verify import verify_on_gpu

    device = find_device("cuda:0")
    program = plan(replace(PROBLEM, activation="relu"), CONFIG, device)
    loaded = LoadedProgram(program, compile_cubin(render(program), program.arch))
    with pytest.raises(VerificationError, match="relative error"):
        verify_on_gpu(cached_case(PROBLEM), loaded)
