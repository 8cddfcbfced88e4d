"""The classifier family."""

from __future__ import annotations

from kgen.blocks.classifier.problem import Classifier as Problem
from kgen.blocks.classifier.reference import float32_forward, layered, reference
from kgen.blocks.classifier.weights import ClassifierWeights as Weights
from kgen.blocks.classifier.weights import fold, pack

__all__ = ["Problem", "Weights", "float32_forward", "fold", "layered", "pack", "reference"]
