"""What weights a network has: its convolutions, by the names that PyTorch's state dict of the trainable module uses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.blocks.patchconv.problem import PatchConv
from kgen.networks.spec import Layer, Network

Shape = tuple[int, ...]

BATCH_NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
"""Names of a BatchNorm's tensors, by the fields of :class:`kgen.BatchNorm`."""


@dataclass(frozen=True)
class Part:
    """One convolution, or the linear head.

    ``field`` is where the layer's weights hold it; ``conv`` and ``bn`` are the prefixes of its tensors' names, the
    latter None where no BatchNorm follows. ``shape`` is that of its weight in PyTorch, output channels first.
    """

    layer: str
    field: str
    conv: str
    bn: str | None
    shape: Shape

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that its weight may have; 1x1 convolutions may be matrices."""
        return (self.shape, self.shape[:2]) if self.shape[2:] == (1, 1) else (self.shape,)

    @property
    def batch_norm(self) -> dict[str, str]:
        """Full names of the BatchNorm's tensors by the fields of :class:`kgen.BatchNorm`."""
        return {field: f"{self.bn}.{name}" for field, name in BATCH_NORM.items()} if self.bn else {}

    def required(self, present: Collection[str]) -> set[str]:
        """Names that a file which has those ``present`` must have: all tensors of a BatchNorm if it has any."""
        names = {f"{self.conv}.weight"} if self.bn else {f"{self.conv}.weight", f"{self.conv}.bias"}
        norm = set(self.batch_norm.values())
        return names if norm.isdisjoint(present) else names | norm

    @property
    def optional(self) -> set[str]:
        """Names that a file may have beside those."""
        return {f"{self.conv}.bias", f"{self.bn}.num_batches_tracked"} if self.bn else set()

    @property
    def parameters(self) -> int:
        """Trainable numbers: the weight, and a BatchNorm's gamma and beta or the head's bias."""
        return prod(self.shape) + (2 if self.bn else 1) * self.shape[0]


def parts_of(network: Network) -> tuple[Part, ...]:
    """Every part, in the order in which they run."""
    return tuple(part for layer in network.smallest_layers() for part in parts_of_layer(layer))


def parts_of_layer(layer: Layer) -> tuple[Part, ...]:
    name, problem = layer.name, layer.problem
    if isinstance(problem, PatchConv):
        shape = (problem.outputs, problem.channels, problem.patch, problem.patch)
        return (Part(name, "conv", f"{name}.conv", f"{name}.bn", shape),)
    if isinstance(problem, ConvFirst):
        shapes = {
            "conv": (problem.channels, GROUP_WIDTH, KERNEL_SIZE, KERNEL_SIZE),
            "expand": (problem.hidden, problem.channels, 1, 1),
            "project": (problem.channels, problem.hidden, 1, 1),
        }
        return tuple(Part(name, field, f"{name}.{field}", f"{name}.{field}_bn", shapes[field]) for field in shapes)
    return (Part(name, "linear", name, None, (problem.classes, problem.channels)),)
