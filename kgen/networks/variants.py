"""Named networks. Their dimensions are ours: they mirror ConvNeXt's widths and depths, with ConvFirst blocks in place.

Those of arXiv 2404.03617 may differ.
"""

from __future__ import annotations

from collections.abc import Callable

from kgen.blocks.convfirst.problem import DType
from kgen.blocks.patchconv.problem import Order, Pixels
from kgen.errors import ProblemError
from kgen.networks.spec import Network


def convfirst_tiny(
    *, dtype: DType = "float16", classes: int = 1000, pixels: Pixels = "storage", order: Order = "nhwc"
) -> Network:
    """Widths 96, 192, 384, 768 and depths 3, 3, 9, 3: a variant of ours, with ConvNeXt-T's dimensions."""
    return Network(
        "convfirst_tiny", (96, 192, 384, 768), (3, 3, 9, 3), classes=classes, dtype=dtype, pixels=pixels, order=order
    )


def convfirst_small(
    *, dtype: DType = "float16", classes: int = 1000, pixels: Pixels = "storage", order: Order = "nhwc"
) -> Network:
    """Widths 96, 192, 384, 768 and depths 3, 3, 27, 3: a variant of ours, with ConvNeXt-S's dimensions."""
    return Network(
        "convfirst_small", (96, 192, 384, 768), (3, 3, 27, 3), classes=classes, dtype=dtype, pixels=pixels, order=order
    )


def convfirst_base(
    *, dtype: DType = "float16", classes: int = 1000, pixels: Pixels = "storage", order: Order = "nhwc"
) -> Network:
    """Widths 128, 256, 512, 1024 and depths 3, 3, 27, 3: a variant of ours, with ConvNeXt-B's dimensions."""
    return Network(
        "convfirst_base", (128, 256, 512, 1024), (3, 3, 27, 3), classes=classes, dtype=dtype, pixels=pixels, order=order
    )


def convfirst_narrow(
    *, dtype: DType = "float16", classes: int = 1000, pixels: Pixels = "storage", order: Order = "nhwc"
) -> Network:
    """Widths 64, 128, 256, 512 and depths 3, 4, 18, 3: a variant of ours, whose widths tile matmuls well."""
    return Network(
        "convfirst_narrow",
        (64, 128, 256, 512),
        (3, 4, 18, 3),
        classes=classes,
        dtype=dtype,
        pixels=pixels,
        order=order,
    )


VARIANTS: dict[str, Callable[..., Network]] = {
    make.__name__: make for make in (convfirst_tiny, convfirst_small, convfirst_base, convfirst_narrow)
}


def variant(name: str) -> Network:
    """The named network with every option at its default.

    Raises:
        ProblemError: there is no such variant.
    """
    if name not in VARIANTS:
        raise ProblemError(f"a network must be one of {', '.join(VARIANTS)}, but got {name!r}; choose one of them")
    return VARIANTS[name]()
