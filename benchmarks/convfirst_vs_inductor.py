"""Measures tuned ConvFirst blocks against torch.compile, in one run and by one method, and records the rows as JSON.

Both run under PyTorch, on the same weights, as CUDA graphs that rotate through more inputs and outputs than the L2
cache holds, and are timed turn by turn. The peer of a row is the fastest of Inductor's variants: mode max-autotune or
default, channels_last or contiguous. Each call's outputs are kept until its next turn, for both.

A row also says how the block's rate compares with the vendor's matmul of 8192 x 8192 x 8192 in the same run.

    python benchmarks/convfirst_vs_inductor.py --batches 256,1,32 --time-limit 480
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cupy
import torch
from contenders import MODES, Runner, captured, environment, matmul_flops_per_s
from harness import save

from kgen.blocks.convfirst import Problem, Weights
from kgen.cases import Case, make_case
from kgen.devices import Device, find_device
from kgen.machine import efficiency
from kgen.measure import rotation
from kgen.render import template_digest
from kgen.runtime import load
from kgen.timing import Timing, time_interleaved

SHAPES = "64x56,96x56,128x28,192x28,256x14,384x14,512x7,768x7"
OUT = Path(__file__).parent / "results" / "convfirst-nvidia-h200.json"
ALWAYS_BOTH_LAYOUTS = 256  # batches from here on; smaller ones when there is time


class ConvFirst(torch.nn.Module):
    """The block as a PyTorch user writes it, with the weights that kgen folds and rounds."""

    def __init__(self, problem: Problem, folded: Any) -> None:
        super().__init__()
        channels, hidden = problem.channels, problem.hidden
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1, groups=channels // 8)
        self.expand = torch.nn.Conv2d(channels, hidden, 1)
        self.project = torch.nn.Conv2d(hidden, channels, 1)
        with torch.no_grad():
            for name in ("conv", "expand", "project"):
                layer = getattr(self, name)
                layer.weight.copy_(torch.from_numpy(getattr(folded, name)).reshape(layer.weight.shape))
                layer.bias.copy_(torch.from_numpy(getattr(folded, f"{name}_bias")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(torch.nn.functional.silu(self.expand(self.conv(x))))


def inputs_of(case: Case, copies: int, layout: torch.memory_format) -> list[torch.Tensor]:
    images = torch.from_numpy(case.images[case.index]).cuda().permute(0, 3, 1, 2)
    return [images.clone(memory_format=layout) for _ in range(copies)]


def peers(problem: Problem, case: Case, copies: int, *, contiguous: bool) -> Iterator[Runner]:
    """Inductor's variants, the likely best ones first."""
    layouts = {"channels_last": torch.channels_last} | ({"contiguous": torch.contiguous_format} if contiguous else {})
    for layout_name, layout in layouts.items():
        module = ConvFirst(problem, case.folded).cuda().half().eval().to(memory_format=layout)
        inputs = inputs_of(case, copies, layout)
        for mode_name, mode in MODES.items():
            torch._dynamo.reset()
            yield Runner(f"inductor {mode_name} {layout_name}", torch.compile(module, mode=mode, dynamic=False), inputs)


def measure_row(problem: Problem, device: Device, *, contiguous: bool) -> dict[str, Any]:
    """One row: every contender captured, then all timed turn by turn, then all checked."""
    case = make_case(problem)
    copies = rotation(2 * problem.x.bytes, device.l2_bytes)
    stream = cupy.cuda.Stream(non_blocking=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        block = load(problem, Weights.random(problem))
    ours = Runner("kgen", block, inputs_of(case, copies, torch.channels_last))
    # A peer is captured before the next one compiles, which resets the compiler.
    contenders = [(ours, captured(ours, stream))]
    contenders += [(peer, captured(peer, stream)) for peer in peers(problem, case, copies, contiguous=contiguous)]
    truth = torch.from_numpy(case.reference).cuda()[torch.from_numpy(case.index).cuda()].permute(0, 3, 1, 2)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        timings = time_interleaved([replay for _, replay in contenders], stream, budget_s=0.3 * len(contenders))
        errors = [runner.error(truth, replay, stream) for runner, replay in contenders]
    return row_of(problem, device, [runner.name for runner, _ in contenders], timings, errors) | {
        "skipped": [] if contiguous else ["contiguous"],
        "notes": [str(warning.message) for warning in told if warning.category.__name__ == "KgenWarning"],
        "boundary": block.config.boundary,
        "template_digest": template_digest(block.config.template),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def row_of(
    problem: Problem, device: Device, names: list[str], timings: tuple[Timing, ...], errors: list[float]
) -> dict[str, Any]:
    ours, *others = timings
    best = min(range(len(others)), key=lambda at: others[at].median_us)
    return {
        "problem": problem.to_json(),
        "peer": names[1 + best],
        "peer_us": round(others[best].median_us, 3),
        "kgen_us": round(ours.median_us, 3),
        "ratio": round(others[best].median_us / ours.median_us, 3),
        "efficiency": round(efficiency(problem.flops, ours.median_us, device), 4),
        "error": errors[0],
        "peer_error": errors[1 + best],
        "kgen_p20_us": round(ours.p20_us, 3),
        "kgen_p80_us": round(ours.p80_us, 3),
        "peers_us": {name: round(timing.median_us, 3) for name, timing in zip(names[1:], others, strict=True)},
    }


def order(row: dict[str, Any]) -> tuple[int, int]:
    return -row["problem"]["batch"], row["problem"]["channels"]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'channels':>8} {'size':>4} {'batch':>5} {'kgen us':>9} {'peer us':>9} {'ratio':>6} {'eff.':>5}  peer"]
    for row in rows:
        shape = row["problem"]
        lines.append(
            f"{shape['channels']:>8} {shape['height']:>4} {shape['batch']:>5} {row['kgen_us']:>9.2f} "
            f"{row['peer_us']:>9.2f} {row['ratio']:>6.2f} {row['efficiency']:>5.2f}  {row['peer']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--batches", default="256,1,32")
    parser.add_argument("--shapes", default=SHAPES, help="CHANNELSxSIZE, comma-separated")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds; no new row starts after them")
    options = parser.parse_args()
    device = find_device("cuda:0")
    described = environment(device)
    matmul = matmul_flops_per_s()
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    problems = [Problem(int(n), size, size, c) for n in options.batches.split(",") for c, size in shapes]
    rows: list[dict[str, Any]] = []
    start, lean_s = time.perf_counter(), 15.0
    for done, problem in enumerate(problems):
        began = time.perf_counter()
        left_s = options.time_limit - (began - start)
        if left_s <= 0:
            print(f"time is up: {len(problems) - done} rows were not measured")
            break
        both = problem.batch >= ALWAYS_BOTH_LAYOUTS or left_s > lean_s * (len(problems) - done + 1)
        with torch.no_grad():
            row = measure_row(problem, device, contiguous=both)
        row["rate_of_matmul"] = round(problem.flops / (row["kgen_us"] * 1e-6) / matmul, 4)
        torch.cuda.empty_cache()
        took_s = time.perf_counter() - began
        lean_s = 0.5 * lean_s + 0.5 * (took_s / 2 if both else took_s)
        rows.append(row)
        save(options.out, described, [row], ("problem",), order)
        print(f"{problem}: ratio {row['ratio']:.2f}, {took_s:.0f} s", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
