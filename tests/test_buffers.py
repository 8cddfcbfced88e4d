from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from kgen.blocks.convfirst import Problem
from kgen.buffers import GUARD_BYTES, Buffers, Guarded
from kgen.cases import make_case
from kgen.errors import VerificationError

STORAGE = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def filled(dtype="float16", copies=1):
    """Buffers that hold a correct output."""
    case = make_case(Problem(batch=3, height=3, width=2, channels=16, expansion=1, dtype=dtype))
    buffers = Buffers(np, case, 64, copies)
    buffers.blank()
    truth = case.reference[case.index].astype(STORAGE[dtype]).view(np.uint16).ravel()
    for copy in range(copies):
        buffers.y(copy)[:] = truth
    return case, buffers


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("copies", [1, 3])
def test_a_correct_output_passes(dtype, copies):
    case, buffers = filled(dtype, copies)
    errors = buffers.check()
    assert 0 < errors.output <= case.bound.output / 2
    for copy in range(copies):
        np.testing.assert_array_equal(
            buffers.x(copy).view(STORAGE[dtype]), case.images[case.index].ravel().view(STORAGE[dtype])
        )


def test_sets_are_neighbours_in_memory_and_aligned():
    _, buffers = filled(copies=3)
    firsts = [buffers.pointers(copy)[0] for copy in range(3)]
    assert np.diff(firsts).tolist() == [buffers.x(0).nbytes] * 2
    assert all(pointer % 16 == 0 for copy in range(3) for pointer in buffers.pointers(copy))


def test_what_a_kernel_wrote_where_it_must_not_is_undone():
    case, buffers = filled()
    buffers._y._after[3] = 0
    buffers.x()[:] = 0
    buffers.weights[0] ^= 1
    with pytest.raises(VerificationError):
        buffers.check()
    buffers.reset()
    with pytest.raises(VerificationError, match="but got nan"):  # nothing is wrong but that y is blank again
        buffers.check()
    buffers.y()[:] = case.reference[case.index].astype(np.float16).view(np.uint16).ravel()
    buffers.check()


def test_no_workspace_is_a_null_pointer():
    case, _ = filled()
    assert Buffers(np, case, 0).pointers()[2] == 0


def test_an_element_never_written_fails():
    _, buffers = filled(copies=2)
    buffers.y(1)[-1] = 0xFFFF
    with pytest.raises(VerificationError, match="got nan"):
        buffers.check()


def test_blank_forgets_an_earlier_output():
    _, buffers = filled()
    buffers.blank()
    with pytest.raises(VerificationError, match="got nan"):
        buffers.check()


@pytest.mark.parametrize("name", ["x", "weights", "hidden", "y"])
@pytest.mark.parametrize(("side", "at"), [("_before", 0), ("_before", -1), ("_after", 0), ("_after", -1)])
def test_a_write_next_to_a_buffer_fails(name, side, at):
    _, buffers = filled()
    getattr(getattr(buffers, f"_{name}"), side)[at] = 0
    with pytest.raises(VerificationError, match=f"next to {name} changed"):
        buffers.check()


@pytest.mark.parametrize("name", ["x", "weights"])
def test_a_changed_input_fails(name):
    _, buffers = filled()
    getattr(buffers, f"_{name}").data[-1] ^= 1
    with pytest.raises(VerificationError, match="must not write its inputs"):
        buffers.check()


def test_guards_surround_exactly_the_asked_bytes():
    guarded = Guarded(np, 33)
    assert guarded.data.nbytes == 33
    assert guarded._before.nbytes >= GUARD_BYTES
    assert guarded._after.nbytes >= GUARD_BYTES
    assert guarded.data.ctypes.data == guarded._before.ctypes.data + guarded._before.nbytes
    assert guarded._after.ctypes.data == guarded.data.ctypes.data + 33
    guarded.data[:] = 0
    assert guarded.intact()
    guarded._after[0] = 0
    assert not guarded.intact()
