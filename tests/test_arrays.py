from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from kgen.arrays import CupyAdapter, ForeignAdapter, Layout, Layouts, TorchAdapter, layouts_of
from kgen.blocks.convfirst import Problem
from kgen.errors import ArrayError
from kgen.tensors import Tensor

PROBLEM = Problem(batch=2, height=3, width=4, channels=16)
LAYOUTS = layouts_of(PROBLEM)
BYTES = PROBLEM.x.bytes
NHWC, NCHW = (2, 3, 4, 16), (2, 16, 3, 4)
NHWC_STRIDES, NCHW_STRIDES = (192, 64, 16, 1), (192, 1, 64, 16)


class FakeArray:
    """What the CuPy adapter looks at, with an address of choice."""

    def __init__(self, shape=NHWC, dtype="float16", strides=NHWC_STRIDES, pointer=4096, device_id=0):
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        self.strides = tuple(stride * self.itemsize for stride in strides)
        self.data = SimpleNamespace(ptr=pointer, device_id=device_id)


class FakeTensor:
    """What the PyTorch adapter looks at."""

    def __init__(self, shape=NHWC, dtype="float16", strides=NHWC_STRIDES, pointer=4096, device=0):
        self.shape, self.dtype, self._strides, self._pointer, self._device = shape, dtype, strides, pointer, device
        self.is_cuda = device >= 0

    def stride(self):
        return self._strides

    def data_ptr(self):
        return self._pointer

    def get_device(self):
        return self._device


def fake_cupy():
    stream = SimpleNamespace(ptr=77)
    return SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda ordinal: stream), empty=np.empty)


def fake_torch():
    raw = SimpleNamespace(_cuda_getCurrentRawStream=lambda ordinal: 88)
    return SimpleNamespace(float16="float16", bfloat16="bfloat16", empty_like=None, _C=raw)


ADAPTERS = [
    pytest.param((CupyAdapter(fake_cupy(), LAYOUTS, 0), FakeArray), id="cupy"),
    pytest.param((TorchAdapter(fake_torch(), LAYOUTS, 0), FakeTensor), id="torch"),
]


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(("shape", "strides"), [(NHWC, NHWC_STRIDES), (NCHW, NCHW_STRIDES)])
def test_both_presentations_give_their_address(kind, shape, strides):
    adapter, array = kind
    assert adapter.pointer(array(shape=shape, strides=strides), "x") == 4096


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"dtype": "float32"}, "x must have dtype float16, but got float32"),
        ({"shape": (2, 4, 3, 16), "strides": (192, 48, 16, 1)}, r"x must have shape .* but got \(2, 4, 3, 16\)"),
        ({"shape": (24, 16), "strides": (16, 1)}, r"x must have shape .* but got \(24, 16\)"),
        (
            {"strides": (384, 128, 32, 2)},
            r"x must be contiguous .* strides \(192, 64, 16, 1\).* but got \(384, 128, 32, 2\)",
        ),
        ({"shape": NCHW, "strides": (192, 12, 4, 1)}, "copy it to such memory"),
        ({"pointer": 4098}, "x must start at a multiple of 16 bytes, but its address is 0x1002"),
    ],
)
def test_a_wrong_array_is_named_with_its_rule(kind, wrong, sentence):
    adapter, array = kind
    with pytest.raises(ArrayError, match=sentence):
        adapter.pointer(array(**wrong), "x")


@pytest.mark.parametrize(("kind", "key"), [(ADAPTERS[0].values[0], "device_id"), (ADAPTERS[1].values[0], "device")])
def test_another_gpu_is_named(kind, key):
    adapter, array = kind
    with pytest.raises(ArrayError, match="out must be on the block's device cuda:0, but it is on cuda:3"):
        adapter.pointer(array(**{key: 3}), "out")


def test_a_tensor_in_host_memory_is_named():
    with pytest.raises(ArrayError, match="it is in host memory; copy it there first"):
        TorchAdapter(fake_torch(), LAYOUTS, 0).pointer(FakeTensor(device=-1), "x")


@pytest.mark.parametrize(("dtype", "fits"), [(ml_dtypes.bfloat16, True), ("uint16", True), ("float16", False)])
def test_bfloat16_may_come_as_bits(dtype, fits):
    adapter = CupyAdapter(fake_cupy(), layouts_of(Problem(2, 3, 4, 16, dtype="bfloat16")), 0)
    if fits:
        assert adapter.pointer(FakeArray(dtype=dtype), "x") == 4096
    else:
        with pytest.raises(ArrayError, match="bfloat16 or uint16, but got float16"):
            adapter.pointer(FakeArray(dtype=dtype), "x")


