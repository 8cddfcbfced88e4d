"""``kgen check``: verify a config against float64, on the GPU or in the emulator."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from kgen.arrays import KernelProblem
from kgen.blocks import family
from kgen.cli.choose import choose_config
from kgen.cli.options import AsJson, ConfigText, DeviceSpec, Folder, print_json
from kgen.cli.problems import for_every_family
from kgen.devices import Device, find_device
from kgen.errors import CompileError, DeviceError

if TYPE_CHECKING:
    from kgen.machine import Config

WRONG = 1
LIMIT_S = 300.0

check_app = typer.Typer(help="Verify the tuned config of a block, or a given one, against float64.")


@for_every_family(check_app)
def _check(
    problem: KernelProblem,
    config: ConfigText = None,
    device: DeviceSpec = None,
    folder: Folder = None,
    emulate: Annotated[bool, typer.Option("--emulate", help="On the CPU, with a batch that may be cut.")] = False,
    as_json: AsJson = False,
) -> None:
    """Verify its kernels; exit code 1 when they fail."""
    from kgen.compile import compile_cubin
    from kgen.render import render
    from kgen.worker import Job, Outcome, Worker

    target = _target(device, emulate)
    chosen = choose_config(problem, target, config, folder)
    program = family(problem.family).plan(problem, chosen.config, target)
    cubin = compile_cubin(render(program), program.arch)
    with Worker(target) as worker:
        result = worker.run(Job(problem, chosen.config, target, cubin), LIMIT_S)
    if result.outcome is Outcome.COMPILE_FAILED:  # the host's compiler: the GPU's has passed above
        raise CompileError(result.reason)
    passed = result.outcome is Outcome.OK
    bound = _bound(problem, chosen.config, target) if passed else None
    if as_json:
        print_json(
            {
                "passed": passed,
                "outcome": result.outcome.value,
                "reason": result.reason,
                "error": result.error,
                "bound": bound,
                "measured": result.measured and asdict(result.measured),
                "emulated": emulate,
                "device": target.name,
                "origin": chosen.origin,
                "problem": problem.to_json(),
                "config": chosen.config.to_json(),
            }
        )
    else:
        where = "in the emulator" if emulate else f"on {target.title}"
        verdict = f"error {result.error:.3g}, at most {bound:.3g} allowed" if passed else result.reason
        outcome = "passed" if passed else result.outcome.value
        print(f"{outcome}: {problem} {where}, config from {chosen.origin}: {verdict}")
    if not passed:
        raise typer.Exit(WRONG)


def _target(spec: str | None, emulate: bool) -> Device:
    device = find_device(spec)
    if emulate:
        return replace(device, ordinal=None)
    if device.ordinal is None:
        raise DeviceError(f"kernels run on a local GPU only, but {device.name} is a datasheet's; pass --emulate")
    return device


def _bound(problem: KernelProblem, config: Config, device: Device) -> float:
    """The largest error that passes, of the problem that was run: the emulator may have cut its batch."""
    from kgen.cases import cached_case
    from kgen.verify import smaller_program

    ran = problem if device.ordinal is not None else smaller_program(problem, config, device)[0]
    return cached_case(ran).bound.output
