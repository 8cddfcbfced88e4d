"""``kgen profile``: the time of each layer of a network on a GPU, beside what the waterline allows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from kgen.cli.options import AsJson, DeviceSpec, Folder, print_json
from kgen.cli.tables import console, table
from kgen.devices import find_device
from kgen.errors import ProblemError

if TYPE_CHECKING:
    from kgen.ncu import Profiler
    from kgen.networks.counted import Call, Counts
    from kgen.networks.profile import Profile, ProfiledLayer, Times

_NCU_LIMIT_S = 600.0


def profile(
    name: Annotated[str, typer.Argument(help="convfirst_tiny, convfirst_small, convfirst_base or convfirst_narrow.")],
    batch: Annotated[int, typer.Option(help="Images.")] = 256,
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    dtype: Annotated[str, typer.Option(help="float16 or bfloat16.")] = "float16",
    device: DeviceSpec = None,
    folder: Folder = None,
    ncu: Annotated[bool, typer.Option("--ncu", help="Also read the GPU's counters, by Nsight Compute.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw it in this .svg, .png or .pdf file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time every layer of a network on a GPU, with random weights, against what the waterline allows."""
    from kgen.networks.counted import Call, count_layers
    from kgen.networks.profile import profile as measure

    target = find_device(device)
    call = Call(name, dtype, batch, size, device, None if folder is None else str(folder))
    profiler = _profiler() if ncu else None
    found = measure(call.load(), batch, size)
    counts = count_layers(call, found.layers, profiler) if profiler is not None else None
    title = f"{name}, batch {batch}, {size}x{size}, {dtype}, on {target.title}"
    if as_json:
        print_json(_document(call, found, counts))
    else:
        _print(title, found, counts)
    if plot is not None:
        from kgen.analysis.profile_plot import draw

        draw(found, title, plot)


def _profiler() -> Profiler:
    from kgen.ncu import Profiler
    from kgen.nvidia_tools import find_tool

    command = find_tool("ncu")
    if command is None:
        raise ProblemError("--ncu needs Nsight Compute, but ncu is not on the PATH; install it, or drop --ncu")
    return Profiler(command, _NCU_LIMIT_S)


def _print(title: str, found: Profile, counts: tuple[Counts, ...] | None) -> None:
    screen = console()
    screen.print(title, soft_wrap=True)
    screen.print(_table(found, counts))
    screen.print(
        f"the layers' {found.total.us:,.1f} us are {found.covered:.1%} of a whole call's {found.call_us:,.1f} us",
        soft_wrap=True,
    )


def _table(found: Profile, counts: tuple[Counts, ...] | None) -> Table:
    headings = ["layer", "us", "share", "efficiency", "attainable", "ideal us", "lost us"]
    headings += [] if counts is None else ["DRAM MB", "plan MB", "tensor M"]
    rows = table(*headings, "problem")
    for number, layer in enumerate(found.layers):
        counted = [] if counts is None else _counted_cells(layer, counts[number])
        rows.add_row(layer.name, *_cells(layer.times, found.share(layer)), *counted, str(layer.program.problem))
    rows.add_section()
    rows.add_row("all", *_cells(found.total, 1.0))
    return rows


def _cells(times: Times, share: float) -> list[str]:
    shares = (share, times.efficiency, times.attainable_efficiency)
    return [_number(times.us), *(f"{one:.1%}" for one in shares), _number(times.ideal_us), _number(times.lost_us)]


def _counted_cells(layer: ProfiledLayer, counts: Counts) -> list[str]:
    instructions = "" if counts.tensor_instructions is None else _number(counts.tensor_instructions / 1e6)
    dram = "" if counts.dram_bytes is None else _number(counts.dram_bytes / 1e6)
    return [dram, _number(layer.program.dram_bytes / 1e6), instructions]


def _number(value: float) -> str:
    return f"{value:,.1f}"


def _document(call: Call, found: Profile, counts: tuple[Counts, ...] | None) -> dict[str, Any]:
    return {
        **asdict(call),
        "call_us": found.call_us,
        "covered": found.covered,
        "total": _figures(found.total, 1.0),
        "layers": [
            {
                "layer": layer.name,
                "problem": layer.program.problem.to_json(),
                "config": layer.program.config.to_json(),
                **_figures(layer.times, found.share(layer)),
                "planned_dram_bytes": layer.program.dram_bytes,
                **({} if counts is None else asdict(counts[number])),
            }
            for number, layer in enumerate(found.layers)
        ],
    }


def _figures(times: Times, share: float) -> dict[str, float]:
    return {
        **asdict(times),
        "share": share,
        "efficiency": times.efficiency,
        "attainable_efficiency": times.attainable_efficiency,
        "lost_us": times.lost_us,
    }