def test_the_stride_of_a_dimension_of_size_one_does_not_matter():
    adapter = CupyAdapter(fake_cupy(), layouts_of(Problem(1, 1, 4, 16)), 0)
    assert adapter.pointer(FakeArray(shape=(1, 1, 4, 16), strides=(7, 9, 16, 1)), "x") == 4096
    with pytest.raises(ArrayError, match="contiguous"):
        adapter.pointer(FakeArray(shape=(1, 1, 4, 16), strides=(64, 64, 32, 1)), "x")


def test_equal_shapes_are_told_apart_by_strides():
    layout = Layout(Problem(1, 16, 16, 16).x)
    shape = (1, 16, 16, 16)
    assert layout.check("x", "float16", shape, (4096, 256, 16, 1), 0) == 0
    assert layout.check("x", "float16", shape, (4096, 1, 256, 16), 0) == 1
    with pytest.raises(ArrayError, match="contiguous"):
        layout.check("x", "float16", shape, (4096, 16, 256, 1), 0)


@pytest.mark.parametrize("offset", [0, 16, -16, BYTES - 16])
def test_overlapping_arrays_are_refused(offset):
    with pytest.raises(ArrayError, match="out must not share memory with x"):
        LAYOUTS.check_apart(1 << 20, (1 << 20) + offset)


@pytest.mark.parametrize("offset", [BYTES, -BYTES])
def test_neighbouring_arrays_are_apart(offset):
    LAYOUTS.check_apart(1 << 20, (1 << 20) + offset)


@pytest.mark.parametrize(("shape", "strides"), [(NHWC, NHWC_STRIDES), (NCHW, NCHW_STRIDES)])
def test_a_new_output_is_presented_like_the_input(shape, strides):
    y = CupyAdapter(fake_cupy(), LAYOUTS, 0).empty_for(FakeArray(shape=shape, strides=strides))
    assert (y.shape, tuple(stride // 2 for stride in y.strides), y.dtype) == (shape, strides, np.float16)


OTHER = Layouts(Layout(Tensor((2, 6, 8, 3), "uint8", "nchw")), Layout(Tensor((2, 1, 1, 16), "float16", "nc")))


@pytest.mark.parametrize(
    ("shape", "strides"), [((2, 3, 6, 8), (144, 48, 8, 1)), ((2, 6, 8, 3), (144, 8, 1, 48))], ids=["nchw", "nhwc"]
)
def test_x_and_y_may_differ_in_shape_dtype_and_order(shape, strides):
    adapter, x = CupyAdapter(fake_cupy(), OTHER, 0), FakeArray(shape=shape, dtype="uint8", strides=strides)
    assert adapter.pointer(x, "x") == 4096
    y = adapter.empty_for(x)
    assert (y.shape, y.dtype) == ((2, 16), np.float16)
    assert adapter.pointer(FakeArray(shape=(2, 16), strides=(16, 1)), "out") == 4096
    with pytest.raises(ArrayError, match=r"out must have shape \(2, 16\), its memory in .* but got \(2, 1, 1, 16\)"):
        adapter.pointer(FakeArray(shape=(2, 1, 1, 16), strides=(16, 16, 16, 1)), "out")


@pytest.mark.parametrize(("offset", "apart"), [(-64, True), (-48, False), (272, False), (288, True)])
def test_x_and_y_of_different_sizes_must_be_apart(offset, apart):
    if apart:
        OTHER.check_apart(1 << 20, (1 << 20) + offset)
    else:
        with pytest.raises(ArrayError, match="must not share memory"):
            OTHER.check_apart(1 << 20, (1 << 20) + offset)


def test_streams_are_those_of_the_library():
    assert CupyAdapter(fake_cupy(), LAYOUTS, 0).stream() == 77
    assert TorchAdapter(fake_torch(), LAYOUTS, 0).stream() == 88
    older = fake_torch()
    older._C = SimpleNamespace()
    older.cuda = SimpleNamespace(current_stream=lambda ordinal: SimpleNamespace(cuda_stream=99))
    assert TorchAdapter(older, LAYOUTS, 0).stream() == 99


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros(NHWC, np.float16), "it is in host memory"),
        ([1, 2, 3], "must be a GPU array that offers __cuda_array_interface__ or DLPack, but got list"),
    ],
)
def test_what_is_not_on_a_gpu_is_refused(array, sentence):
    with pytest.raises(ArrayError, match=sentence):
        ForeignAdapter(fake_cupy(), LAYOUTS, 0).pointer(array, "x")
