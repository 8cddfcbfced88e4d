"""Measures whole networks: ConvFirst by kgen against ConvNeXt and against itself under torch.compile, in one run.

A third way to run ConvFirst is the stock module under torch.compile with kgen's blocks in it (kgen.torch.accelerate).
All run as CUDA graphs that rotate through several inputs, and are timed turn by turn. ConvNeXt is timm's, with random
weights, as the times of dense layers do not depend on them; of Inductor's variants (modes max-autotune and default,
channels_last and contiguous) the fastest counts. ConvFirst's variants are kgen's own, with ConvNeXt's widths and
depths; how parameters and operations compare is part of each row.

    python benchmarks/networks.py --networks convfirst_tiny --batches 256,32,1 --time-limit 480
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cupy
import timm
import torch
from contenders import MODES, Runner, captured, environment
from harness import save

from kgen.devices import Device, find_device
from kgen.machine import efficiency
from kgen.measure import rotation
from kgen.networks import Network, NetworkWeights, describe, load, variant
from kgen.networks.account import account
from kgen.networks.contenders import stock
from kgen.render import family_digest
from kgen.timing import time_interleaved
from kgen.torch import accelerate

OUT = Path(__file__).parent / "results" / "networks-nvidia-h200.json"
PEERS = {
    "convfirst_tiny": "convnext_tiny",
    "convfirst_small": "convnext_small",
    "convfirst_base": "convnext_base",
    "convfirst_narrow": "convnext_tiny",
}
ACCELERATED = "accelerated"
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
SIZE = 224
CHECKED = 8
"""Images of a batch whose logits are compared with float64's."""


def inputs_of(batch: int, copies: int, layout: torch.memory_format) -> list[torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (batch, 3, SIZE, SIZE)
    return [
        torch.randn(shape, device="cuda", dtype=torch.float16, generator=generator).contiguous(memory_format=layout)
        for _ in range(copies)
    ]


def compiled(
    name: str, make: Callable[[], torch.nn.Module], batch: int, copies: int, modes: list[str], layouts: Iterable[str]
) -> Iterator[Runner]:
    """Inductor's variants, each to be captured before the next is asked for, which resets the compiler."""
    for layout_name in layouts:
        layout = LAYOUTS[layout_name]
        module = make().cuda().half().eval().to(memory_format=layout)
        for mode in modes:
            torch._dynamo.reset()
            function = torch.compile(module, mode=MODES[mode], dynamic=False)
            yield Runner(f"{name} inductor {mode} {layout_name}", function, inputs_of(batch, copies, layout))


def measure_row(network: Network, batch: int, device: Device, modes: list[str]) -> dict[str, Any]:
    """One row: every contender captured, then all timed turn by turn."""
    weights = NetworkWeights.random(network)
    x = network.layers(batch, SIZE, SIZE)[0].problem.x
    copies = min(8, rotation(x.bytes, device.l2_bytes))
    stream = cupy.cuda.Stream(non_blocking=True)
    model = load(network, weights)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = Runner("kgen", model, inputs_of(batch, copies, torch.channels_last))
        contenders = [(ours, captured(ours, stream))]
    peer = partial(timm.create_model, PEERS[network.name], num_classes=network.classes)
    for runner in chain(
        compiled(PEERS[network.name], peer, batch, copies, modes, LAYOUTS),
        compiled(network.name, partial(stock, network, weights), batch, copies, modes, LAYOUTS),
        compiled(ACCELERATED, partial(accelerated, network, weights), batch, copies, modes, ["channels_last"]),
    ):
        contenders.append((runner, captured(runner, stream)))
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        timings = time_interleaved([replay for _, replay in contenders], stream, budget_s=0.5 * len(contenders))
    times_us = {runner.name: timing.median_us for (runner, _), timing in zip(contenders, timings, strict=True)}
    truth = stock(network, weights).cuda().double().eval()(ours.inputs[0][:CHECKED].double())
    described = describe(network, size=SIZE, batch=batch)
    return row_of(network.name, batch, times_us) | {
        "errors": {
            runner.name: error(runner, truth)
            for runner, _ in contenders
            if not runner.name.startswith(f"{PEERS[network.name]} ")
        },
        "parameters": described.parameters,
        "peer_parameters": sum(one.numel() for one in peer().parameters()),
        "flops": described.flops,
        "efficiency": round(efficiency(described.flops, times_us["kgen"], device), 4),
        "memory_bytes": model.memory_bytes,
        "layers_us": [row_json(row) for row in account(network, batch, SIZE, device).rows],
        "notes": [str(warning.message) for warning in told if warning.category.__name__ == "KgenWarning"],
        "template_digests": {name: family_digest(name) for name in ("convfirst", "patchconv", "classifier")},
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def accelerated(network: Network, weights: NetworkWeights) -> torch.nn.Module:
    """The stock module with kgen's blocks in the place of all of its own."""
    module = stock(network, weights).eval()
    report = accelerate(module)
    assert all(row.replaced for row in report.rows), str(report)
    return module


def error(runner: Runner, truth: torch.Tensor) -> float:
    """Relative L2 error of the first images' logits against float64."""
    logits = runner.outputs[0][:CHECKED].double()
    return float((logits - truth).norm() / truth.norm())


def row_of(name: str, batch: int, times_us: dict[str, float]) -> dict[str, Any]:
    """Times and ratios against the fastest variant of ConvNeXt, and of the same network."""

    def best(prefix: str) -> str:
        return min((one for one in times_us if one.startswith(f"{prefix} ")), key=times_us.__getitem__)

    peer, same, blocks = best(PEERS[name]), best(name), best(ACCELERATED)
    return {
        "network": name,
        "batch": batch,
        "kgen_us": round(times_us["kgen"], 2),
        "peer": peer,
        "peer_us": round(times_us[peer], 2),
        "ratio": round(times_us[peer] / times_us["kgen"], 3),
        "same": same,
        "same_us": round(times_us[same], 2),
        "same_ratio": round(times_us[same] / times_us["kgen"], 3),
        "accelerated_us": round(times_us[blocks], 2),
        "accelerated_ratio": round(times_us[same] / times_us[blocks], 3),
        "images_per_s": round(batch / times_us["kgen"] * 1e6),
        "times_us": {one: round(us, 2) for one, us in times_us.items()},
    }


def row_json(row: Any) -> dict[str, Any]:
    return asdict(row) | {"problem": row.problem.to_json()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--networks", default=",".join(PEERS))
    parser.add_argument("--batches", default="256,32,1")
    parser.add_argument("--modes", default="max-autotune,default")
    parser.add_argument("--time-limit", type=float, default=3600.0, help="seconds; no new row starts after them")
    options = parser.parse_args()
    device, start_s = find_device("cuda:0"), time.perf_counter()
    described = environment(device) | {"timm": timm.__version__}
    for name in options.networks.split(","):
        for batch in map(int, options.batches.split(",")):
            if time.perf_counter() - start_s > options.time_limit:
                print(f"time is up: {name} at batch {batch} was not measured")
                continue
            with torch.no_grad():
                row = measure_row(variant(name), batch, device, options.modes.split(","))
            torch.cuda.empty_cache()
            save(options.out, described, [row], ("network", "batch"), lambda one: (one["network"], -one["batch"]))
            print(
                f"{name} batch {batch}: kgen {row['kgen_us']:.0f} us, {row['peer']} {row['peer_us']:.0f} us, ratio "
                f"{row['ratio']:.2f}; itself under Inductor {row['same_ratio']:.2f}; with kgen's blocks, Inductor is "
                f"{row['accelerated_ratio']:.2f} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
