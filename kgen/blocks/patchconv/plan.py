"""The patchconv plan, of whichever kernel a config asks for."""

from __future__ import annotations

from kgen.blocks.patchconv import portable, wgmma
from kgen.blocks.patchconv.config import PatchConvConfig, PortableConfig
from kgen.blocks.patchconv.problem import PatchConv
from kgen.devices import Device
from kgen.machine import Program


def plan(problem: PatchConv, config: PatchConvConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    if isinstance(config, PortableConfig):
        return portable.plan(problem, config, device)
    return wgmma.plan(problem, config, device)


def check(problem: PatchConv, config: PatchConvConfig, device: Device) -> None:
    """Raise InfeasibleError for the first rule that the config breaks."""
    if isinstance(config, PortableConfig):
        portable.check(problem, config, device)
    else:
        wgmma.check(problem, config, device)
