"""``kgen devices`` and ``kgen show``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.table import Table

from kgen.cli.options import AsJson, Folder, print_json
from kgen.cli.tables import console, pareto_table, table
from kgen.devices import Device, known_devices, local_devices
from kgen.tuned_file import TunedFile


def devices(as_json: AsJson = False) -> None:
    """List the GPUs of this machine and those known by datasheet."""
    every = (*local_devices(), *known_devices())
    if as_json:
        print_json([_device_json(device) for device in every])
        return
    rows = table("device", "title", "arch", "SMs", "MHz", "TFLOP/s", "GB/s", "L2 MiB", "KB/CTA")
    for device in every:
        rows.add_row(
            _spec(device),
            device.title,
            device.arch,
            str(device.sms),
            str(device.clock_mhz),
            f"{device.peak_flops / 1e12:.1f}",
            f"{device.dram_bytes_per_s / 1e9:.0f}",
            f"{device.l2_bytes / 2**20:g}",
            f"{device.shared_per_cta_bytes // 1024}",
        )
    screen = console()
    screen.print(rows)
    for device in every:
        screen.print(f"{_spec(device)}: {device.source}", soft_wrap=True)


def show(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the tuned configs of --folder, of the user and of the package."""
    from kgen.env import user_tuned_dir
    from kgen.tuned import load_file, packaged_dir

    places = dict.fromkeys(place for place in (folder, user_tuned_dir(), packaged_dir()) if place is not None)
    files = [(path, load_file(path)) for place in places for path in sorted(place.glob("*/*.json"))]
    if as_json:
        print_json([{"path": str(path), **json.loads(file.dump())} for path, file in files])
        return
    screen = console()
    for path, file in files:
        screen.print(f"{file.environment.gpu}: {path}", soft_wrap=True)
        screen.print(_entries_table(file))
        for entry in file.entries:
            if entry.pareto is not None:
                screen.print(f"Pareto set by {entry.objective} of {entry.problem}:", soft_wrap=True)
                screen.print(pareto_table(entry.pareto))
    if not files:
        where = " or ".join(str(place) for place in places)
        screen.print(f"no tuned configs in {where}; make one with kgen tune", soft_wrap=True)


def _entries_table(file: TunedFile) -> Table:
    from kgen.render import template_digest

    rows = table(
        *("problem", "us", "error", "how", "efficiency", "attainable", "trials"),
    )
    for entry in file.entries:
        measured = entry.measured
        latency_us = measured.median_us if measured else entry.modelled_us
        error = measured.error if measured else entry.error
        how = "measured" if measured else "modelled"
        how += f", for {entry.objective}" if entry.objective else ""
        fresh = entry.template_digest == template_digest(entry.config.template)
        rows.add_row(
            str(entry.problem),
            "" if latency_us is None else f"{latency_us:.1f}",
            "" if error is None else f"{error:.2g}",
            f"{how}, failed" if entry.failed else how if fresh else f"{how}, stale",
            f"{measured.efficiency:.1%}" if measured else "",
            f"{entry.attainable_efficiency:.1%}",
            str(entry.trials),
        )
    return rows


def _spec(device: Device) -> str:
    return device.name if device.ordinal is None else f"cuda:{device.ordinal}"


def _device_json(device: Device) -> dict[str, Any]:
    return {"device": _spec(device), **asdict(device), "slug": device.slug}
