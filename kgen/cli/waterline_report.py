"""What ``kgen waterline`` prints: a table or a JSON document of kernel sequences."""

from __future__ import annotations

import sys
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

from rich.table import Table

from kgen.analysis.kernels import Kernel, Sequence
from kgen.analysis.models import ModelAnalysis
from kgen.cli.options import print_json
from kgen.cli.tables import console, table
from kgen.devices import Device
from kgen.machine import waterline


def report(
    title: str,
    device: Device,
    sequences: Items[Sequence],
    plot: Path | None,
    as_json: bool,
    model: ModelAnalysis | None = None,
) -> None:
    """Print sequences as tables or as JSON, and draw them in ``plot``; unknown operators are listed on stderr.

    Raises:
        ProblemError: the plot cannot be drawn or saved.
    """
    if plot is not None:
        from kgen.analysis.waterline_plot import save_plot

        save_plot(plot, f"{title}, {device.title}", sequences)
    if as_json:
        print_json(_document(title, device, sequences, model))
    else:
        _print(title, device, sequences, model)
    if model is not None and model.unknown:
        names = ", ".join(f"{op} ({times})" for op, times in model.unknown.items())
        print(f"kgen: these operators are not known and count as bytes only: {names}", file=sys.stderr)


def _print(title: str, device: Device, sequences: Items[Sequence], model: ModelAnalysis | None) -> None:
    screen = console()
    screen.print(f"{title} on {device.title}: waterline {waterline(device):.0f} FLOP/byte", soft_wrap=True)
    for sequence in sequences:
        screen.print(f"{sequence.name}, kernels: {sequence.launches}", style="bold", soft_wrap=True)
        screen.print(_kernels_table(sequence))
        screen.print(f"attainable efficiency {sequence.attainable_efficiency:.1%}", soft_wrap=True)
    if model is not None:
        screen.print(f"{model.macs / 1e9:.3f} G multiply-accumulates an image; fusing residual blocks:", soft_wrap=True)
        screen.print(_savings_table(model))


def _kernels_table(sequence: Sequence) -> Table:
    """Figures of one launch each, but the share, which is of all launches."""
    rows = table(
        "kernel", "times", "MFLOP", "MB", "FLOP/byte", "ideal us", "attainable us", "share", "L2 us", "measured us"
    )
    for kernel in sequence.kernels:
        rows.add_row(kernel.name, str(kernel.times), *_cells(_figures(kernel, sequence)))
    rows.add_section()
    rows.add_row("all", "", *_cells(_totals(sequence)))
    return rows


def _savings_table(model: ModelAnalysis) -> Table:
    rows = table("block", "kernels", "layer by layer us", "fused us", "saves us", "saves MB")
    for saving in model.savings:
        latencies = saving.layered.attainable_us, saving.fused.attainable_us, saving.us
        rows.add_row(saving.name, str(saving.layered.launches), *map(_number, latencies), _number(saving.bytes / 1e6))
    rows.add_section()
    saved_us, saved_bytes = (sum(getattr(saving, name) for saving in model.savings) for name in ("us", "bytes"))
    rows.add_row("all", "", "", "", _number(saved_us), _number(saved_bytes / 1e6))
    return rows


def _figures(kernel: Kernel, sequence: Sequence) -> dict[str, Any]:
    device = sequence.device
    return {
        "flops": kernel.flops,
        "dram_bytes": kernel.dram_bytes,
        "intensity_flop_per_byte": kernel.intensity,
        "ideal_us": kernel.ideal_us(device),
        "attainable_us": kernel.attainable_us(device),
        "share": sequence.share(kernel),
        "l2_attainable_us": kernel.l2_attainable_us(device),
        "measured_us": kernel.measured_us,
    }


def _totals(sequence: Sequence) -> dict[str, Any]:
    return {
        "flops": sequence.flops,
        "dram_bytes": sequence.dram_bytes,
        "intensity_flop_per_byte": sequence.flops / sequence.dram_bytes,
        "ideal_us": sequence.ideal_us,
        "attainable_us": sequence.attainable_us,
        "share": 1.0,
        "l2_attainable_us": sequence.l2_attainable_us,
        "measured_us": sequence.measured_us,
    }


def _cells(figures: dict[str, Any]) -> list[str]:
    numbers = figures | {"flops": figures["flops"] / 1e6, "dram_bytes": figures["dram_bytes"] / 1e6}
    return [f"{value:.1%}" if name == "share" else _number(value) for name, value in numbers.items()]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _document(title: str, device: Device, sequences: Items[Sequence], model: ModelAnalysis | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "title": title,
        "device": device.name,
        "waterline_flop_per_byte": waterline(device),
        "sequences": [
            {
                "name": sequence.name,
                "kernels": [
                    {"name": kernel.name, "times": kernel.times, **_figures(kernel, sequence)}
                    for kernel in sequence.kernels
                ],
                "total": _totals(sequence) | {"attainable_efficiency": sequence.attainable_efficiency},
            }
            for sequence in sequences
        ],
    }
    return document if model is None else document | _model_document(model)


def _model_document(model: ModelAnalysis) -> dict[str, Any]:
    blocks = [
        {
            "name": saving.name,
            "kernels": saving.layered.launches,
            "layered_us": saving.layered.attainable_us,
            "fused_us": saving.fused.attainable_us,
            "saved_us": saving.us,
            "saved_bytes": saving.bytes,
        }
        for saving in model.savings
    ]
    return {"macs": model.macs, "blocks": blocks, "unknown_operators": model.unknown}
