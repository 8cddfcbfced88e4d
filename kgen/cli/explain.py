"""``kgen explain``: the plan of a config as a table, and the waterline analysis of it."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table

from kgen import machine
from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.cli.choose import choose_config
from kgen.cli.options import AsJson, ConfigText, DeviceSpec, Folder, config_line, print_json
from kgen.cli.problems import for_every_family
from kgen.cli.tables import console, table
from kgen.devices import find_device
from kgen.machine import KernelPlan, Program

_COLUMNS = ("flops", "issued_flops", "special", "dram_bytes", "l2_bytes", "shared_bytes")

explain_app = typer.Typer(help="Show what a block's kernels do, and how fast they could be at best.")


@for_every_family(explain_app)
def _explain(
    problem: KernelProblem,
    config: ConfigText = None,
    device: DeviceSpec = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Explain its kernels: of --config, else of the tuned config, else of the default one."""
    target = find_device(device)
    chosen = choose_config(problem, target, config, folder)
    program: Program = family(problem.family).plan(problem, chosen.config, target)
    figures = _figures(program)
    if chosen.measured:
        figures |= {"measured_us": chosen.measured.median_us, "measured_efficiency": chosen.measured.efficiency}
    if as_json:
        print_json(
            {
                "problem": problem.to_json(),
                "device": target.name,
                "origin": chosen.origin,
                "config": chosen.config.to_json(),
                "kernels": [asdict(kernel) for kernel in program.kernels],
                "workspace_bytes": program.workspace_bytes,
                **figures,
            }
        )
        return
    screen = console()
    screen.print(f"{problem} on {target.title}, config from {chosen.origin}", soft_wrap=True)
    screen.print(config_line(chosen.config), soft_wrap=True)
    for kernel in program.kernels:
        screen.print(_launch_line(kernel), style="bold", soft_wrap=True)
        screen.print(_kernel_table(kernel))
    screen.print(_figures_table(figures))


def _figures(program: Program) -> dict[str, float]:
    """Waterline analysis of the program, and the latency that the performance model predicts."""
    from kgen.model import predict_us

    return {
        "flops": program.problem.flops,
        "dram_bytes": program.dram_bytes,
        "min_dram_bytes": program.problem.min_dram_bytes,
        "ideal_us": machine.ideal_us(program.problem.flops, program.device),
        "intensity_flop_per_byte": machine.intensity(program),
        "waterline_flop_per_byte": machine.waterline(program.device),
        "attainable_us": machine.attainable_us(program),
        "attainable_efficiency": machine.attainable_efficiency(program),
        "modelled_us": predict_us(program),
    }


def _launch_line(kernel: KernelPlan) -> str:
    return (
        f"{kernel.symbol}: {kernel.grid} CTAs x {kernel.threads} threads, {kernel.ctas_per_sm} CTAs an SM, "
        f"{kernel.shared_bytes} bytes of shared memory, {kernel.work_items} work items of {kernel.steps} steps"
    )


def _kernel_table(kernel: KernelPlan) -> Table:
    rows = table("stage", "MFLOP", "issued MFLOP", "special M", "DRAM KB", "L2 KB", "shared KB")
    for stage in kernel.stages:
        rows.add_row(stage.name, *(_scaled(name, getattr(stage, name)) for name in _COLUMNS))
    rows.add_section()
    rows.add_row("total", *(_scaled(name, kernel.total(name)) for name in _COLUMNS))
    return rows


def _scaled(name: str, value: int) -> str:
    """Operations in millions, bytes in thousands; nothing for zero."""
    return f"{value / (1e3 if name.endswith('bytes') else 1e6):,.1f}" if value else ""


def _figures_table(figures: dict[str, float]) -> Table:
    rows = table("waterline", "")
    rows.add_row("ideal latency F/P", f"{figures['ideal_us']:.2f} us")
    rows.add_row("intensity F/D", f"{figures['intensity_flop_per_byte']:.0f} FLOP/byte")
    rows.add_row("waterline P/B", f"{figures['waterline_flop_per_byte']:.0f} FLOP/byte")
    rows.add_row("attainable latency", f"{figures['attainable_us']:.2f} us")
    rows.add_row("attainable efficiency", f"{figures['attainable_efficiency']:.1%}")
    if "measured_us" in figures:
        rows.add_row("modelled latency", f"{figures['modelled_us']:.1f} us")
        rows.add_row("measured latency", f"{figures['measured_us']:.1f} us")
        rows.add_row("measured efficiency", f"{figures['measured_efficiency']:.1%}")
    else:
        rows.add_row("modelled latency (not measured)", f"{figures['modelled_us']:.1f} us")
    return rows
