"""Tiny classifier programs that together reach every variant of the template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from layer_programs import LayerExample

from kgen.blocks.classifier import Problem
from kgen.blocks.classifier.config import ClassifierConfig

CLASSIFIER = ClassifierConfig(
    boundary="portable", images=1, slice=16, chunk=16, warps_n=1, warps_k=1, parts=1, stages=2
)


def _example(batch: int, height: int, width: int, channels: int, classes: int, **rest: Any) -> LayerExample:
    dtype = rest.pop("dtype", "float16")
    return LayerExample(Problem(batch, height, width, channels, classes, dtype), replace(CLASSIFIER, **rest))


# fmt: off
CLASSIFIER_EXAMPLES = {
    "smallest": _example(1, 1, 1, 16, 1),
    "odd classes": _example(3, 2, 3, 32, 11),
    # 17 classes are two blocks of 16; the three of a step reach over them.
    "a step cut": _example(4, 2, 2, 32, 17, images=2, slice=48, chunk=48),
    # 37 classes are three blocks of 16: the second slice has one of its two.
    "a slice cut, groups of warps": _example(
        5, 3, 3, 64, 37, dtype="bfloat16", images=2, slice=32, parts=3, stages=3, warps_k=4,
    ),
    "sixteen images": _example(17, 1, 1, 16, 16, images=16),
    "sixteen images, warps in both directions": _example(
        20, 2, 2, 48, 53, dtype="bfloat16", images=16, slice=64, chunk=32, warps_n=2, warps_k=3, stages=3,
    ),
    "eight images, several steps": _example(9, 1, 5, 32, 33, images=8, slice=48, stages=4),
    "four images, two warps across": _example(6, 3, 3, 64, 37, images=4, slice=32, chunk=32, warps_n=2, warps_k=2),
    "three images": _example(7, 2, 2, 32, 40, images=3, slice=32, parts=2, stages=3, warps_k=2),
    "more parts than pixels": _example(2, 1, 2, 32, 19, parts=7),
    "many pixels": _example(2, 5, 7, 16, 20, dtype="bfloat16", parts=2, slice=32, stages=4),
    "four warps across, a slice cut": _example(3, 3, 3, 32, 97, images=2, slice=64, chunk=64, warps_n=4, parts=4),
    "parts beyond partial logits": _example(3, 4, 4, 48, 30, images=2, slice=32, parts=16, warps_k=3),
}
# fmt: on
