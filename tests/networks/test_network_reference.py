"""A network in NumPy against the same network by einsum, from the tensors that PyTorch would hold."""

from __future__ import annotations

import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from network_samples import BN, NETWORK, state_dict, write

from kgen.blocks import family
from kgen.errors import ArrayError, ProblemError
from kgen.networks import HostNetwork, NetworkWeights, fold, layered, load_weights, reference

STORAGE = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def conv(tensors, name, x, groups=1, size=1, stride=1, padding=0):
    """PyTorch's convolution of x (n, channels, height, width), one tap after the other, and its BatchNorm if any."""
    weight = tensors[f"{name}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    high, wide = ((extent - size) // stride + 1 for extent in x.shape[2:])
    y = 0
    for row, column in itertools.product(range(size), range(size)):
        tap = x[:, :, row : row + stride * high : stride, column : column + stride * wide : stride]
        tap = tap.reshape(len(x), groups, -1, high, wide)
        y = y + np.einsum("goc,ngchw->ngohw", weight[..., row, column].reshape(groups, -1, tap.shape[2]), tap)
    return batch_norm(tensors, name, y.reshape(len(x), -1, high, wide))


def batch_norm(tensors, name, y):
    bn = f"{name}_bn" if "blocks" in name else f"{name.removesuffix('conv')}bn"
    if f"{bn}.weight" not in tensors:
        return y
    gamma, beta, mean, var = (tensors[f"{bn}.{field}"].reshape(-1, 1, 1) for field in BN)
    return (y - mean) / np.sqrt(var + 1e-5) * gamma + beta


def by_einsum(network, tensors, x):
    """Logits from float64 x (n, channels, height, width)."""
    x = conv(tensors, "stem.conv", x, size=network.patch, stride=network.patch)
    for i, (width, depth) in enumerate(zip(network.widths, network.depths, strict=True)):
        if i:
            x = conv(tensors, f"stages.{i}.downsample.conv", x, size=2, stride=2)
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            z = conv(tensors, f"{block}.conv", x, groups=width // 8, size=3, padding=1)
            hidden = conv(tensors, f"{block}.expand", z)
            x = x + conv(tensors, f"{block}.project", hidden / (1 + np.exp(-hidden)))
    return x.mean((2, 3)) @ tensors["head.weight"].T + tensors["head.bias"]


def images(network=NETWORK, batch=2, height=12, width=19):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, height, width, 3)).astype(STORAGE[network.dtype])
    x = x if network.pixels == "storage" else rng.integers(0, 256, x.shape, dtype=np.uint8)
    return x if network.order == "nhwc" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_truth_is_rounded_nowhere(tmp_path, dtype, order):
    network = replace(NETWORK, dtype=dtype, order=order)
    tensors = {name: v for name, v in state_dict(dtype=STORAGE[dtype]).items() if "bn." not in name}
    folded = fold(network, load_weights(write(tmp_path / "net", tensors), network))
    x = images(network)
    y = reference(network, folded, x)
    assert (y.dtype, y.shape) == (np.float64, (2, 10))
    planes = (x if order == "nchw" else x.transpose(0, 3, 1, 2)).astype(np.float64)
    exact = {name: values.astype(np.float64) for name, values in tensors.items()}
    np.testing.assert_allclose(y, by_einsum(network, exact, planes), rtol=1e-11, atol=1e-11)


def test_batch_norms_are_pytorchs(tmp_path):
    """All that differs is that folded weights are rounded to float16."""
    tensors = state_dict()
    y = reference(NETWORK, fold(NETWORK, load_weights(write(tmp_path / "net", tensors), NETWORK)), images())
    want = by_einsum(NETWORK, tensors, images().astype(np.float64).transpose(0, 3, 1, 2))
    assert 0 < np.linalg.norm(y - want) < 2e-3 * np.linalg.norm(want)


@pytest.mark.parametrize("pixels", ["storage", "uint8"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layered_and_host_are_near_the_truth(dtype, pixels):
    network = replace(NETWORK, dtype=dtype, pixels=pixels)
    weights, x = NetworkWeights.random(network), images(network)
    folded = fold(network, weights)
    truth, by_layer = reference(network, folded, x), layered(network, folded, x)
    y = HostNetwork(network, weights)(x)
    assert y.dtype == by_layer.dtype == STORAGE[dtype]
    errors = [np.linalg.norm(logits.astype(np.float64) - truth) for logits in (y, by_layer)]
    assert 0 < errors[0] <= 2 * errors[1]
    assert errors[1] < (0.003 if dtype == "float16" else 0.03) * np.linalg.norm(truth)


@pytest.mark.parametrize("run", [reference, layered])
def test_wrong_images_are_refused(run):
    folded, x = fold(NETWORK, NetworkWeights.random(NETWORK)), images()
    with pytest.raises(ArrayError, match=r"images must have 4 dimensions, nhwc, but got \(12, 19, 3\); reshape"):
        run(NETWORK, folded, x[0])
    with pytest.raises(ArrayError, match="x must be float16 of shape"):
        run(NETWORK, folded, x.astype(np.float32))
    with pytest.raises(ArrayError, match="x must be float16 of shape"):
        run(NETWORK, folded, x[..., :2])
    with pytest.raises(ProblemError, match="images must be at least 4x4"):
        run(NETWORK, folded, x[:, :3])


@pytest.mark.parametrize("layer", NETWORK.layers(1, 12, 19), ids=lambda layer: layer.name)
def test_a_layers_truth_alone_takes_float64(layer):
    block, problem = family(layer.problem.family), layer.problem
    folded = block.fold(problem, block.Weights.random(problem))
    x = np.random.default_rng(0).standard_normal(problem.x.shape).astype(np.float16)
    exact = x.astype(np.float64)
    np.testing.assert_array_equal(block.reference(problem, folded, exact), block.reference(problem, folded, x))
    assert not np.array_equal(block.reference(problem, folded, exact + 1e-5), block.reference(problem, folded, x))
    for run in (block.layered, block.float32_forward):
        with pytest.raises(ArrayError, match="but got float64"):
            run(problem, folded, exact)
