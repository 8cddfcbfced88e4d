"""The patchconv family: convolutions of patches that do not overlap, and linear layers."""

from __future__ import annotations

from kgen.blocks.patchconv.config import config_from_json
from kgen.blocks.patchconv.plan import plan
from kgen.blocks.patchconv.problem import PatchConv as Problem
from kgen.blocks.patchconv.reference import float32_forward, layered, reference
from kgen.blocks.patchconv.space import choices, default_config, draw, favourites, neighbours, relax, rules
from kgen.blocks.patchconv.weights import PatchConvWeights as Weights
from kgen.blocks.patchconv.weights import fold, pack

__all__ = [
    "Problem",
    "Weights",
    "choices",
    "config_from_json",
    "default_config",
    "draw",
    "favourites",
    "float32_forward",
    "fold",
    "layered",
    "neighbours",
    "pack",
    "plan",
    "reference",
    "relax",
    "rules",
]
