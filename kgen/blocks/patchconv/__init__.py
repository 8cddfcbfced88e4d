"""The patchconv family."""

from __future__ import annotations

from kgen.blocks.patchconv.problem import PatchConv as Problem
from kgen.blocks.patchconv.reference import float32_forward, layered, reference
from kgen.blocks.patchconv.weights import PatchConvWeights as Weights
from kgen.blocks.patchconv.weights import fold, pack

__all__ = ["Problem", "Weights", "float32_forward", "fold", "layered", "pack", "reference"]
