"""A network without a GPU: which images it takes, and what it gives."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from network_samples import NETWORK

from kgen.errors import ArrayError, ProblemError, WeightsError
from kgen.networks import HostNetwork, NetworkWeights, convfirst_tiny, fold, reference
from kgen.networks.images import layers_for

RNG = np.random.default_rng(0)


def model(**changes):
    network = replace(NETWORK, **changes)
    return HostNetwork(network, NetworkWeights.random(network))


def image(batch=2, height=9, width=14):
    return RNG.standard_normal((batch, height, width, 3)).astype(np.float16)


def test_batch_and_size_are_the_images():
    run = model()
    folded = fold(NETWORK, NetworkWeights.random(NETWORK))
    for shape in ((1, 4, 4), (3, 9, 14), (2, 64, 20)):
        x = image(*shape)
        y = run(x)
        assert (type(y), y.dtype, y.shape) == (np.ndarray, np.float16, (shape[0], 10))
        np.testing.assert_allclose(y, reference(NETWORK, folded, x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
def test_either_view_of_the_memory_is_taken(order):
    run, x = model(order=order), image()
    memory = x if order == "nhwc" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    turned = memory.transpose((0, 3, 1, 2) if order == "nhwc" else (0, 2, 3, 1))
    np.testing.assert_array_equal(run(turned), run(memory))
    np.testing.assert_allclose(run(memory), model()(x), rtol=0.01, atol=0.01)
    with pytest.raises(ArrayError, match="images must be contiguous in the order"):
        run(np.ascontiguousarray(turned))


def test_strides_tell_shapes_that_can_be_read_both_ways():
    network = replace(NETWORK, widths=(16,), depths=(1,), patch=1)
    for strides, extent in (((45, 15, 3, 1), (3, 5)), ((45, 1, 9, 3), (5, 3))):
        stem = layers_for(network, "float16", (1, 3, 5, 3), strides, 0)[0].problem
        assert (stem.height, stem.width) == extent


def test_uint8_images_and_bfloat16_bits():
    pixels = RNG.integers(0, 256, (2, 9, 14, 3), dtype=np.uint8)
    y = model(pixels="uint8", dtype="bfloat16")(pixels)
    assert (y.dtype, y.shape) == (np.dtype(ml_dtypes.bfloat16), (2, 10))
    x = image().astype(ml_dtypes.bfloat16)
    run = model(dtype="bfloat16")
    bits = run(x.view(np.uint16))
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(bits.view(ml_dtypes.bfloat16), run(x))


@pytest.mark.parametrize("pixels", ["storage", "uint8"])
def test_torch_in_torch_out(pixels):
    torch = pytest.importorskip("torch")
    run = model(pixels=pixels)
    x = image() if pixels == "storage" else RNG.integers(0, 256, (2, 9, 14, 3), dtype=np.uint8)
    tensor = torch.from_numpy(x).permute(0, 3, 1, 2)
    y = run(tensor)
    assert isinstance(y, torch.Tensor)
    assert y.dtype is torch.float16
    np.testing.assert_array_equal(y.numpy(), run(x))


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (lambda x: x.astype(np.float32), ArrayError, "images must have dtype float16, but got float32; convert"),
        (
            lambda x: x[0],
            ArrayError,
            r"images for net must have shape \(batch, height, width, 3\) or .* got \(9, 14, 3\)",
        ),
        (lambda x: x[..., :2].copy(), ArrayError, r"images for net must have shape .* but got \(2, 9, 14, 2\)"),
        (lambda x: x[:, ::2], ArrayError, "images must be contiguous"),
        (lambda x: x.reshape(-1)[3:381].reshape(1, 9, 14, 3), ArrayError, "images must start at a multiple of 16"),
        (lambda x: x[:, :3].copy(), ProblemError, "images must be at least 4x4, a pixel for the last of 2 stages"),
        (lambda x: None, ArrayError, r"images for net must have shape .* but got \(\); reshape"),
    ],
)
def test_wrong_images_are_refused(spoil, error, sentence):
    with pytest.raises(error, match=sentence):
        model()(spoil(image()))


def test_out_is_filled_and_returned():
    run, x, out = model(), image(), np.full((2, 10), np.nan, np.float16)
    assert run(x, out=out) is out
    np.testing.assert_array_equal(out, run(x))
    with pytest.raises(ArrayError, match=r"out must have shape \(2, 10\), .* but got \(2, 9\)"):
        run(x, out=out[:, :9].copy())


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="weights of convfirst_tiny must have the network's names"):
        HostNetwork(convfirst_tiny(), NetworkWeights.random(NETWORK))


def test_a_model_tells_what_it_is():
    assert repr(model()) == "<kgen network net in NumPy>"
