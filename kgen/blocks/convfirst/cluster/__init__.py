"""Convfirst kernels for few pixels, in which clusters of CTAs share a tile."""

from __future__ import annotations

from kgen.blocks.convfirst.cluster.plan import plan
from kgen.blocks.convfirst.cluster.space import choices, draw, relax

__all__ = ["choices", "draw", "plan", "relax"]
