"""Rules that several sides of convfirst share."""

from __future__ import annotations

from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.requirements import require


def storage_matmuls(problem: ConvFirst, boundary: str) -> None:
    """The rule that only the layers' Hopper kernels have float8 matmuls."""
    require(
        problem.matmul == "storage",
        "matmul",
        f"matmul must be 'storage' with boundary={boundary!r}, but the problem asks for {problem.matmul}; "
        "use boundary='wgmma_layers', on a Hopper GPU",
    )
