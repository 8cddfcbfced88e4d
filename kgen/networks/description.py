"""What a network is made of: its layers' shapes, parameters and operations."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.networks.parts import parts_of_layer
from kgen.networks.spec import Layer, Network
from kgen.networks.variants import variant

_HEADINGS = ("layer", "family", "output", "parameters", "operations")


@dataclass(frozen=True)
class Row:
    """One layer: ``shape`` is its output's, (batch, height, width, channels) or (batch, classes).

    ``parameters`` counts trainable numbers, a BatchNorm's gamma and beta among them; ``flops`` counts operations by
    direct convolution, 2 per multiply-accumulate, for the whole batch.
    """

    name: str
    family: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Description:
    """A network at one batch and image size; ``str()`` is a table."""

    network: Network
    batch: int
    size: int
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Trainable numbers of all layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Operations of all layers, for the whole batch."""
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        lines = [_HEADINGS, *map(_cells, self.rows), ("total", "", "", f"{self.parameters:,}", f"{self.flops:,}")]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
        table = ("  ".join(map(_aligned, range(len(line)), line, widths)).rstrip() for line in lines)
        title = f"{self.network.name}, batch {self.batch}, {self.size}x{self.size}, {self.network.dtype}"
        return "\n".join([title, *table])


def describe(network: str | Network, size: int = 224, batch: int = 1) -> Description:
    """A network, or the variant of that name, for ``batch`` images of size x size pixels.

    Raises:
        ProblemError: there is no variant of that name, or the images are too small.
    """
    network = variant(network) if isinstance(network, str) else network
    return Description(network, batch, size, tuple(map(_row, network.layers(batch, size, size))))


def _row(layer: Layer) -> Row:
    parameters = sum(part.parameters for part in parts_of_layer(layer))
    return Row(layer.name, layer.problem.family, layer.problem.y.views[0].shape, parameters, layer.problem.flops)


def _cells(row: Row) -> tuple[str, ...]:
    return (row.name, row.family, "x".join(map(str, row.shape)), f"{row.parameters:,}", f"{row.flops:,}")


def _aligned(column: int, cell: str, width: int) -> str:
    """Names to the left, figures to the right."""
    return cell.ljust(width) if column < 2 else cell.rjust(width)
