"""A small network, and its checkpoints as PyTorch would save them."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from kgen.networks import Network

NETWORK = Network("net", (16, 32), (1, 2), expansion=2, classes=10, patch=2)
BN = ("weight", "bias", "running_mean", "running_var")


def state_dict(network=NETWORK, seed=0, dtype=np.float32):
    """Random tensors by PyTorch's names, written down here a second time: conv (out, in, kh, kw), BatchNorm, head."""
    tensors, rng, expansion = {}, np.random.default_rng(seed), int(network.expansion)

    def conv(name, bn, *shape):
        tensors[f"{name}.weight"] = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        values = {field: rng.standard_normal(shape[0]) / 10 for field in ("bias", "running_mean")}
        values |= {field: rng.uniform(0.5, 1.5, shape[0]) for field in ("weight", "running_var")}
        tensors.update({f"{bn}.{field}": values[field] for field in BN})

    conv("stem.conv", "stem.bn", network.widths[0], network.image_channels, network.patch, network.patch)
    before = None
    for i, (width, depth) in enumerate(zip(network.widths, network.depths, strict=True)):
        if before:
            conv(f"stages.{i}.downsample.conv", f"stages.{i}.downsample.bn", width, before, 2, 2)
        before = width
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            conv(f"{block}.conv", f"{block}.conv_bn", width, 8, 3, 3)
            conv(f"{block}.expand", f"{block}.expand_bn", expansion * width, width, 1, 1)
            conv(f"{block}.project", f"{block}.project_bn", width, expansion * width, 1, 1)
    tensors["head.weight"] = rng.standard_normal((network.classes, before)) / np.sqrt(before)
    tensors["head.bias"] = rng.standard_normal(network.classes) / 10
    return {name: values.astype(dtype) for name, values in tensors.items()}


def write(path, tensors, metadata=None):
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    return path
