"""The plan of the fused Hopper kernel."""

from __future__ import annotations

from kgen.blocks.convfirst.config import WgmmaFusedConfig
from kgen.blocks.convfirst.problem import GROUP_WIDTH, ConvFirst
from kgen.blocks.convfirst.stages import activate_stage, conv_stage, matmul_stage
from kgen.blocks.convfirst.wgmma.geometry import FusedGeometry
from kgen.blocks.convfirst.wgmma.parts import Constants, Parts
from kgen.blocks.layout import CONV_PAIR_BYTES
from kgen.blocks.pointwise_wgmma import PRODUCER_REGISTERS, consumer_registers
from kgen.devices import Device
from kgen.machine import KernelPlan, Stage


def fused_parts(problem: ConvFirst, config: WgmmaFusedConfig, device: Device) -> Parts:
    """The fused kernel of a legal config."""
    kernel = FusedGeometry(problem, config)
    constants: Constants = {
        "WARPGROUPS": config.warpgroups,
        "WARPGROUP_PIXELS": config.warpgroup_pixels,
        "CLUSTER": config.cluster,
        "THREADS": kernel.threads,
        "HIDDEN_CHUNK": config.hidden_chunk,
        "WEIGHT_SLOTS": config.weight_slots,
        "X_SLOTS": config.x_slots,
        "RESIDENT": kernel.resident,
        "OVERLAP": config.overlap,
        "CONV_BY_ROWS": kernel.by_rows,
        "Z_IN_SHARED": kernel.z_in_shared,
        "CONSUMER_REGISTERS": consumer_registers(config.warpgroups),
        "PRODUCER_REGISTERS": PRODUCER_REGISTERS,
        "SHARED_BYTES": kernel.shared_bytes,
    }
    grid = min(kernel.work_items, max(1, device.sms // config.cluster) * config.cluster)
    launch = KernelPlan(
        symbol="convfirst_wgmma_fused",
        stages=_stages(kernel, grid),
        grid=grid,
        threads=kernel.threads,
        shared_bytes=kernel.shared_bytes,
        work_items=kernel.work_items,
        steps=kernel.chunks,
        ctas_per_sm=1,
        accumulators=kernel.accumulators,
        begins_early=True,
        cluster=config.cluster,
    )
    ragged = kernel.tiles * kernel.pixels > problem.pixels
    return Parts(constants, (launch,), workspace_bytes=0, tiles=kernel.tiles, ragged=ragged)


def _stages(kernel: FusedGeometry, grid: int) -> tuple[Stage, ...]:
    problem, config = kernel.problem, kernel.config
    channels, hidden = problem.channels, problem.hidden
    computed = kernel.work_items * kernel.pixels
    matrices = 2 * 2 * channels * hidden
    y_bytes = 2 * problem.pixels * channels
    x_and_constants = 2 * kernel.tiles * kernel.halo_pixels * channels + grid * (kernel.conv_bytes + kernel.bias_bytes)
    weights = matrices * (grid if kernel.resident else kernel.work_items * kernel.blocks)
    z_bytes = 2 * computed * channels  # written once, read for every chunk
    z_traffic = z_bytes * (1 + kernel.chunks) if kernel.z_in_shared else 0
    weights_read = computed // 64 * matrices // 2
    fragments = computed // 16 * (channels // GROUP_WIDTH)
    return (
        Stage(
            "load x and weights",
            "load",
            dram_bytes=2 * problem.pixels * channels + kernel.conv_bytes + matrices + kernel.bias_bytes,
            l2_bytes=x_and_constants + weights // config.cluster,
            shared_bytes=x_and_constants + weights,
        ),
        conv_stage(problem, fragments, fragments // kernel.blocks * (kernel.conv_row_bytes + CONV_PAIR_BYTES // 2)),
        matmul_stage("expand", problem, computed, weights_read + z_traffic, "wgmma"),
        activate_stage(problem, config.sigmoid, computed),
        matmul_stage("project", problem, computed, weights_read, "wgmma"),
        Stage(
            "residual and store y" if problem.residual else "store y",
            "store",
            dram_bytes=y_bytes,
            l2_bytes=y_bytes,
            shared_bytes=4 * y_bytes,
        ),
    )
