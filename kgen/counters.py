"""What a GPU's counters tell: quantities as sums of counters, by the names that Nsight Compute has for them.

Versions of it and chips differ in what they know, so that a quantity may be read in several ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """A quantity as the sum of counters, in units of ``scale``."""

    counters: tuple[str, ...]
    scale: int = 1

    def value(self, counters: Mapping[str, float]) -> float | None:
        """None when one of the counters is missing."""
        found = [counters[name] for name in self.counters if name in counters]
        return sum(found) * self.scale if len(found) == len(self.counters) else None


def _operations(kind: str, *destinations: str) -> tuple[Reading, ...]:
    """Operations of the tensor instructions of a kind. Names of ncu differ in whether they tell the destination."""
    sources = ("fp16", "bf16")
    return tuple(
        Reading((f"sm__ops_path_tensor_op_{kind}_src_{source}{destination}_sparsity_off.sum",))
        for source in sources
        for destination in destinations
    )


READINGS: Mapping[str, tuple[Reading, ...]] = {
    "dram_bytes": (
        Reading(("dram__bytes_read.sum", "dram__bytes_write.sum")),
        Reading(("dram__bytes_op_read.sum", "dram__bytes_op_write.sum")),
        Reading(("dram__sectors_read.sum", "dram__sectors_write.sum"), 32),
    ),
    # The crossbar counts bulk copies, too. L2's own sectors come second: some of Hopper's are counted in both halves.
    "l2_bytes": (
        Reading(("l1tex__m_xbar2l1tex_read_bytes.sum", "l1tex__m_l1tex2xbar_write_bytes.sum")),
        Reading(("lts__t_sectors_srcunit_tex.sum",), 32),
        Reading(("lts__t_sectors_op_read.sum", "lts__t_sectors_op_write.sum"), 32),
    ),
    # Without what wgmma reads by itself.
    "shared_bytes": (Reading(("l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",), 128),),
    "mma_flops": _operations("hmma", "_dst_fp32", ""),
    "wgmma_flops": _operations("hgmma", "", "_dst_fp32"),
    "mma_instructions": (Reading(("sm__inst_executed_pipe_tensor_op_hmma.sum",)),),
    "wgmma_instructions": (Reading(("sm__inst_executed_pipe_tensor_op_gmma.sum",)),),
}
"""By quantity, how to read it, the better way first. Instructions are counted by warp, so that a wgmma is four."""


def counters_of(quantities: Iterable[str]) -> list[str]:
    """Every counter that could tell one of these quantities, once."""
    names = (name for quantity in quantities for reading in READINGS[quantity] for name in reading.counters)
    return list(dict.fromkeys(names))


def worth_asking(quantities: Iterable[str], known: Iterable[str]) -> list[str]:
    """Of the known counters as few as will do: ncu runs everything again for every handful.

    Of tensor operations it is every way to read them, since a counter that ncu knows may stay zero.
    """
    names, asked = set(known), list[str]()
    for quantity in quantities:
        complete = [reading.counters for reading in READINGS[quantity] if names.issuperset(reading.counters)]
        for found in complete if quantity.endswith("flops") else complete[:1]:
            asked += found
    return list(dict.fromkeys(asked))


def counted(counters: Mapping[str, float], quantity: str) -> float | None:
    """A quantity by the first reading that says something; 0 only when none says more, None when none does."""
    values = [reading.value(counters) for reading in READINGS[quantity]]
    found = [value for value in values if value is not None]
    return next((value for value in found if value), found[0] if found else None)
