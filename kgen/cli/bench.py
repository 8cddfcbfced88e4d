"""``kgen bench network``: a network's throughput, latency, memory and efficiency, beside PyTorch's if asked for."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.cli.options import AsJson, DeviceSpec, json_text, parse_batches, print_json
from kgen.cli.tables import console, table
from kgen.devices import Device, find_device
from kgen.errors import ProblemError

if TYPE_CHECKING:
    from kgen.networks.bench import Figures

bench_app = typer.Typer(help="Measure whole networks on a GPU.")


@bench_app.command("network")
def bench_network(
    name: Annotated[str, typer.Argument(help="convfirst_tiny, convfirst_small, convfirst_base or convfirst_narrow.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,32,256",
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    against: Annotated[str, typer.Option(help="inductor, eager, or both, comma-separated.")] = "",
    dtype: Annotated[str, typer.Option(help="float16 or bfloat16.")] = "float16",
    device: DeviceSpec = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to record the figures in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure 1000 calls one at a time and 1000 in a row, with random weights."""
    from kgen.networks import NetworkWeights, variant
    from kgen.networks.bench import measure
    from kgen.networks.contenders import ours, peer
    from kgen.render import family_digest
    from kgen.tuned import environment

    target = find_device(device)
    kind: dict[str, Any] = {"dtype": dtype}
    network = replace(variant(name), **kind)
    weights = NetworkWeights.random(network)
    figures = []
    for count in parse_batches("--batch", batch):
        contenders = [ours(network, weights, count, size, target)]
        contenders += [peer(one, network, weights, count, size, target) for one in against.split(",") if one]
        figures += [measure(one, network, count, size, target) for one in contenders]
    document = {
        "network": name,
        "size": size,
        "dtype": dtype,
        "device": asdict(target),
        "environment": asdict(environment(target, family_digest("convfirst"))),
        "figures": [asdict(one) for one in figures],
    }
    if out is not None:
        _record(out, document)
    if as_json:
        print_json(document)
    else:
        _print(name, size, target, figures)


def _record(out: Path, document: dict[str, Any]) -> None:
    try:
        out.write_text(json_text(document), encoding="utf-8")
    except OSError as error:
        raise ProblemError(
            f"--out must be a writable file, but {out} is not ({error.strerror}); choose another"
        ) from error


def _print(name: str, size: int, device: Device, figures: list[Figures]) -> None:
    rows = table("batch", "contender", "p50 us", "p99 us", "images/s", "MB", "ideal us", "efficiency")
    for one in figures:
        rows.add_row(
            *(str(one.batch), one.contender, f"{one.p50_us:.0f}", f"{one.p99_us:.0f}", f"{one.images_per_s:,.0f}"),
            *(f"{one.memory_bytes / 1e6:,.0f}", f"{one.ideal_us:.1f}", f"{one.efficiency:.1%}"),
        )
    screen = console()
    screen.print(f"{name}, {size}x{size}, on {device.title}")
    screen.print(rows)
