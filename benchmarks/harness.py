"""What the scripts share that run tuned configs in child processes under one of NVIDIA's tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kgen import env
from kgen.blocks.convfirst import Problem
from kgen.devices import Device
from kgen.render import family_digest
from kgen.tuned import Environment

ROOT = Path(__file__).parents[1]


def environment(device: Device) -> dict[str, Any]:
    from cupy_backends.cuda.api import runtime

    driver = int(runtime.driverGetVersion())
    return asdict(
        Environment(
            gpu=device.title,
            arch=device.arch,
            sms=device.sms,
            clock_mhz=device.clock_mhz,
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
            nvrtc=env.nvrtc_version(),
            kgen=env.version(),
            template_digest=family_digest(Problem.family),
        )
    )


def save(
    out: Path,
    described: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    same: Sequence[str],
    order: Callable[[dict[str, Any]], Any],
) -> None:
    """Put rows into the file, in place of those that agree with one in ``same``; rows of another environment go."""
    old = json.loads(out.read_text()) if out.exists() else {}
    kept = old["rows"] if old.get("environment") == described else []
    kept = [other for other in kept if all(any(other[name] != row[name] for name in same) for row in rows)]
    content = {"environment": described, "rows": sorted([*kept, *rows], key=order)}
    out.parent.mkdir(parents=True, exist_ok=True)
    env.atomic_write(out, json.dumps(content, indent=2).encode() + b"\n")
