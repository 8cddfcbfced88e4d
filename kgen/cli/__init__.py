"""The command line, ``kgen --help``: tune, record, retest, check, explain, waterline, bench, profile, report, ...

Results go to stdout, as one JSON document with ``--json``; progress and errors go to stderr. Bad input ends with one
sentence and exit code 2, a kernel that fails its check with 1, Ctrl-C with 130.
"""

from __future__ import annotations

import sys
import warnings

import typer

from kgen.cli.bench import bench_app
from kgen.cli.check import check_app
from kgen.cli.compare import compare
from kgen.cli.explain import explain_app
from kgen.cli.gap import gap_plot
from kgen.cli.listing import devices, show
from kgen.cli.profile import profile
from kgen.cli.record import record_app
from kgen.cli.report import report
from kgen.cli.retest import retest
from kgen.cli.tune import tune_app
from kgen.cli.waterline import waterline_app
from kgen.errors import KgenError

app = typer.Typer(
    name="kgen",
    help="Generate, tune and check fused convnet block kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(devices)
app.add_typer(tune_app, name="tune")
app.add_typer(record_app, name="record")
app.add_typer(check_app, name="check")
app.add_typer(explain_app, name="explain")
app.add_typer(waterline_app, name="waterline")
app.add_typer(bench_app, name="bench")
app.command()(profile)
app.command()(retest)
app.command()(show)
app.command()(compare)
app.command()(gap_plot)
app.command()(report)


def main() -> None:
    """Run the command line; an error that the user can mend becomes one sentence and exit code 2."""
    warnings.showwarning = _warn  # type: ignore[assignment]  # of the same call, by position
    try:
        app()
    except KgenError as error:
        print(f"kgen: {error}", file=sys.stderr)
        sys.exit(2)


def _warn(message: Warning | str, *_: object) -> None:
    print(f"kgen: warning: {message}", file=sys.stderr)
