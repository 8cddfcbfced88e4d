"""The convfirst family: grouped 3x3 convolution, expand, activation, project, residual."""

from __future__ import annotations

from kgen.blocks.convfirst.config import config_from_json
from kgen.blocks.convfirst.favourites import favourites, neighbours
from kgen.blocks.convfirst.plan import plan
from kgen.blocks.convfirst.problem import ConvFirst as Problem
from kgen.blocks.convfirst.reference import float32_forward, layered, reference
from kgen.blocks.convfirst.space import choices, default_config, draw, relax, rules
from kgen.blocks.convfirst.weights import ConvFirstWeights as Weights
from kgen.blocks.convfirst.weights import fold, pack

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
