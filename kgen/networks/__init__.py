"""Whole networks of ConvFirst blocks: as data, their weights, and their computation without a GPU.

``load(network, weights)`` returns a callable: ``logits = model(images)``.
"""

from __future__ import annotations

from kgen.networks.checkpoint import load_weights, save_weights, state_dict
from kgen.networks.description import Description, describe
from kgen.networks.gpu import GpuNetwork
from kgen.networks.host import HostNetwork
from kgen.networks.loading import load
from kgen.networks.reference import layered, reference
from kgen.networks.spec import Layer, Network
from kgen.networks.variants import convfirst_base, convfirst_narrow, convfirst_small, convfirst_tiny, variant
from kgen.networks.weights import NetworkWeights, fold

__all__ = [
    "Description",
    "GpuNetwork",
    "HostNetwork",
    "Layer",
    "Network",
    "NetworkWeights",
    "convfirst_base",
    "convfirst_narrow",
    "convfirst_small",
    "convfirst_tiny",
    "describe",
    "fold",
    "layered",
    "load",
    "load_weights",
    "reference",
    "save_weights",
    "state_dict",
    "variant",
]
