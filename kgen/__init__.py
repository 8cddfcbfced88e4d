"""kgen: a code-generating kernel autotuner for fused convnet blocks.

``kgen.load(problem, weights)`` returns a callable block that runs the tuned kernel of this machine's GPU.
``kgen.networks`` has whole networks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kgen import networks
    from kgen.blocks.convfirst.problem import ConvFirst
    from kgen.blocks.convfirst.weights import BatchNorm, Conv, ConvFirstWeights
    from kgen.errors import KgenError
    from kgen.runtime import Block, load

_HOME = {
    "BatchNorm": "kgen.blocks.convfirst.weights",
    "Block": "kgen.runtime",
    "Conv": "kgen.blocks.convfirst.weights",
    "ConvFirst": "kgen.blocks.convfirst.problem",
    "ConvFirstWeights": "kgen.blocks.convfirst.weights",
    "KgenError": "kgen.errors",
    "load": "kgen.runtime",
}

__all__ = ["BatchNorm", "Block", "Conv", "ConvFirst", "ConvFirstWeights", "KgenError", "load", "networks"]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that ``import kgen`` stays quick and needs no GPU library."""
    if name == "networks":
        return import_module("kgen.networks")
    if name not in _HOME:
        raise AttributeError(f"module 'kgen' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
