"""The convfirst plan, of whichever kernels a config asks for."""

from __future__ import annotations

from kgen.blocks.convfirst import cluster, portable, wgmma
from kgen.blocks.convfirst.config import ClusterConfig, ConvFirstConfig, PortableConfig
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import Device
from kgen.machine import Program


def plan(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> Program:
    """The program of a config on a device.

    Raises:
        InfeasibleError: the config breaks a rule; ``rule`` is its name, the message holds the values.
    """
    if isinstance(config, PortableConfig):
        return portable.plan(problem, config, device)
    if isinstance(config, ClusterConfig):
        return cluster.plan(problem, config, device)
    return wgmma.plan(problem, config, device)
