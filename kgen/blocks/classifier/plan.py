"""The plan of a classifier: problem + config + device become a tensor-machine program, or a rule's error."""

from __future__ import annotations

from kgen.blocks.classifier.config import SIDE, ClassifierConfig
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.classifier.weights import padded_classes
from kgen.blocks.layout import ceil_div, pitch_bytes
from kgen.blocks.requirements import Rule, check_side, divides, multiple, positive, require
from kgen.blocks.resources import check_resources, ctas_per_sm
from kgen.devices import Device
from kgen.machine import KernelPlan, Program, Stage
from kgen.tensors import TEMPLATE_TYPES

ROWS = 16
"""Of an mma's left operand: as many images at most."""


def plan(problem: Classifier, config: ClassifierConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    tiles = ceil_div(problem.batch, config.images)
    return Program(
        problem=problem,
        config=config,
        device=device,
        arch=device.arch,
        template=config.template,
        fields={"storage": TEMPLATE_TYPES[problem.dtype]},
        constants={
            "PIXELS": problem.pixels,
            "CHANNELS": problem.channels,
            "CLASSES": problem.classes,
            "IMAGES": config.images,
            "SLICE": config.slice,
            "CHUNK": config.chunk,
            "WARPS_N": config.warps_n,
            "WARPS_K": config.warps_k,
            "PARTS": config.parts,
            "STAGES": config.stages,
            "THREADS": 32 * config.warps_n * config.warps_k,
            "SHARED_BYTES": _shared_bytes(problem, config),
        },
        kernels=(_kernel(problem, config, device, tiles),),
        workspace_bytes=0,
        tiles=tiles,
        ragged=tiles * config.images > problem.batch,
    )


def check(problem: Classifier, config: ClassifierConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    check_side(config.boundary, SIDE)
    for name, value in config.to_json().items():
        if name != "boundary":
            positive(name, value)
    require(
        config.images <= ROWS,
        "images",
        f"images must be at most {ROWS}, the rows of a multiplication, but got images={config.images}; use {ROWS}",
    )
    require(
        config.stages >= 2,
        "stages",
        f"stages must be >= 2, one slot read while another fills, but got stages={config.stages}; use 2, 3 or 4",
    )
    for rule in RULES:
        rule(problem, config, device)


def _check_slices(problem: Classifier, config: ClassifierConfig, device: Device) -> None:
    multiple("slice", config.slice, ROWS)
    multiple("chunk", config.chunk, 16 * config.warps_n)
    divides("chunk", config.chunk, config.slice, "slice")
    divides("warps_k", config.warps_k, problem.channels // 16, "channels / 16")
    require(
        config.slice < padded_classes(problem) + config.chunk,
        "slice",
        f"slice must be at most {padded_classes(problem)} classes, in whole chunks of {config.chunk}, but got "
        f"slice={config.slice}; use less",
    )


def _check_resources(problem: Classifier, config: ClassifierConfig, device: Device) -> None:
    shared = _shared_bytes(problem, config)
    check_resources("", config.warps_n * config.warps_k, shared, _accumulators(config), 1, device)


RULES: tuple[Rule, ...] = (_check_slices, _check_resources)
"""What ties the fields of a config whose values are each legal on their own."""


def _shared_bytes(problem: Classifier, config: ClassifierConfig) -> int:
    parts = config.parts * config.images * problem.channels * 4
    logits = (config.warps_k - 1) * 2 * (config.chunk // 16) * 32 * 16
    ring = config.stages * config.chunk * problem.channels * 2
    rows = min(ROWS, config.images + 1)  # one of zeros for all beyond the images
    return ring + rows * pitch_bytes(problem.channels) + max(parts, logits)


def _accumulators(config: ClassifierConfig) -> int:
    return max(8 * (config.chunk // 16 // config.warps_n) + 8, 8 + 32)  # 32: what eight pixels on their way take


def _kernel(problem: Classifier, config: ClassifierConfig, device: Device, tiles: int) -> KernelPlan:
    channels, shared = problem.channels, _shared_bytes(problem, config)
    threads = 32 * config.warps_n * config.warps_k
    slices = ceil_div(padded_classes(problem), config.slice)
    items, padded = tiles * slices, slices * config.slice
    weights = items * config.slice * channels * 2
    pooled = items * config.images * problem.pixels * channels * 2
    sums = items * config.images * channels * 4 * config.parts
    return KernelPlan(
        symbol="classifier",
        stages=(
            Stage(
                "load and sum x",
                "load",
                flops=problem.batch * problem.pixels * channels,
                dram_bytes=problem.x.bytes,
                l2_bytes=pooled,
                shared_bytes=2 * sums,
            ),
            Stage(
                "load weights",
                "load",
                dram_bytes=2 * channels * problem.classes + 4 * problem.classes,
                l2_bytes=weights,
                shared_bytes=weights,
            ),
            Stage(
                "matmul",
                "matmul",
                flops=2 * problem.batch * channels * problem.classes,
                issued_flops=tiles * 2 * ROWS * channels * padded,
                shared_bytes=weights + items * config.slice // config.chunk * config.warps_n * ROWS * channels * 2,
            ),
            Stage("store y", "store", dram_bytes=problem.y.bytes, l2_bytes=problem.y.bytes),
        ),
        grid=items,
        threads=threads,
        shared_bytes=shared,
        work_items=items,
        steps=config.slice // config.chunk + 1,
        ctas_per_sm=max(1, ctas_per_sm(shared, threads, device)),
        accumulators=_accumulators(config),
        begins_early=device.has_clusters,
    )
