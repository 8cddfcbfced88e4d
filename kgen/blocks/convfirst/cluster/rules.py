"""The rules a cluster config of convfirst must obey; each failure names its rule, the values and the next step."""

from __future__ import annotations

from typing import get_args

from kgen.blocks.activations import Sigmoid
from kgen.blocks.convfirst.cluster.geometry import ClusterGeometry, PartialMatmul
from kgen.blocks.convfirst.config import ClusterConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.requirements import storage_matmuls
from kgen.blocks.layout import ceil_div
from kgen.blocks.requirements import Rule, divides, multiple, one_of, positive, require
from kgen.devices import Device

MAX_CLUSTER = 8
"""CTAs of the largest cluster that every GPU with clusters runs (CUDA programming guide)."""
MAX_WARPS = 16
MAX_HIDDEN_SPLIT = 16
"""Clusters of a tile; the kernel that adds their sums has all parts of an output on their way at once."""
_REGISTER_OVERHEAD = 24
"""Registers a thread needs beside the accumulators at the least; what the compiler then spills, its log tells."""


def check(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    _check_values(config)
    for rule in RULES:
        rule(problem, config, device)


def _check_device(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    storage_matmuls(problem, config.boundary)
    require(
        device.has_clusters,
        "arch",
        f"clusters need compute capability 9.0 or later, but {device.name} is {device.arch}; use another boundary",
    )


def _check_shared(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    needed = ClusterGeometry(problem, config, device.shared_per_cta_bytes).shared_bytes
    require(
        needed <= device.shared_per_cta_bytes,
        "shared_memory",
        f"a CTA's shared memory must be at most {device.shared_per_cta_bytes} bytes on {device.name}, but the config "
        f"needs {needed}; use fewer pixels, larger clusters or a larger hidden_split",
    )


def _check_values(config: ClusterConfig) -> None:
    for name, value in config.to_json().items():
        if name not in ("boundary", "sigmoid"):
            positive(name, value)
    one_of("sigmoid", config.sigmoid, get_args(Sigmoid))
    require(
        2 <= config.cluster <= MAX_CLUSTER,
        "cluster",
        f"cluster must be from 2 to {MAX_CLUSTER} CTAs, but got cluster={config.cluster}; use 2, 4 or 8",
    )


def _check_slices(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    require(
        config.hidden_split <= MAX_HIDDEN_SPLIT,
        "hidden_split",
        f"hidden_split must be at most {MAX_HIDDEN_SPLIT}, but got hidden_split={config.hidden_split}; use 8 or 16",
    )
    divides("cluster", config.cluster, problem.channels // 16, "channels / 16")
    divides("hidden_split", config.hidden_split, problem.hidden // 16, "hidden / 16")
    divides("cluster", config.cluster, problem.hidden // config.hidden_split // 16, "hidden / hidden_split / 16")


def _check_warps(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    multiple("warps", config.warps, ceil_div(config.pixels, 16))
    require(
        config.warps <= MAX_WARPS,
        "warps",
        f"warps must be at most {MAX_WARPS}, but got warps={config.warps}; use 4 or 8, with few pixels",
    )


def _check_expand(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    kernel = ClusterGeometry(problem, config, device.shared_per_cta_bytes)
    _check_matmul("expand", kernel.expand, config.cluster, device)


def _check_project(problem: ConvFirst, config: ClusterConfig, device: Device) -> None:
    kernel = ClusterGeometry(problem, config, device.shared_per_cta_bytes)
    _check_matmul("project", kernel.project, config.cluster, device)


def _check_matmul(name: str, matmul: PartialMatmul, cluster: int, device: Device) -> None:
    divides(f"{name}_warps_k", matmul.warps_k, matmul.warps, "warps")
    slice_blocks = matmul.inputs // cluster // 16
    require(
        cluster % matmul.warps_k == 0
        or (matmul.warps_k % cluster == 0 and slice_blocks % (matmul.warps_k // cluster) == 0),
        f"{name}_warps_k",
        f"{name}_warps_k must divide cluster, {cluster}, or be a multiple of it by a divisor of {slice_blocks}, the "
        f"blocks of 16 inputs that a CTA makes, but got {name}_warps_k={matmul.warps_k}; use 1 or {cluster}",
    )
    limit = min(255, device.registers_per_sm // (32 * matmul.warps))
    needed = matmul.accumulators + _REGISTER_OVERHEAD
    require(
        needed <= limit,
        "registers",
        f"a thread has at most {limit} registers with {matmul.warps} warps, but {name} needs about {needed}; "
        "use fewer pixels, larger clusters or a larger hidden_split",
    )


RULES: tuple[Rule, ...] = (_check_device, _check_slices, _check_warps, _check_expand, _check_project, _check_shared)
"""What ties the fields of a config whose values are each legal on their own."""
