"""Tiny programs of the Hopper kernels that together reach every variant of their templates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from convfirst_programs import Example

from kgen.blocks.convfirst import Problem
from kgen.blocks.convfirst.config import WgmmaConfig, WgmmaFusedConfig, WgmmaLayersConfig

WGMMA_FUSED = WgmmaFusedConfig(
    boundary="wgmma_fused",
    warpgroups=1,
    hidden_chunk=16,
    weight_slots=2,
    x_slots=1,
    overlap=False,
    conv_reuse="none",
    conv_output="registers",
    sigmoid="exp2",
)
WGMMA_LAYERS = WgmmaLayersConfig(
    boundary="wgmma_layers",
    conv_rows=1,
    conv_images=1,
    conv_channels=64,
    conv_warps=8,
    conv_stages=2,
    expand_warpgroups=1,
    expand_outputs=64,
    expand_stages=2,
    project_warpgroups=1,
    project_outputs=64,
    project_stages=2,
    expand_deferred=False,
    project_deferred=False,
    sigmoid="exp2",
)


def _example(base: WgmmaConfig, batch: int, height: int, width: int, channels: int, **rest: Any) -> Example:
    """One that a single CTA or cluster works through, or ``ctas`` of them."""
    ctas = rest.pop("ctas", 1)
    kinds = {
        name: rest.pop(name) for name in ("expansion", "activation", "dtype", "residual", "matmul") if name in rest
    }
    problem = Problem(batch, height, width, channels, **({"expansion": 2} | kinds))
    return Example(problem, replace(base, **rest), ctas)


# fmt: off
HOPPER_EXAMPLES = {
    # Three tiles of 64 pixels over three images of 5 x 9, the last of them cut.
    "smallest": _example(WGMMA_FUSED, 3, 5, 9, 16),
    "columns of pixels": _example(
        WGMMA_FUSED, 3, 50, 1, 16, x_slots=2, overlap=True, weight_slots=3, expansion=4, activation="relu"
    ),
    "one pixel": _example(WGMMA_FUSED, 1, 1, 1, 16, conv_output="shared", x_slots=2, overlap=True),
    "z in shared memory": _example(
        WGMMA_FUSED, 4, 7, 7, 32, hidden_chunk=32, weight_slots=3, conv_output="shared", dtype="bfloat16",
        activation="gelu_tanh", sigmoid="tanh",
    ),
    "z in shared memory, overlapped": _example(
        WGMMA_FUSED, 3, 7, 8, 64, warpgroups=2, hidden_chunk=32, weight_slots=4, x_slots=2, overlap=True,
        conv_output="shared", sigmoid="tanh", ctas=2,
    ),
    "z in shared memory, resident, three warpgroups": _example(
        WGMMA_FUSED, 7, 8, 8, 48, warpgroups=3, hidden_chunk=48, weight_slots=4, x_slots=2, conv_output="shared",
        residual=False, activation="gelu",
    ),
    "z in shared memory, residual of three warpgroups": _example(
        WGMMA_FUSED, 6, 9, 9, 16, warpgroups=3, weight_slots=4, x_slots=1, conv_output="shared", expansion=3,
    ),
    "resident": _example(
        WGMMA_FUSED, 5, 5, 7, 64, hidden_chunk=48, weight_slots=4, expansion=1.5, x_slots=2, activation="identity",
        dtype="bfloat16",
    ),
    "resident, overlapped, two warpgroups": _example(
        WGMMA_FUSED, 8, 5, 5, 48, warpgroups=2, weight_slots=12, overlap=True, hidden_chunk=16, residual=False,
        activation="gelu",
    ),
    "streamed, three warpgroups": _example(
        WGMMA_FUSED, 6, 8, 8, 128, warpgroups=3, hidden_chunk=32, weight_slots=2, expansion=1.5,
        activation="gelu_tanh", sigmoid="tanh", dtype="bfloat16", residual=False,
    ),
    "streamed, two warpgroups, many slots": _example(
        WGMMA_FUSED, 7, 7, 7, 128, warpgroups=2, hidden_chunk=64, weight_slots=5, x_slots=2, overlap=True,
        expansion=4, ctas=2,
    ),
}
STRIP_EXAMPLES = {
    # Three images of 6 rows: tiles of 8 rows begin and end anywhere in them, and the last is cut.
    "strips": _example(WGMMA_FUSED, 3, 6, 16, 32, conv_reuse="rows", ctas=2),
    "strips, three warpgroups": _example(
        WGMMA_FUSED, 5, 10, 8, 48, conv_reuse="rows", warpgroups=3, x_slots=2, overlap=True, weight_slots=3,
        dtype="bfloat16",
    ),
    "strips of two rows": _example(
        WGMMA_FUSED, 33, 2, 8, 16, conv_reuse="rows", warpgroups=2, x_slots=2, residual=False, activation="relu",
    ),
}
BLOCK_EXAMPLES = {
    "two blocks": _example(
        WGMMA_FUSED, 6, 7, 9, 32, warpgroup_pixels=128, hidden_chunk=32, x_slots=2, overlap=True,
        activation="gelu_tanh", sigmoid="tanh",
    ),
    "two blocks, resident, three warpgroups": _example(
        WGMMA_FUSED, 11, 10, 7, 48, warpgroup_pixels=128, warpgroups=3, hidden_chunk=48, weight_slots=4, expansion=2,
        residual=False, dtype="bfloat16",
    ),
    "two blocks, strips": _example(
        WGMMA_FUSED, 5, 8, 16, 32, warpgroup_pixels=128, conv_reuse="rows", weight_slots=3, overlap=True,
        sigmoid="tanh",
    ),
    "two blocks, strips, resident, two CTAs": _example(
        WGMMA_FUSED, 11, 4, 8, 48, warpgroup_pixels=128, conv_reuse="rows", warpgroups=2, hidden_chunk=48,
        weight_slots=4, x_slots=2, cluster=2, activation="relu",
    ),
}
LAYER_EXAMPLES = {
    "smallest layers on wgmma": _example(WGMMA_LAYERS, 3, 5, 5, 64, expansion=1, conv_rows=5),
    # Images of 6 rows in tiles of 2: their halos are rows of the image or zeros.
    "rows of images": _example(
        WGMMA_LAYERS, 3, 6, 7, 64, conv_rows=2, expand_warpgroups=2, expand_outputs=128, expand_stages=3,
        project_warpgroups=3, project_stages=3, dtype="bfloat16", sigmoid="tanh",
    ),
    "whole images together": _example(
        WGMMA_LAYERS, 5, 5, 1, 128, conv_rows=5, conv_images=2, conv_channels=32, conv_warps=4, conv_stages=3,
        expansion=1.5, expand_outputs=96, project_outputs=128, residual=False, activation="gelu", project_deferred=True,
    ),
    "deferred": _example(
        WGMMA_LAYERS, 4, 8, 8, 128, conv_rows=4, conv_channels=16, conv_warps=2, expand_outputs=64, expand_stages=4,
        expand_deferred=True, project_deferred=True, activation="gelu_tanh", sigmoid="tanh", ctas=2,
    ),
    "deferred, three warpgroups": _example(
        WGMMA_LAYERS, 7, 9, 9, 192, conv_rows=9, conv_channels=64, expand_warpgroups=3, expand_outputs=96,
        expand_stages=3, project_warpgroups=2, project_outputs=96, project_stages=4, expand_deferred=True,
        activation="relu", expansion=1,
    ),
    "one pixel of layers": _example(
        WGMMA_LAYERS, 1, 1, 1, 64, conv_warps=8, expand_deferred=True, project_deferred=True, activation="identity",
    ),
}
SHARING_EXAMPLES = {
    # Three tiles for two CTAs: the second has none in the end, but goes on loading its part of the weights.
    "two CTAs": _example(WGMMA_FUSED, 3, 5, 9, 16, cluster=2),
    "two CTAs, strips": _example(
        WGMMA_FUSED, 3, 6, 16, 32, conv_reuse="rows", x_slots=2, overlap=True, weight_slots=3, cluster=2,
        activation="gelu_tanh", sigmoid="tanh",
    ),
    "two CTAs, resident": _example(
        WGMMA_FUSED, 5, 5, 7, 64, hidden_chunk=48, weight_slots=4, expansion=1.5, cluster=2, dtype="bfloat16",
    ),
    "four CTAs, z in shared memory": _example(
        WGMMA_FUSED, 6, 9, 9, 32, hidden_chunk=32, weight_slots=3, conv_output="shared", x_slots=2, overlap=True,
        cluster=4, activation="gelu", residual=False,
    ),
    "two clusters": _example(WGMMA_FUSED, 5, 7, 9, 16, cluster=2, weight_slots=3, ctas=2),
    "layers, two CTAs": _example(
        WGMMA_LAYERS, 3, 5, 9, 64, expansion=1, conv_rows=5, expand_cluster=2, project_cluster=2,
    ),
    "layers, four CTAs, deferred": _example(
        WGMMA_LAYERS, 7, 7, 7, 128, conv_rows=7, expand_stages=3, project_stages=4, expand_deferred=True,
        project_deferred=True, expand_cluster=4, project_cluster=4, dtype="bfloat16", ctas=2,
    ),
}
FLOAT8_EXAMPLES = {
    # 64 channels: half of a block's columns.
    "smallest float8": _example(WGMMA_LAYERS, 3, 5, 5, 64, expansion=1, conv_rows=5, matmul="float8"),
    "float8, rows of images": _example(
        WGMMA_LAYERS, 3, 6, 7, 128, conv_rows=2, conv_channels=32, conv_warps=4, expand_warpgroups=2,
        expand_outputs=128, expand_stages=3, project_warpgroups=3, dtype="bfloat16", activation="gelu", residual=False,
        matmul="float8",
    ),
    "float8, deferred": _example(
        WGMMA_LAYERS, 5, 7, 7, 192, conv_rows=7, conv_images=2, conv_channels=16, conv_warps=2, expand_outputs=96,
        project_outputs=96, expand_deferred=True, project_deferred=True, expand_warpgroups=3, project_warpgroups=2,
        expand_stages=3, sigmoid="tanh", ctas=2, matmul="float8",
    ),
    "float8, two CTAs": _example(
        WGMMA_LAYERS, 3, 5, 9, 128, expansion=1, conv_rows=5, expand_cluster=2, project_cluster=2, matmul="float8",
    ),
    "float8, one pixel": _example(
        WGMMA_LAYERS, 1, 1, 1, 128, expansion=1, activation="relu", project_deferred=True, matmul="float8",
    ),
}
HOPPER_EXAMPLES |= STRIP_EXAMPLES | BLOCK_EXAMPLES | LAYER_EXAMPLES | SHARING_EXAMPLES | FLOAT8_EXAMPLES
# fmt: on
