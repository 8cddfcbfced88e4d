"""A network on a machine without a GPU."""

from __future__ import annotations

from typing import Any

from kgen.host import HostForward, numpy_view
from kgen.networks.images import layers_for
from kgen.networks.spec import Network
from kgen.networks.weights import NetworkWeights, fold


class HostNetwork:
    """A callable network, ``logits = model(images)``, or ``model(images, out=logits)``, in float32 NumPy.

    Images are NumPy arrays or PyTorch CPU tensors, in any view of the stem's x (see
    :func:`~kgen.networks.images.layers_for`); batch and image size are taken from them. Logits have shape (batch,
    classes) and come as the same kind of array, in the network's dtype. As on a GPU, every layer's output is rounded
    to it.

    Raises:
        WeightsError: the weights do not fit the network.
    """

    def __init__(self, network: Network, weights: NetworkWeights) -> None:
        self.network = network
        self._folded = fold(network, weights)

    def __call__(self, images: Any, out: Any = None) -> Any:
        """Run the network, one layer after the other.

        Raises:
            ArrayError: images or out have a wrong shape, dtype, layout or alignment.
            ProblemError: they are too small.
        """
        given = numpy_view(images, "images")
        strides = tuple(stride // given.itemsize for stride in given.strides)
        *before, head = layers_for(self.network, given.dtype.name, given.shape, strides, given.ctypes.data)
        x = images
        for layer in before:
            x = HostForward(layer.problem, self._folded[layer.name])(x)
        return HostForward(head.problem, self._folded[head.name])(x, out)

    def __repr__(self) -> str:
        return f"<kgen network {self.network.name} in NumPy>"
