"""The plan of the cluster kernels: problem + config + device become a tensor-machine program, or a rule's error."""

from __future__ import annotations

from kgen.blocks.convfirst.cluster.geometry import ClusterGeometry
from kgen.blocks.convfirst.cluster.rules import check
from kgen.blocks.convfirst.config import ClusterConfig
from kgen.blocks.convfirst.problem import GROUP_WIDTH, ConvFirst
from kgen.blocks.convfirst.stages import CONV_A_BYTES, activate_stage, conv_stage, matmul_stage
from kgen.blocks.layout import CONV_PAIR_BYTES, ceil_div
from kgen.devices import Device
from kgen.machine import KernelPlan, Program, Stage
from kgen.tensors import TEMPLATE_TYPES

_SUM_THREADS = 128
_STEPS = 16
"""Latencies that a CTA meets one after the other: it loads, convolves, expands and projects, and for each it waits for
other CTAs, reads, computes, and hands on."""


def plan(problem: ConvFirst, config: ClusterConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    main = ClusterGeometry(problem, config, device.shared_per_cta_bytes)
    kernels = [_main_kernel(main, device)]
    if config.hidden_split > 1:
        kernels.append(_sum_kernel(problem, config))
    return Program(
        problem=problem,
        config=config,
        device=device,
        arch=device.arch,
        template=config.template,
        fields={"storage": TEMPLATE_TYPES[problem.dtype], "activation": problem.activation, "sigmoid": config.sigmoid},
        constants={
            "CHANNELS": problem.channels,
            "HIDDEN": problem.hidden,
            "HEIGHT": problem.height,
            "WIDTH": problem.width,
            "RESIDUAL": problem.residual,
            "PIXELS": config.pixels,
            "CLUSTER": config.cluster,
            "HIDDEN_SPLIT": config.hidden_split,
            "WARPS": config.warps,
            "THREADS": main.threads,
            "EXPAND_WARPS_K": config.expand_warps_k,
            "PROJECT_WARPS_K": config.project_warps_k,
            "EARLY": main.early,
            "SUM_THREADS": _SUM_THREADS,
            "SHARED_BYTES": main.shared_bytes,
        },
        kernels=tuple(kernels),
        workspace_bytes=_sums_bytes(problem, config),
        tiles=main.tiles,
        ragged=problem.pixels % config.pixels > 0,
    )


def _sums_bytes(problem: ConvFirst, config: ClusterConfig) -> int:
    """The clusters' parts of y, if there are several."""
    return 0 if config.hidden_split == 1 else 4 * config.hidden_split * problem.pixels * problem.channels


def _main_kernel(main: ClusterGeometry, device: Device) -> KernelPlan:
    by_threads = device.threads_per_sm // main.threads
    return KernelPlan(
        symbol="convfirst_cluster",
        stages=_stages(main),
        grid=main.ctas,
        threads=main.threads,
        shared_bytes=main.shared_bytes,
        work_items=main.ctas,
        steps=_STEPS,
        ctas_per_sm=max(1, min(by_threads, device.shared_per_sm_bytes // (main.shared_bytes + 1024))),
        accumulators=max(main.expand.accumulators, main.project.accumulators),
        begins_early=True,
        cluster=main.config.cluster,
    )


def _stages(main: ClusterGeometry) -> tuple[Stage, ...]:
    problem, config = main.problem, main.config
    channels, hidden = problem.channels, problem.hidden
    computed = main.tiles * 16 * main.expand.m_tiles
    y_bytes = 2 * problem.pixels * channels
    conv_bytes, matrices = channels // 16 * CONV_PAIR_BYTES, 4 * channels * hidden
    biases = 4 * (2 * channels + hidden)
    loads = main.clusters * 2 * main.halo_pixels * channels
    loads += main.ctas * (main.conv_bytes + main.weight_bytes + main.bias_bytes)
    fragments = main.clusters * main.expand.m_tiles * channels // GROUP_WIDTH
    shared_out = main.ctas * 2 * config.pixels * (channels + main.part_hidden)  # z and h, to every CTA of a cluster
    return (
        Stage(
            "load x and weights",
            "load",
            dram_bytes=y_bytes + conv_bytes + matrices + biases,
            l2_bytes=loads,
            shared_bytes=loads,
        ),
        conv_stage(problem, fragments, fragments * (CONV_A_BYTES + CONV_PAIR_BYTES // 2)),
        matmul_stage("expand", problem, computed, main.ctas * main.expand.shared_bytes, "mma"),
        activate_stage(problem, config.sigmoid, main.tiles * config.pixels),
        Stage("share z and h", "store", shared_bytes=shared_out, distributed_bytes=shared_out),
        matmul_stage("project", problem, computed, main.ctas * main.project.shared_bytes, "mma"),
        Stage("store sums", "store", l2_bytes=_sums_bytes(problem, config))
        if config.hidden_split > 1
        else _store_stage(problem, residual_bytes=0),
    )


def _store_stage(problem: ConvFirst, residual_bytes: int) -> Stage:
    """y, and ``residual_bytes`` of x that are read from L2."""
    y_bytes = 2 * problem.pixels * problem.channels
    name = "residual and store y" if problem.residual else "store y"
    return Stage(name, "store", dram_bytes=y_bytes, l2_bytes=y_bytes + residual_bytes)


def _sum_kernel(problem: ConvFirst, config: ClusterConfig) -> KernelPlan:
    items = ceil_div(problem.pixels * problem.channels // 8, _SUM_THREADS)
    return KernelPlan(
        symbol="convfirst_cluster_sum",
        stages=(
            Stage("load sums", "load", l2_bytes=_sums_bytes(problem, config)),
            _store_stage(problem, residual_bytes=2 * problem.pixels * problem.channels if problem.residual else 0),
        ),
        grid=items,
        threads=_SUM_THREADS,
        shared_bytes=32 * _SUM_THREADS * config.hidden_split,
        work_items=items,
        steps=1,
        ctas_per_sm=8,
        accumulators=0,
        begins_early=True,
    )
