"""Traces models of timm and saves the traces, which tests read: python benchmarks/trace_models.py tests/analysis/traces

Needs the extra torch, and timm with the torchvision that it imports.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kgen.analysis.trace import save_trace
from kgen.torch.tracing import trace_named

MODELS = ("convnext_tiny", "resnet50", "efficientnetv2_rw_s", "regnety_032", "mobilenetv4_conv_medium")
SIZE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        path = folder / f"{model}.json"
        save_trace(trace_named(f"timm:{model}", SIZE), path)
        print(f"{path}: {path.stat().st_size / 1000:.1f} KB")


if __name__ == "__main__":
    main()
