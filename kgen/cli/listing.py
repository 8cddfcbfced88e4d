"""``kgen devices`` and ``kgen show``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from kgen.cli.options import AsJson, print_json
from kgen.devices import Device, known_devices, local_devices


def devices(as_json: AsJson = False) -> None:
    """List the GPUs of this machine and those known by datasheet."""
    local, known = local_devices(), known_devices()
    if as_json:
        print_json([_device_json(device) for device in (*local, *known)])
        return
    table = Table("device", "title", "arch", "SMs", "MHz", "TFLOP/s", "GB/s", "L2 MiB", "KB/CTA", "source")
    for device in (*local, *known):
        table.add_row(
            _spec(device),
            device.title,
            device.arch,
            str(device.sms),
            str(device.clock_mhz),
            f"{device.peak_flops / 1e12:.1f}",
            f"{device.dram_bytes_per_s / 1e9:.0f}",
            f"{device.l2_bytes / 2**20:g}",
            f"{device.shared_per_cta_bytes // 1024}",
            device.source,
        )
    Console().print(table)


def _spec(device: Device) -> str:
    return device.name if device.ordinal is None else f"cuda:{device.ordinal}"


def _device_json(device: Device) -> dict[str, Any]:
    return {"device": _spec(device), **asdict(device), "slug": device.slug}
