"""A tuned entry to save and look up, shared by the tests of tuned configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kgen.blocks.convfirst.config import PortableConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device
from kgen.tuned import Measurement, TunedEntry

H200, A100 = find_device("h200"), find_device("a100")
PROBLEM = ConvFirst(32, 14, 14, 64)
CONFIG = PortableConfig(
    boundary="fused",
    tile_h=8,
    tile_w=8,
    pixels=64,
    warps_m=4,
    warps_n=1,
    channel_chunk=64,
    hidden_chunk=64,
    out_split=1,
    hidden_split=1,
    stages=2,
    weights="streamed",
    grid="persistent",
    conv_reuse="none",
    conv_output="shared",
    sigmoid="exp2",
    ctas_per_sm=1,
)
FRESH = "feedc0de"


def entry(problem: ConvFirst = PROBLEM, **fields: Any) -> TunedEntry:
    values: dict[str, Any] = {
        "problem": problem,
        "config": CONFIG,
        "measured": Measurement(median_us=12.25, p20_us=12.0, p80_us=12.5, efficiency=0.31, error=0.002),
        "modelled_us": 11.5,
        "intensity": 310.5,
        "attainable_efficiency": 0.9,
        "error": 0.002,
        "trials": 200,
        "seconds": 61.5,
        "when": "2025-01-02T03:04:05Z",
        "template_digest": FRESH,
    }
    return TunedEntry(**(values | fields))


def file_of(folder: Path) -> Path:
    return folder / "convfirst" / "nvidia-h200.json"
