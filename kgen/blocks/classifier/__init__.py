"""The classifier family: the mean over pixels and a linear layer."""

from __future__ import annotations

from kgen.blocks.classifier.config import config_from_json
from kgen.blocks.classifier.plan import plan
from kgen.blocks.classifier.problem import Classifier as Problem
from kgen.blocks.classifier.reference import float32_forward, layered, reference
from kgen.blocks.classifier.space import choices, default_config, draw, favourites, neighbours, relax, rules
from kgen.blocks.classifier.weights import ClassifierWeights as Weights
from kgen.blocks.classifier.weights import fold, pack

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
