"""Tiny programs of the cluster kernels that together reach every variant of their template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from convfirst_programs import Example

from kgen.blocks.convfirst import Problem
from kgen.blocks.convfirst.config import ClusterConfig

CLUSTER = ClusterConfig(
    boundary="cluster",
    cluster=2,
    pixels=16,
    hidden_split=1,
    warps=2,
    expand_warps_k=1,
    project_warps_k=1,
    sigmoid="exp2",
)


def _example(batch: int, height: int, width: int, channels: int, **rest: Any) -> Example:
    kinds = {name: rest.pop(name) for name in ("expansion", "activation", "dtype", "residual") if name in rest}
    problem = Problem(batch, height, width, channels, **({"expansion": 1} | kinds))
    limit = rest.pop("shared_limit", None)
    return Example(problem, replace(CLUSTER, **rest), shared_limit=limit)


# fmt: off
CLUSTER_EXAMPLES = {
    # Three images of 5 x 5 in tiles of 16 pixels, the last of them cut; halos reach across images.
    "smallest cluster": _example(3, 5, 5, 32),
    "one pixel of a cluster": _example(1, 1, 1, 32, activation="identity"),
    "columns in clusters": _example(3, 50, 1, 32, pixels=40, warps=6, activation="relu", residual=False),
    "three CTAs": _example(
        2, 5, 7, 96, cluster=3, warps=6, expand_warps_k=3, project_warps_k=3, activation="gelu_tanh", sigmoid="tanh",
    ),
    "four CTAs": _example(
        2, 5, 5, 64, cluster=4, pixels=20, warps=8, expansion=2, expand_warps_k=2, project_warps_k=4, dtype="bfloat16",
    ),
    "eight CTAs": _example(
        2, 7, 8, 128, cluster=8, pixels=28, warps=8, expand_warps_k=4, project_warps_k=2, activation="gelu",
        dtype="bfloat16",
    ),
    "groups of warps within a slice": _example(1, 6, 6, 128, pixels=12, warps=4, expand_warps_k=4, project_warps_k=4),
    "an odd number of blocks": _example(1, 6, 5, 48, cluster=3, warps=3, project_warps_k=3, expansion=2),
    "slices of an odd number of blocks": _example(2, 3, 7, 96, pixels=20, warps=4, expand_warps_k=2),
    # Shared memory for the project weights of one turn of four, and of none of two.
    "three turns late": _example(
        2, 4, 5, 128, cluster=4, pixels=20, warps=4, expansion=2, project_warps_k=2, shared_limit=48000,
    ),
    "all turns late": _example(2, 4, 4, 64, hidden_split=2, warps=4, expansion=4, shared_limit=24000),
    "two pairs at a time": _example(2, 6, 6, 128, pixels=24, sigmoid="tanh"),
    "hidden split": _example(2, 4, 4, 64, hidden_split=2, pixels=12, warps=6, expansion=2, sigmoid="tanh"),
    "hidden split, four CTAs": _example(
        3, 3, 5, 64, cluster=4, hidden_split=4, pixels=33, warps=6, expansion=4, project_warps_k=2, dtype="bfloat16",
        residual=False, activation="gelu",
    ),
    "hidden split, whole tiles": _example(
        2, 4, 8, 64, hidden_split=3, pixels=32, warps=4, expansion=1.5, expand_warps_k=2, activation="relu",
    ),
}
# fmt: on
