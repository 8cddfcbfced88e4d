"""A network in NumPy: the float64 truth of its logits, and the layer-by-layer error yardstick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from kgen.blocks import family
from kgen.blocks.layers import Array
from kgen.errors import ArrayError
from kgen.networks.spec import Network


def reference(network: Network, folded: Mapping[str, Any], images: Array) -> Array:
    """Logits (n, classes) in float64 with the rounded weights; nothing is rounded between the layers.

    ``images`` are in the network's dtype, or uint8, and in its order; ``folded`` is :func:`kgen.networks.fold`'s.

    Raises:
        ArrayError: the images have another shape or dtype.
        ProblemError: they are too small.
    """
    return _run(network, folded, images, "reference")


def layered(network: Network, folded: Mapping[str, Any], images: Array) -> Array:
    """Logits in the storage dtype, every layer and its intermediates rounded to it, as a framework computes them.

    The error against :func:`reference` is the yardstick for a GPU's. Arguments and errors are those of it.
    """
    return _run(network, folded, images, "layered")


def _run(network: Network, folded: Mapping[str, Any], images: Array, how: Literal["reference", "layered"]) -> Array:
    if images.ndim != 4:
        raise ArrayError(f"images must have 4 dimensions, {network.order}, but got {images.shape}; reshape them")
    rows = network.order.index("h")
    x = images
    for layer in network.layers(images.shape[0], *images.shape[rows : rows + 2]):
        x = getattr(family(layer.problem.family), how)(layer.problem, folded[layer.name], x)
    return x
