"""Tiny patchconv programs that together reach every variant of the template."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from layer_programs import LayerExample

from kgen.blocks.patchconv import Problem
from kgen.blocks.patchconv.config import PortableConfig, WgmmaConfig

PATCHCONV = PortableConfig(
    boundary="portable",
    pixels=16,
    warps_m=1,
    warps_n=1,
    warps_k=1,
    chunk=16,
    stages=2,
    out_split=1,
    sigmoid="exp2",
    ctas_per_sm=1,
)
WGMMA = WgmmaConfig(boundary="wgmma", warpgroups=1, outputs=32, stages=3, deferred=False, cluster=1, sigmoid="exp2")
_OF_A_PROBLEM = {field.name for field in fields(Problem)}


def _example(batch: int, height: int, width: int, channels: int, outputs: int, patch: int, **rest: Any) -> LayerExample:
    """``tile`` is the config's ``pixels``; ``pixels`` are the problem's."""
    ctas, tile = rest.pop("ctas", 2), rest.pop("tile", 16)
    kinds = {name: rest.pop(name) for name in list(rest) if name in _OF_A_PROBLEM}
    problem = Problem(batch, height, width, channels, outputs, patch, **kinds)
    return LayerExample(problem, replace(PATCHCONV, pixels=tile, **rest), ctas)


def _hopper(batch: int, height: int, width: int, channels: int, outputs: int, patch: int, **rest: Any) -> LayerExample:
    """``items`` is the config's ``outputs``, those of a work item."""
    ctas, items = rest.pop("ctas", 2), rest.pop("items", 32)
    kinds = {name: rest.pop(name) for name in list(rest) if name in _OF_A_PROBLEM}
    problem = Problem(batch, height, width, channels, outputs, patch, **kinds)
    return LayerExample(problem, replace(WGMMA, outputs=items, **rest), ctas)


