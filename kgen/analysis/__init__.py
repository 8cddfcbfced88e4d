"""Waterline analysis: kernel sequences of blocks, networks and traced models against a device's waterline.

docs/analysis.md has the definitions. Traces of PyTorch models are made by :mod:`kgen.torch.tracing`.
"""

from __future__ import annotations

from kgen.analysis.kernels import Kernel, Sequence
from kgen.analysis.models import ModelAnalysis, Saving, analyse
from kgen.analysis.problems import network_sequences, problem_sequences
from kgen.analysis.trace import Node, Trace, load_trace, save_trace

__all__ = [
    "Kernel",
    "ModelAnalysis",
    "Node",
    "Saving",
    "Sequence",
    "Trace",
    "analyse",
    "load_trace",
    "network_sequences",
    "problem_sequences",
    "save_trace",
]
