"""Weights of a network: each layer's own, random or from a file, and folded for the layers' problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from kgen.blocks import family
from kgen.blocks.classifier.weights import ClassifierWeights
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.weights import ConvFirstWeights
from kgen.blocks.layers import Conv, rounded
from kgen.blocks.patchconv.weights import PatchConvWeights
from kgen.errors import WeightsError
from kgen.networks.spec import Network

LayerWeights = PatchConvWeights | ConvFirstWeights | ClassifierWeights

_SEEDS = 1 << 31
_LISTED = 12


@dataclass(frozen=True, eq=False)
class NetworkWeights:
    """Weights of every layer, by the layer's name in :meth:`~kgen.networks.Network.layers`."""

    layers: Mapping[str, LayerWeights]

    @classmethod
    def random(cls, network: Network, seed: int = 0) -> NetworkWeights:
        """Seeded float32 weights with BatchNorms, which keep activations and logits of order 1 at any depth.

        As in the trainable module, a convolution that a BatchNorm follows has no bias.

        A block adds 1 / sqrt(depth of its stage) of what its own random weights would, so that a stage's additions
        together are of the order of its input. With ``pixels`` ``uint8`` the stem normalises its images.
        """
        rng = np.random.default_rng(seed)
        drawn: dict[str, LayerWeights] = {}
        for layer in network.smallest_layers():
            weights = family(layer.problem.family).Weights.random(layer.problem, int(rng.integers(_SEEDS)))
            if isinstance(layer.problem, ConvFirst):
                depth = network.depths[int(layer.name.split(".")[1])]  # of stages.{i}.blocks.{j}
                weights = replace(weights, project=_damped(weights.project, depth**-0.5))
            drawn[layer.name] = _each_conv(weights, lambda _, conv: replace(conv, bias=None) if conv.bn else conv)
        return cls(drawn)

    def without_batch_norms(self) -> NetworkWeights:
        """The same, every BatchNorm folded into its convolution's weight and bias, which become float32.

        Raises:
            WeightsError: an array is not finite real numbers or has a wrong shape.
        """
        return NetworkWeights(
            {layer: _each_conv(weights, partial(_merged, layer)) for layer, weights in self.layers.items()}
        )


def fold(network: Network, weights: NetworkWeights) -> dict[str, Any]:
    """Each layer's folded weights by its name, rounded as they are stored; they serve every batch and image size.

    Raises:
        WeightsError: a layer is missing or none of the network's, or its weights do not fit; the message names it.
    """
    if not isinstance(weights, NetworkWeights):
        raise WeightsError(
            f"weights must be NetworkWeights, but got {type(weights).__name__}; use load_weights, or random ones"
        )
    layers = network.smallest_layers()
    check_names(f"weights of {network.name}", {layer.name for layer in layers}, set(weights.layers))
    folded = {}
    for layer in layers:
        try:
            folded[layer.name] = family(layer.problem.family).fold(layer.problem, weights.layers[layer.name])
        except WeightsError as error:
            raise WeightsError(f"layer {layer.name} of {network.name}: {error}") from error
    return folded


def check_names(subject: str, wanted: set[str], found: set[str]) -> None:
    """Raise WeightsError unless exactly what is wanted was found; the first dozen names of each kind are listed."""
    missing, unexpected = wanted - found, found - wanted
    faults = [f"it lacks {_listed(missing)}"] if missing else []
    faults += [f"it has no use for {_listed(unexpected)}"] if unexpected else []
    if faults:
        raise WeightsError(
            f"{subject} must have the network's names, but {' and '.join(faults)}; check that it belongs to this "
            "network, and rename what is called otherwise"
        )


def _listed(names: set[str]) -> str:
    shown, more = ", ".join(sorted(names)[:_LISTED]), len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def _damped(conv: Conv, factor: float) -> Conv:
    """The convolution with its BatchNorm's output multiplied by ``factor``."""
    bn = conv.bn and replace(conv.bn, gamma=factor * np.asarray(conv.bn.gamma), beta=factor * np.asarray(conv.bn.beta))
    return replace(conv, bn=bn)


def _merged(layer: str, field: str, conv: Conv) -> Conv:
    """The convolution with its BatchNorm folded into weight and bias."""
    name = f"{layer}.{field}"
    weight, bias = (rounded(name, values, np.dtype(np.float32)) for values in conv.folded(name))
    return Conv(weight, bias)


def _each_conv(weights: Any, change: Callable[[str, Conv], Conv]) -> Any:
    """A layer's weights with ``change`` of field and convolution in the place of every convolution."""
    convs = {field: change(field, conv) for field, conv in vars(weights).items() if isinstance(conv, Conv)}
    return replace(weights, **convs)