# fmt: off
PATCHCONV_EXAMPLES = {
    # Twelve patches in a tile of 16.
    "smallest": _example(2, 4, 6, 16, 16, 2, ctas=1),
    # 36 patches of images of 9 x 7, whose last row and column fill none: nine work items on two CTAs.
    "remainders, outputs split": _example(3, 9, 7, 32, 48, 2, activation="silu", chunk=32, stages=3, out_split=3),
    "patches of four, two warps across": _example(
        2, 11, 9, 16, 32, 4, activation="gelu", dtype="bfloat16", warps_n=2, chunk=64, stages=4, ctas=None,
    ),
    "residual, groups of warps": _example(
        2, 5, 5, 32, 32, 1, residual=True, activation="silu", sigmoid="tanh",
        tile=32, warps_m=2, warps_k=2, chunk=32, stages=3, ctas=1,
    ),
    "residual, outputs split": _example(
        2, 3, 7, 48, 48, 1, residual=True, activation="gelu_tanh", dtype="bfloat16", chunk=48, out_split=3,
    ),
    "residual, whole tiles": _example(2, 4, 4, 16, 16, 1, residual=True, ctas=1),
    "warps in every direction": _example(
        2, 9, 16, 32, 64, 2, activation="gelu", sigmoid="tanh",
        tile=32, warps_m=2, warps_n=2, warps_k=2, chunk=64, stages=3, ctas=1,
    ),
    "several fragments a warp": _example(
        1, 9, 15, 16, 64, 1, activation="relu", tile=64, warps_m=2, warps_n=2, ctas=1,
    ),
    "four groups of warps": _example(
        5, 6, 7, 32, 16, 2, activation="gelu_tanh", sigmoid="tanh", dtype="bfloat16", warps_k=4, chunk=64,
    ),
    "bytes, 1x1": _example(2, 5, 7, 3, 16, 1, pixels="uint8"),
    "bytes, 2x2": _example(2, 9, 8, 3, 32, 2, pixels="uint8", activation="silu", dtype="bfloat16", warps_n=2, ctas=1),
    "bytes, 4x4": _example(
        3, 9, 11, 3, 32, 4, pixels="uint8", activation="relu", warps_m=2, tile=32, warps_k=3, chunk=48, ctas=None,
    ),
    "bytes in planes, 1x1": _example(2, 6, 5, 4, 16, 1, pixels="uint8", order="nchw", dtype="bfloat16", stages=3),
    "bytes in planes, 2x2": _example(2, 8, 7, 2, 32, 2, pixels="uint8", order="nchw", out_split=2, ctas=1),
    "bytes in planes, 4x4": _example(5, 8, 18, 3, 32, 4, pixels="uint8", order="nchw", stages=3, ctas=1),
    "image, 1x1": _example(1, 7, 5, 2, 16, 1, activation="gelu_tanh", ctas=1),
    "image, 2x2": _example(2, 5, 6, 4, 16, 2, ctas=1),
    "image, 4x4": _example(
        2, 9, 30, 4, 32, 4, activation="gelu", dtype="bfloat16", warps_k=2, chunk=32, stages=3, ctas=1,
    ),
    "planes, 1x1": _example(2, 8, 8, 1, 16, 1, order="nchw", stages=4, ctas=1),
    "planes, 2x2": _example(3, 5, 7, 3, 48, 2, order="nchw", dtype="bfloat16", out_split=3),
    "planes, 4x4": _example(3, 13, 9, 1, 16, 4, order="nchw", activation="silu", sigmoid="tanh", stages=3, ctas=1),
    # Inputs that come in fours, some of which only fill up a step.
    "image in fours, 1x1": _example(2, 5, 7, 4, 16, 1),
    "image in fours, 2x2": _example(1, 7, 10, 2, 16, 2, dtype="bfloat16", ctas=1),
    "planes in fours, 4x4": _example(2, 9, 12, 3, 16, 4, order="nchw", chunk=48, stages=3),
    "bytes in fours, 1x1": _example(2, 5, 3, 4, 16, 1, pixels="uint8", activation="relu"),
    "bytes in fours, 4x4": _example(2, 9, 16, 3, 32, 4, pixels="uint8", dtype="bfloat16", out_split=2),
    "bytes in planes in fours, 4x4": _example(3, 8, 8, 3, 16, 4, pixels="uint8", order="nchw", ctas=1),
}
PATCHCONV_WGMMA_EXAMPLES = {
    # Twelve patches of 64 inputs in a tile of 64: one step, of one item.
    "smallest": _hopper(2, 4, 6, 16, 32, 2, stages=2, ctas=1),
    # 105 patches of images of 11 x 15, whose last row and column fill none, and two parts of the outputs.
    "remainders, outputs split": _hopper(3, 11, 15, 32, 64, 2, activation="silu", ctas=1),
    # A step's 64 inputs are of both rows of a patch.
    "steps over two rows": _hopper(2, 8, 14, 48, 32, 2, activation="gelu", dtype="bfloat16", stages=4),
    "patches of four, two warpgroups": _hopper(
        1, 36, 20, 16, 64, 4, warpgroups=2, items=64, stages=6, activation="gelu_tanh", sigmoid="tanh",
    ),
    "residual, three warpgroups": _hopper(
        2, 11, 10, 64, 64, 1, residual=True, activation="silu", sigmoid="tanh",
        warpgroups=3, items=64, stages=2, ctas=1,
    ),
    "residual, deferred": _hopper(
        3, 7, 11, 64, 64, 1, residual=True, deferred=True, stages=4, activation="relu", dtype="bfloat16", ctas=1,
    ),
    "deferred over many steps": _hopper(2, 16, 18, 64, 96, 2, deferred=True, items=96, stages=3, ctas=1),
    # Five tiles for clusters of two: the last CTA's is beyond the tensor.
    "clusters": _hopper(5, 16, 14, 32, 32, 2, cluster=2, stages=5, ctas=2),
    "clusters of four, deferred": _hopper(
        2, 26, 24, 16, 64, 2, cluster=4, deferred=True, stages=3, activation="silu", ctas=4,
    ),
}
# fmt: on
