"""From images to the layers that run on them, whose batch and size are those of the array; and random images."""

from __future__ import annotations

from typing import Any

import numpy as np

from kgen.arrays import Layout
from kgen.errors import ArrayError
from kgen.networks.spec import Layer, Network
from kgen.tensors import Ints, Order, Tensor


def random_images(x: Tensor) -> np.ndarray[Any, Any]:
    """Images from 0 to 255 in the shape and dtype of a stem's x, to measure with: time does not depend on them."""
    return np.random.default_rng(0).integers(0, 256, x.views[0].shape, dtype=np.uint8).astype(x.storage)


def layers_for(network: Network, dtype: str, shape: Ints, strides: Ints, pointer: int) -> tuple[Layer, ...]:
    """The network's layers for images of this dtype, shape and strides (in elements), in any view of the stem's x.

    An array may come in the order of its memory, or transposed: of (batch, height, width, channels) and (batch,
    channels, height, width), what its strides are those of.

    Raises:
        ArrayError: the images have a wrong dtype, shape, layout or alignment.
        ProblemError: they are too small.
    """
    refused = None
    for batch, height, width in _readings(network, shape):
        layers = network.layers(batch, height, width)
        try:
            Layout(layers[0].problem.x).check("images", dtype, shape, strides, pointer)
        except ArrayError as error:
            refused = refused or error
        else:
            return layers
    raise refused or ArrayError(
        f"images for {network.name} must have shape (batch, height, width, {network.image_channels}) or (batch, "
        f"{network.image_channels}, height, width), but got {shape}; reshape them"
    )


def _readings(network: Network, shape: Ints) -> list[tuple[int, int, int]]:
    """(batch, height, width) as the shape may be read, first in the order of the network's memory."""
    if len(shape) != 4:
        return []
    orders: list[Order] = ["nhwc", "nchw"] if network.order == "nhwc" else ["nchw", "nhwc"]
    readings = [dict(zip(order, shape, strict=True)) for order in orders]
    return [(sizes["n"], sizes["h"], sizes["w"]) for sizes in readings if sizes["c"] == network.image_channels]
