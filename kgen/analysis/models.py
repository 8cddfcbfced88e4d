"""A traced model against the waterline: its kernel sequences, and what fusing each residual block would save."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.analysis.fusion import Group, fused_groups, kernel, layer_groups, residual_blocks
from kgen.analysis.kernels import Kernel, Sequence, merged
from kgen.analysis.operators import macs, unknown
from kgen.analysis.problems import FUSED, LAYERED
from kgen.analysis.trace import Trace
from kgen.blocks.requirements import check_positive
from kgen.devices import Device
from kgen.errors import ProblemError


@dataclass(frozen=True)
class Saving:
    """One residual block: its kernels layer by layer, and as one kernel of the least bytes."""

    name: str
    layered: Sequence
    fused: Sequence

    @property
    def bytes(self) -> int:
        """DRAM bytes that fusing saves."""
        return self.layered.dram_bytes - self.fused.dram_bytes

    @property
    def us(self) -> float:
        """Attainable latency that fusing saves, in microseconds."""
        return self.layered.attainable_us - self.fused.attainable_us


@dataclass(frozen=True)
class ModelAnalysis:
    """A model's sequences, equal kernels merged; its blocks one by one; how often each unknown operator occurs.

    ``macs`` counts multiply-accumulates of one image.
    """

    sequences: tuple[Sequence, Sequence]
    savings: tuple[Saving, ...]
    unknown: dict[str, int]
    macs: int


def analyse(trace: Trace, batch: int, device: Device) -> ModelAnalysis:
    """The analysis of a trace for ``batch`` images, in 16 bits.

    Raises:
        ProblemError: the batch is no positive integer, or the model computes nothing.
    """
    check_positive("batch", batch)
    if not layer_groups(trace):
        raise ProblemError(f"a model must compute something, but {trace.model} has no kernels; trace another one")
    blocks = residual_blocks(trace)

    def sequence(name: str, groups: list[tuple[str | None, Group]]) -> Sequence:
        kernels: list[Kernel] = [kernel(trace, group, batch, own) for own, group in groups]
        return Sequence(name, merged(kernels), device)

    savings = tuple(
        Saving(
            block.name,
            sequence(LAYERED, [(None, layer) for layer in block.layers]),
            sequence(FUSED, [(block.name, block.fused)]),
        )
        for block in blocks
    )
    layered = sequence(LAYERED, [(None, group) for group in layer_groups(trace)])
    fused = sequence(FUSED, list(fused_groups(trace, blocks)))
    return ModelAnalysis((layered, fused), savings, unknown(trace), sum(macs(trace, node) for node in trace.nodes))
