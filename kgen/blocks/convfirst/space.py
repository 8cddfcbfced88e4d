"""The convfirst search space, over all sides: the values each field may take, and feasible configs drawn from it."""

from __future__ import annotations

import random

from kgen.blocks.convfirst import cluster, portable, wgmma
from kgen.blocks.convfirst.cluster.rules import RULES as CLUSTER_RULES
from kgen.blocks.convfirst.config import SIDES, ClusterConfig, ConvFirstConfig, PortableConfig
from kgen.blocks.convfirst.portable.rules import RULES as PORTABLE_RULES
from kgen.blocks.convfirst.portable.space import Choices
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.convfirst.wgmma.rules import FUSED_RULES, LAYERS_RULES
from kgen.blocks.requirements import Rule
from kgen.devices import Device

__all__ = ["Choices", "choices", "default_config", "draw", "relax", "rules"]


def choices(problem: ConvFirst, device: Device) -> dict[str, Choices]:
    """Values by side and field.

    The sides are those that the device can run; the fields those that a side has, but for ``boundary`` itself.
    """
    if problem.matmul == "float8":
        return wgmma.choices(problem, device)
    return portable.choices(problem) | cluster.choices(problem, device) | wgmma.choices(problem, device)


def rules(side: str) -> tuple[Rule, ...]:
    """What ties the fields of a side's configs."""
    own = {"cluster": CLUSTER_RULES, "wgmma_fused": FUSED_RULES, "wgmma_layers": LAYERS_RULES}
    return own.get(side, PORTABLE_RULES)


def default_config(problem: ConvFirst, device: Device) -> ConvFirstConfig:
    """A config that is feasible for every problem and device, but for float8 matmuls.

    Raises:
        InfeasibleError: the matmuls are float8, and the device is no Hopper GPU or the images are too wide.
    """
    if problem.matmul == "float8":
        return wgmma.default_config(problem, device)
    return portable.default_config(problem, device)


def draw(problem: ConvFirst, device: Device, rng: random.Random) -> ConvFirstConfig | None:
    """A random config of a random side; None where it breaks a rule after all."""
    values = choices(problem, device)
    side = rng.choice(list(values))
    if SIDES[side] is PortableConfig:
        return relax(problem, portable.draw(problem, side, values[side], rng), device)
    if SIDES[side] is ClusterConfig:
        return relax(problem, cluster.draw(values[side], rng), device)
    return relax(problem, wgmma.draw(side, values[side], rng), device)


def relax(problem: ConvFirst, config: ConvFirstConfig, device: Device) -> ConvFirstConfig | None:
    """The config, or the first of a fixed series of thriftier ones that is feasible, or None."""
    if isinstance(config, PortableConfig):
        return portable.relax(problem, config, device)
    if isinstance(config, ClusterConfig):
        return cluster.relax(problem, config, device)
    return wgmma.relax(problem, config, device)
