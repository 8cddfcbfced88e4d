"""Pointwise layers on a Hopper GPU's wgmma, ``templates/tile/pointwise_wgmma.cuh``: sizes, registers and rules.

The numbers mirror the constexpr numbers of the templates, which assert that the byte counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from kgen.blocks.layout import ceil_div
from kgen.blocks.requirements import divides, multiple, require
from kgen.devices import Device

CORE_BLOCK = 64
"""Pixels of a block of core matrices, the unit of tensors between the layers' kernels; channels are in multiples of
it."""
PRODUCER_REGISTERS = 32
BARRIER_BYTES = 8
ARCH = "sm_90"
MAX_COLUMNS = 256
"""Columns of the widest wgmma."""
WARPGROUPS = (1, 2, 3)
CLUSTERS = (1, 2, 4)
"""CTAs that share weights; those of larger clusters would often wait for one another."""
_MAX_DEFERRED = 128


def entry_registers(warpgroups: int) -> int:
    """Registers of a thread as a kernel of ``warpgroups`` consumers and one of producers starts: a share, by eights."""
    return min(255, 65536 // (128 * (warpgroups + 1))) // 8 * 8


def consumer_registers(warpgroups: int) -> int:
    """Registers that setmaxnreg may give each thread of ``warpgroups`` consumers beside one warpgroup of producers.

    What the producers give up of the registers at entry goes to the consumers, in steps of 8.
    """
    pool = entry_registers(warpgroups) * (warpgroups + 1)
    return min(240, (pool - PRODUCER_REGISTERS) // warpgroups // 8 * 8)


@dataclass(frozen=True)
class MatmulGeometry:
    """A kernel that multiplies flat pixels by a matrix, ``inputs`` to ``channels``."""

    name: str
    """Of the kernel among its block's; "" where there is no other."""
    last: bool
    """Whether the output is the block's, in its plain layout."""
    total_pixels: int
    inputs: int
    channels: int
    warpgroups: int
    outputs: int
    """Output channels of one work item."""
    stages: int
    deferred: bool
    cluster: int
    """CTAs that load weights for one another."""
    element_bytes: int
    """Of the operands: 1 for float8."""

    @property
    def prefix(self) -> str:
        """Of the names of its config's fields."""
        return f"{self.name}_" if self.name else ""

    @property
    def pixels(self) -> int:
        return 64 * self.warpgroups

    @property
    def threads(self) -> int:
        return 128 * (self.warpgroups + 1)

    @property
    def tiles(self) -> int:
        """Of pixels, as many for each CTA of a cluster: some may lie beyond the tensor."""
        return ceil_div(self.total_pixels, self.cluster * self.pixels) * self.cluster

    @property
    def items(self) -> int:
        return self.tiles * (self.channels // self.outputs)

    @property
    def step_bytes(self) -> int:
        """Of a pixel's or an output's inputs in a step: a block of core matrices has 64 columns of 2 bytes, or 32."""
        return 128 if self.inputs * self.element_bytes % 128 == 0 else 64

    @property
    def steps(self) -> int:
        return self.inputs * self.element_bytes // self.step_bytes

    @property
    def vectors(self) -> int:
        """Floats beside the weights for each output: bias, with float8 the sum's scale, and that of an operand made."""
        if self.element_bytes == 2:
            return 1
        return 2 if self.last else 3

    @property
    def accumulators(self) -> int:
        """Registers of a consumer's accumulators."""
        return self.outputs // 2 * (2 if self.deferred else 1)

    @property
    def slot_bytes(self) -> int:
        return self.step_bytes * (self.pixels + self.outputs)

    @property
    def loaded_bytes(self) -> int:
        """Of a slot, those that the CTA asks L2 for: the cluster's CTAs share out the weights."""
        return self.step_bytes * (self.pixels + self.outputs // self.cluster)

    @property
    def shared_bytes(self) -> int:
        vectors = 4 * self.vectors * self.channels
        return self.stages * self.slot_bytes + vectors + (1 + 2 * self.stages) * BARRIER_BYTES


def check_matmul(kernel: MatmulGeometry, device: Device) -> None:
    """Raise InfeasibleError for the first rule the kernel breaks."""
    check_columns(f"{kernel.prefix}outputs", kernel.outputs, 32)
    divides(f"{kernel.prefix}outputs", kernel.outputs, kernel.channels, f"the outputs of {kernel.name or 'the layer'}")
    require(
        kernel.stages >= 2,
        f"{kernel.prefix}stages",
        f"{kernel.prefix}stages must be >= 2, one slot read while another fills, but got {kernel.stages}; use 4",
    )
    require(
        not kernel.deferred or kernel.outputs <= _MAX_DEFERRED,
        f"{kernel.prefix}deferred",
        f"{kernel.prefix}deferred keeps two sets of accumulators, of at most {_MAX_DEFERRED} outputs, but got "
        f"{kernel.prefix}outputs={kernel.outputs}; use fewer outputs",
    )
    check_shared(f"{kernel.prefix}", kernel.shared_bytes, device)


def check_columns(name: str, value: int, unit: int) -> None:
    """The rule that an instruction can have so many columns."""
    multiple(name, value, unit)
    require(
        value <= MAX_COLUMNS,
        name,
        f"{name} must be at most {MAX_COLUMNS}, one instruction's columns, but got {name}={value}; use fewer",
    )


def check_shared(prefix: str, shared_bytes: int, device: Device) -> None:
    """The rule that a CTA has so much shared memory."""
    require(
        shared_bytes <= device.shared_per_cta_bytes,
        f"{prefix}shared_memory",
        f"a CTA's shared memory must be at most {device.shared_per_cta_bytes} bytes on {device.name}, but the config "
        f"needs {shared_bytes}; use smaller chunks, fewer slots or fewer pixels",
    )
