"""The convfirst plan: problem + config + device become a tensor-machine program, or a rule's error."""

from __future__ import annotations

from kgen.blocks.convfirst.config import ConvFirstConfig
from kgen.blocks.convfirst.geometry import CONV_PAIR_BYTES, MainGeometry, ProjectGeometry
from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE, ConvFirst
from kgen.blocks.convfirst.rules import check, ctas_per_sm
from kgen.devices import Device
from kgen.machine import KernelPlan, Program, Stage

_MMA_FLOPS = 2 * 16 * 8 * 16
_CONV_STEPS_PER_GROUP = 5
_SPECIAL_PER_SIGMOID = {"exp2": 2, "tanh": 1}
_SIGMOIDS = {"identity": 0, "relu": 0, "silu": 1, "gelu_tanh": 1, "gelu": 0}
_STORAGE = {"float16": "f16", "bfloat16": "bf16"}


def plan(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    check(problem, config, device)
    main = MainGeometry(problem, config)
    project = None if main.fused else ProjectGeometry.of(problem, config)
    workspace = 0 if main.fused else 2 * problem.pixels * problem.hidden
    kernels = [_main_kernel(main, device, workspace)]
    if project is not None:
        kernels.append(_project_kernel(project, config, device, workspace))
    return Program(
        problem=problem,
        config=config,
        device=device,
        template="convfirst.cu.j2",
        fields={
            "boundary": config.boundary,
            "storage": _STORAGE[problem.dtype],
            "activation": problem.activation,
            "sigmoid": config.sigmoid,
            "main_symbol": kernels[0].symbol,
        },
        constants=_constants(main, project),
        kernels=tuple(kernels),
        workspace_bytes=workspace,
    )


def _constants(main: MainGeometry, project: ProjectGeometry | None) -> dict[str, int | bool]:
    problem, config = main.problem, main.config
    constants: dict[str, int | bool] = {
        "CHANNELS": problem.channels,
        "HIDDEN": problem.hidden,
        "HEIGHT": problem.height,
        "WIDTH": problem.width,
        "RESIDUAL": problem.residual,
        "FUSED": main.fused,
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
    if project is not None:
        constants |= {
            "PROJECT_PIXELS": project.pixels,
            "PROJECT_WARPS_M": project.warps_m,
            "PROJECT_WARPS_N": project.warps_n,
            "PROJECT_THREADS": 32 * project.warps,
            "PROJECT_WARPS_K": project.warps_k,
            "PROJECT_CHUNK": project.chunk,
            "PROJECT_STAGES": project.stages,
            "PROJECT_SHARED_BYTES": project.shared_bytes,
        }
    return constants


def _grid(items: int, splits: int, ctas: int, config: ConvFirstConfig, device: Device) -> int:
    """CTAs to launch: one a work item, or as many as fit at once, keeping every split on its own CTAs."""
    if config.grid == "one_shot":
        return items
    return min(items, max(splits, device.sms * ctas // splits * splits))


def _main_kernel(main: MainGeometry, device: Device, workspace: int) -> KernelPlan:
    config = main.config
    ctas = min(config.ctas_per_sm, ctas_per_sm(main.shared_bytes, 32 * main.warps, device))
    grid = _grid(main.items, main.splits, ctas, config, device)
    stages = [_load_stage(main, grid), _conv_stage(main), _expand_stage(main), _activate_stage(main)]
    stages += [_project_stage(main), _store_output_stage(main)] if main.fused else [_store_hidden_stage(main, device)]
    return KernelPlan(
        symbol="convfirst_fused" if main.fused else "convfirst_expand",
        stages=tuple(stages),
        grid=grid,
        threads=32 * main.warps,
        shared_bytes=main.shared_bytes,
        work_items=main.items,
        steps=main.conv_steps + main.hidden_steps + 1,
        ctas_per_sm=ctas,
        accumulators=main.accumulators,
    )


def _load_stage(main: MainGeometry, grid: int) -> Stage:
    problem = main.problem
    halo = main.items * main.halo_pixels * problem.channels * 2
    conv = problem.channels // 16 * CONV_PAIR_BYTES
    hidden = main.hidden_steps * main.hidden_weight_bytes
    loads_of_hidden = grid if main.config.weights == "resident" else main.items
    weights = main.items * conv + loads_of_hidden * hidden
    unique_weights = conv + main.splits * hidden - (main.splits - 1) * _shared_by_splits(main)
    return Stage(
        "load x and weights",
        "load",
        dram_bytes=2 * problem.pixels * problem.channels + unique_weights,
        l2_bytes=halo + weights,
        shared_bytes=halo + weights,
    )


def _shared_by_splits(main: MainGeometry) -> int:
    """Weight bytes that every split reads: fused splits share the expand weights, hidden splits share none."""
    return 2 * main.problem.hidden * main.problem.channels if main.fused else 0


def _conv_stage(main: MainGeometry) -> Stage:
    problem, config = main.problem, main.config
    groups = problem.channels // GROUP_WIDTH
    fragments = config.pixels // 16 * groups
    a_bytes = config.warps_m * groups * main.conv_loads * 512
    b_bytes = config.warps_m * groups // 2 * CONV_PAIR_BYTES
    z_bytes = 2 * config.pixels * problem.channels
    return Stage(
        "grouped conv",
        "conv",
        flops=2 * problem.pixels * problem.channels * GROUP_WIDTH * KERNEL_SIZE**2,
        issued_flops=main.items * fragments * _CONV_STEPS_PER_GROUP * _MMA_FLOPS,
        shared_bytes=main.items * (a_bytes + b_bytes + z_bytes),
    )


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
    special = elements * _SIGMOIDS[main.problem.activation] * _SPECIAL_PER_SIGMOID[main.config.sigmoid]
    return Stage(
        "activation", "activate", special=special, shared_bytes=2 * elements if main.hidden_in_shared else 0
    )


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


def _store_output_stage(main: MainGeometry) -> Stage:
    return _output_stage(main.problem, main.items * main.config.pixels * main.outputs_per_item)


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


def _store_hidden_stage(main: MainGeometry, device: Device) -> Stage:
    hidden_bytes = 2 * main.problem.pixels * main.problem.hidden
    staged = 2 * main.items * main.config.pixels * main.hidden_per_item
    return Stage(
        "store hidden",
        "store",
        dram_bytes=_spilled_to_dram(hidden_bytes, device),
        l2_bytes=hidden_bytes,
        shared_bytes=staged,
    )


def _spilled_to_dram(workspace: int, device: Device) -> int:
    """Hidden bytes that reach DRAM: none while the workspace stays in half of L2 between the two kernels."""
    return 0 if workspace <= device.l2_bytes // 2 else workspace


def _project_kernel(
    project: ProjectGeometry, config: ConvFirstConfig, device: Device, workspace: int
) -> KernelPlan:
    problem = project.problem
    ctas = max(1, ctas_per_sm(project.shared_bytes, 32 * project.warps, device))
    weight_bytes = 2 * problem.hidden * project.outputs
    hidden_bytes = 2 * project.pixels * problem.hidden
    x_bytes = 2 * problem.pixels * problem.channels if problem.residual else 0
    loads = project.items * (hidden_bytes + weight_bytes)
    load = Stage(
        "load hidden and weights",
        "load",
        dram_bytes=_spilled_to_dram(workspace, device) + 2 * problem.hidden * problem.channels + x_bytes,
        l2_bytes=loads,
        shared_bytes=loads,
    )
    matmul = Stage(
        "project",
        "matmul",
        flops=2 * problem.pixels * problem.channels * problem.hidden,
        issued_flops=project.items * 2 * project.pixels * problem.hidden * project.outputs,
        shared_bytes=project.items * (project.warps_n * hidden_bytes + project.warps_m * weight_bytes),
    )
    return KernelPlan(
        symbol="convfirst_project",
        stages=(load, matmul, _output_stage(problem, project.items * project.pixels * project.outputs)),
        grid=_grid(project.items, config.out_split, ctas, config, device),
        threads=32 * project.warps,
        shared_bytes=project.shared_bytes,
        work_items=project.items,
        steps=project.steps,
        ctas_per_sm=ctas,
        accumulators=project.accumulators,
    )
