"""Convfirst kernels for Hopper, on wgmma."""

from __future__ import annotations

from kgen.blocks.convfirst.wgmma.plan import plan
from kgen.blocks.convfirst.wgmma.space import choices, default_config, draw, relax

__all__ = ["choices", "default_config", "draw", "plan", "relax"]
