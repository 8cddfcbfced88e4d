"""Convfirst kernels for every device from sm_80 on, on mma.sync."""

from __future__ import annotations

from kgen.blocks.convfirst.portable.plan import plan
from kgen.blocks.convfirst.portable.space import choices, default_config, draw, relax

__all__ = ["choices", "default_config", "draw", "plan", "relax"]
