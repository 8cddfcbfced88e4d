from __future__ import annotations

import numpy as np
import pytest

from kgen.tensors import Tensor

SHAPE = (2, 6, 8, 3)


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
def test_views_are_the_same_memory(order):
    tensor = Tensor(SHAPE, "float16", order)
    own, turned = tensor.views
    memory = np.arange(tensor.elements, dtype=tensor.storage).reshape(own.shape)
    assert tuple(stride // 2 for stride in memory.strides) == own.strides
    other = memory.transpose(turned.turn)
    assert (other.shape, tuple(stride // 2 for stride in other.strides)) == (turned.shape, turned.strides)
    assert {own.shape, turned.shape} == {(2, 6, 8, 3), (2, 3, 6, 8)}
    assert own.turn is None and own.shape[1] == (6 if order == "nhwc" else 3)


def test_vectors_have_two_dimensions():
    (only,) = Tensor((5, 1, 1, 7), "bfloat16", "nc").views
    assert (only.shape, only.strides) == ((5, 7), (7, 1))


@pytest.mark.parametrize(("dtype", "size"), [("float16", 2), ("bfloat16", 2), ("uint8", 1)])
def test_bytes(dtype, size):
    assert Tensor(SHAPE, dtype).bytes == 288 * size
