"""The plan of the portable kernels: problem + config + device become a tensor-machine program, or a rule's error."""

from __future__ import annotations

from dataclasses import replace

from kgen.blocks.activations import special_operations
from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.portable.geometry import PROJECT, MainGeometry, pointwise_kernels
from kgen.blocks.convfirst.portable.rules import check
from kgen.blocks.convfirst.problem import GROUP_WIDTH, ConvFirst
from kgen.blocks.convfirst.stages import conv_stage
from kgen.blocks.layout import CONV_PAIR_BYTES
from kgen.blocks.pointwise import PointwiseGeometry, pointwise_stages
from kgen.blocks.resources import ctas_per_sm
from kgen.devices import Device
from kgen.machine import KernelPlan, Program, Stage
from kgen.tensors import TEMPLATE_TYPES


def plan(problem: ConvFirst, config: PortableConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    main = MainGeometry(problem, config)
    layers = pointwise_kernels(problem, config)
    z_bytes, hidden_bytes = 2 * problem.pixels * problem.channels, 2 * problem.pixels * problem.hidden
    workspace = (hidden_bytes if layers else 0) + (z_bytes if main.conv_only else 0)
    in_dram = workspace > device.l2_bytes // 2  # else it stays in L2 between the kernels
    kernels = [_main_kernel(main, device, in_dram)]
    kernels += [_pointwise_kernel(layer, problem, config, device, in_dram) for layer in layers]
    return Program(
        problem=problem,
        config=config,
        device=device,
        arch=device.arch,
        template=config.template,
        fields={
            "boundary": config.boundary,
            "storage": TEMPLATE_TYPES[problem.dtype],
            "activation": problem.activation,
            "sigmoid": config.sigmoid,
            "main_symbol": kernels[0].symbol,
        },
        constants=_constants(main, layers),
        kernels=tuple(kernels),
        workspace_bytes=workspace,
        tiles=main.tiles,
        ragged=problem.batch * problem.height % config.tile_h > 0 or problem.width % config.tile_w > 0,
    )


def _constants(main: MainGeometry, layers: tuple[PointwiseGeometry, ...]) -> dict[str, int | bool]:
    problem, config = main.problem, main.config
    constants: dict[str, int | bool] = {
        "CHANNELS": problem.channels,
        "HIDDEN": problem.hidden,
        "HEIGHT": problem.height,
        "WIDTH": problem.width,
        "RESIDUAL": problem.residual,
        "FUSED": main.fused,
        "CONV_ONLY": main.conv_only,
        "TILE_H": config.tile_h,
        "TILE_W": config.tile_w,
        "PIXELS": config.pixels,
        "WARPS_M": config.warps_m,
        "WARPS_N": config.warps_n,
        "THREADS": 32 * main.warps,
        "CTAS_PER_SM": config.ctas_per_sm,
        "CHANNEL_CHUNK": config.channel_chunk,
        "HIDDEN_CHUNK": config.hidden_chunk,
        "OUT_SPLIT": config.out_split,
        "HIDDEN_SPLIT": config.hidden_split,
        "STAGES": config.stages,
        "RESIDENT": config.weights == "resident",
        "CONV_BY_ROW": config.conv_reuse == "rows",
        "Z_IN_REGISTERS": config.conv_output == "registers",
        "SHARED_BYTES": main.shared_bytes,
    }
    if layers:
        project = layers[-1]
        constants |= {
            "PROJECT_PIXELS": project.pixels,
            "PROJECT_WARPS_M": project.warps_m,
            "PROJECT_WARPS_N": project.warps_n,
            "PROJECT_WARPS_K": project.warps_k,
            "PROJECT_CHUNK": project.chunk,
            "PROJECT_STAGES": project.stages,
            "PROJECT_SHARED_BYTES": project.shared_bytes,
        }
    if main.conv_only:
        constants["EXPAND_SHARED_BYTES"] = layers[0].shared_bytes
    return constants


def _grid(items: int, splits: int, ctas: int, config: PortableConfig, device: Device) -> int:
    """CTAs to launch: one a work item, or as many as fit at once, keeping every split on its own CTAs."""
    if config.grid == "one_shot":
        return items
    return min(items, max(splits, device.sms * ctas // splits * splits))


def _main_kernel(main: MainGeometry, device: Device, in_dram: bool) -> KernelPlan:
    config = main.config
    ctas = min(config.ctas_per_sm, ctas_per_sm(main.shared_bytes, 32 * main.warps, device))
    grid = _grid(main.items, main.splits, ctas, config, device)
    stages = [_load_stage(main, grid), _conv_stage(main)]
    if main.conv_only:
        stages += [_workspace_stage("store z", main, main.problem.channels, main.channels_per_item, in_dram)]
    else:
        stages += [_expand_stage(main), _activate_stage(main)]
    if main.fused:
        staged = main.items * main.config.pixels * main.outputs_per_item
        stages += [_project_stage(main), _output_stage(main.problem, staged)]
    elif not main.conv_only:
        stages += [_workspace_stage("store hidden", main, main.problem.hidden, main.hidden_per_item, in_dram)]
    return KernelPlan(
        symbol=main.symbol,
        stages=tuple(stages),
        grid=grid,
        threads=32 * main.warps,
        shared_bytes=main.shared_bytes,
        work_items=main.items,
        steps=main.conv_steps + (0 if main.conv_only else main.hidden_steps + 1),
        ctas_per_sm=ctas,
        accumulators=main.accumulators,
    )


def _load_stage(main: MainGeometry, grid: int) -> Stage:
    problem = main.problem
    halo = main.items * main.halo_pixels * main.channels_per_item * 2
    conv = main.channels_per_item // 16 * CONV_PAIR_BYTES
    hidden = main.hidden_steps * main.hidden_weight_bytes
    loads_of_hidden = grid if main.config.weights == "resident" else main.items
    weights = main.items * conv + loads_of_hidden * hidden
    unique_hidden = main.splits * hidden - (main.splits - 1) * _shared_by_splits(main)
    return Stage(
        "load x" if main.conv_only else "load x and weights",
        "load",
        dram_bytes=2 * problem.pixels * problem.channels + problem.channels // 16 * CONV_PAIR_BYTES + unique_hidden,
        l2_bytes=halo + weights,
        shared_bytes=halo + weights,
    )


def _shared_by_splits(main: MainGeometry) -> int:
    """Weight bytes that every split reads: fused splits share the expand weights, hidden splits share none."""
    return 2 * main.problem.hidden * main.problem.channels if main.fused else 0


def _conv_stage(main: MainGeometry) -> Stage:
    problem, config = main.problem, main.config
    groups = main.channels_per_item // GROUP_WIDTH
    fragments = config.pixels // 16 * groups
    a_bytes = config.warps_m * groups * main.conv_loads * 512
    b_bytes = config.warps_m * groups // 2 * CONV_PAIR_BYTES
    z_bytes = 2 * config.pixels * main.channels_per_item
    return conv_stage(problem, main.items * fragments, main.items * (a_bytes + b_bytes + z_bytes))


def _expand_stage(main: MainGeometry) -> Stage:
    problem, config = main.problem, main.config
    reads_of_z = 1 if config.conv_output == "registers" else main.hidden_steps
    a_bytes = reads_of_z * config.warps_n * 2 * config.pixels * problem.channels
    b_bytes = config.warps_m * 2 * problem.channels * main.hidden_per_item
    return Stage(
        "expand",
        "matmul",
        flops=2 * problem.pixels * problem.channels * problem.hidden,
        issued_flops=main.items * 2 * config.pixels * problem.channels * main.hidden_per_item,
        shared_bytes=main.items * (a_bytes + b_bytes),
    )


def _activate_stage(main: MainGeometry) -> Stage:
    elements = main.items * main.config.pixels * main.hidden_per_item
    special = special_operations(main.problem.activation, main.config.sigmoid, elements)
    return Stage("activation", "activate", special=special, shared_bytes=2 * elements if main.hidden_in_shared else 0)


def _project_stage(main: MainGeometry) -> Stage:
    problem, config = main.problem, main.config
    a_bytes = config.warps_n * 2 * config.pixels * problem.hidden if main.hidden_in_shared else 0
    b_bytes = config.warps_m * 2 * problem.hidden * main.outputs_per_item
    return Stage(
        "project",
        "matmul",
        flops=2 * problem.pixels * problem.channels * problem.hidden,
        issued_flops=main.items * 2 * config.pixels * problem.hidden * main.outputs_per_item,
        shared_bytes=main.items * (a_bytes + b_bytes),
    )


def _output_stage(problem: ConvFirst, staged_elements: int) -> Stage:
    """Residual read and output write; the residual's x is in L2 from the conv's reads, or comes from DRAM once."""
    y_bytes = 2 * problem.pixels * problem.channels
    return Stage(
        "residual and store y" if problem.residual else "store y",
        "store",
        dram_bytes=y_bytes,
        l2_bytes=y_bytes * (2 if problem.residual else 1),
        shared_bytes=4 * staged_elements,
    )


def _workspace_stage(name: str, main: MainGeometry, channels: int, per_item: int, in_dram: bool) -> Stage:
    """Write an intermediate tensor of ``channels`` channels, ``per_item`` of them by each work item."""
    tensor_bytes = 2 * main.problem.pixels * channels
    return Stage(
        name,
        "store",
        dram_bytes=tensor_bytes if in_dram else 0,
        l2_bytes=tensor_bytes,
        shared_bytes=2 * main.items * main.config.pixels * per_item,
    )


def _pointwise_kernel(
    layer: PointwiseGeometry, problem: ConvFirst, config: PortableConfig, device: Device, in_dram: bool
) -> KernelPlan:
    # It could begin early on sm_90, but at batch 1 that cost 1.5 us of 10 to 15: see docs/performance.md.
    ctas = max(1, ctas_per_sm(layer.shared_bytes, 32 * layer.warps, device))
    name = layer.symbol.removeprefix("convfirst_")
    load, matmul = pointwise_stages(name, layer, 2 * problem.pixels * layer.inputs if in_dram else 0)
    outputs = layer.items * layer.pixels * layer.outputs
    last = layer.symbol == PROJECT
    return KernelPlan(
        symbol=layer.symbol,
        stages=(load, matmul, *_pointwise_ends(layer, problem, config, outputs, in_dram, last)),
        grid=_grid(layer.items, layer.split, ctas, config, device),
        threads=32 * layer.warps,
        shared_bytes=layer.shared_bytes,
        work_items=layer.items,
        steps=layer.steps,
        ctas_per_sm=ctas,
        accumulators=layer.accumulators,
    )


def _pointwise_ends(
    layer: PointwiseGeometry, problem: ConvFirst, config: PortableConfig, outputs: int, in_dram: bool, last: bool
) -> tuple[Stage, ...]:
    """What follows a pointwise kernel's matmul: activation and hidden tensor, or residual and y."""
    if last:
        x_bytes = 2 * problem.pixels * problem.channels if problem.residual else 0
        end = _output_stage(problem, outputs)
        return (replace(end, dram_bytes=end.dram_bytes + x_bytes),)  # x left L2 behind, unlike in the fused kernel
    tensor_bytes = 2 * problem.pixels * layer.channels
    store = Stage(
        "store hidden",
        "store",
        dram_bytes=tensor_bytes if in_dram else 0,
        l2_bytes=tensor_bytes,
        shared_bytes=4 * outputs,
    )
    return (
        Stage("activation", "activate", special=special_operations(problem.activation, config.sigmoid, outputs)),
        store,
    )
