"""``kgen waterline``: the kernels of a block, a network or a PyTorch model against the device's waterline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kgen.analysis.models import analyse
from kgen.analysis.problems import network_sequences, problem_sequences
from kgen.analysis.trace import Trace, load_trace
from kgen.cli.options import AsJson, DeviceSpec, Folder
from kgen.cli.problems import for_every_family
from kgen.cli.waterline_report import report
from kgen.devices import find_device
from kgen.errors import ProblemError
from kgen.networks.spec import LayerProblem

_SIZE = 224

waterline_app = typer.Typer(
    help="Compare kernels layer by layer and block-fused with what the waterline allows.",
    invoke_without_command=True,
)

Plot = Annotated[Path | None, typer.Option("--plot", help="Also draw it in this .svg, .png or .pdf file.")]


@waterline_app.callback()
def _waterline_all(
    context: typer.Context,
    network: Annotated[str | None, typer.Option(help="A network, such as convfirst_tiny.")] = None,
    torch: Annotated[
        str | None, typer.Option(help="A PyTorch model: timm:NAME, MODULE:NAME to call, or a trace's FILE.json.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    size: Annotated[
        int | None, typer.Option(help=f"Height and width of the images; {_SIZE}, or a trace file's own.")
    ] = None,
    device: DeviceSpec = None,
    folder: Folder = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if (network is None) == (torch is None):
        raise ProblemError(
            "kgen waterline needs a family, a network or a PyTorch model, and one of them only; "
            "see kgen waterline --help"
        )
    target = find_device(device)
    if torch is not None:
        trace = _trace(torch, size)
        found = analyse(trace, batch, target)
        report(f"{trace.model}, batch {batch}", target, found.sequences, plot, as_json, found)
    elif network is not None:
        from kgen.networks import variant

        side = _SIZE if size is None else size
        sequences = network_sequences(variant(network), batch, side, target, folder)
        report(f"{network}, batch {batch}, {side}x{side}", target, sequences, plot, as_json)


@for_every_family(waterline_app)
def _waterline(
    problem: LayerProblem,
    device: DeviceSpec = None,
    folder: Folder = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Its kernels layer by layer and fused, against the waterline."""
    target = find_device(device)
    report(str(problem), target, problem_sequences(problem, target, folder), plot, as_json)


def _trace(spec: str, size: int | None) -> Trace:
    if spec.endswith(".json"):
        if size is not None:
            raise ProblemError(f"a trace has the size it was made with, but got --size {size}; drop it or trace anew")
        return load_trace(Path(spec))
    try:
        from kgen.torch.tracing import trace_named
    except ImportError as error:
        raise ProblemError(
            f"--torch {spec} needs PyTorch, but importing it failed ({error}); install kgen's extra torch, or pass a "
            "trace's FILE.json"
        ) from error
    return trace_named(spec, _SIZE if size is None else size)
