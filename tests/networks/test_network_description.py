"""The table of a network, with convfirst_tiny's parameters and operations worked out by hand."""

from __future__ import annotations

import pytest

from kgen.errors import ProblemError
from kgen.networks import Network, convfirst_tiny, describe


def block_parameters(width):
    """conv, expand, project, and a gamma and beta for each of their outputs."""
    conv, expand, project = width * 8 * 9, width * 4 * width, 4 * width * width
    return conv + expand + project + 2 * (width + 4 * width + width)


def block_operations(pixels, width):
    return 2 * pixels * (width * 8 * 9 + width * 4 * width + 4 * width * width)


def test_convfirst_tiny_by_hand():
    rows = {row.name: row for row in describe("convfirst_tiny").rows}
    assert rows["stem"].shape == (1, 56, 56, 96)
    assert rows["stem"].parameters == 4 * 4 * 3 * 96 + 2 * 96 == 4800
    assert rows["stem"].flops == 2 * 56 * 56 * (4 * 4 * 3) * 96 == 28_901_376
    # 96 * 72 = 6912, twice 96 * 384 = 36864, and 2 * (96 + 384 + 96) = 1152
    assert rows["stages.0.blocks.2"].parameters == 6912 + 2 * 36864 + 1152 == block_parameters(96)
    assert rows["stages.0.blocks.2"].flops == 2 * 3136 * (6912 + 2 * 36864) == block_operations(3136, 96)
    assert rows["stages.1.downsample"].shape == (1, 28, 28, 192)
    assert rows["stages.1.downsample"].parameters == 4 * 96 * 192 + 2 * 192
    assert rows["stages.1.downsample"].flops == 2 * 784 * 4 * 96 * 192
    assert rows["head"].parameters == 768 * 1000 + 1000
    assert rows["head"].flops == 768 * 49 + 2 * 768 * 1000


def test_totals_of_convfirst_tiny_by_hand():
    whole = describe("convfirst_tiny")
    blocks = (
        3 * block_parameters(96) + 3 * block_parameters(192) + 9 * block_parameters(384) + 3 * block_parameters(768)
    )
    downsampling = (4 * 96 * 192 + 2 * 192) + (4 * 192 * 384 + 2 * 384) + (4 * 384 * 768 + 2 * 768)
    assert whole.parameters == 4800 + blocks + downsampling + 769_000 == 28_759_720
    operations = (
        28_901_376
        + 3 * block_operations(56 * 56, 96)
        + 2 * 28 * 28 * 4 * 96 * 192
        + 3 * block_operations(28 * 28, 192)
        + 2 * 14 * 14 * 4 * 192 * 384
        + 9 * block_operations(14 * 14, 384)
        + 2 * 7 * 7 * 4 * 384 * 768
        + 3 * block_operations(7 * 7, 768)
        + 768 * 49
        + 2 * 768 * 1000
    )
    assert whole.flops == operations == 9_009_771_264


def test_batch_and_size():
    one, many = describe(convfirst_tiny(classes=10), 64), describe(convfirst_tiny(classes=10), size=64, batch=5)
    assert many.flops == 5 * one.flops
    assert many.parameters == one.parameters
    assert many.rows[-1].shape == (5, 10)
    with pytest.raises(ProblemError, match="images must be at least 32x32"):
        describe("convfirst_tiny", size=31)
    with pytest.raises(ProblemError, match="must be one of convfirst_tiny"):
        describe("convfirst_huge")


def test_the_table():
    network = Network("net", (16,), (1,), expansion=1, classes=10, patch=2)
    assert str(describe(network, size=8, batch=2)).splitlines() == [
        "net, batch 2, 8x8, float16",
        "layer              family        output  parameters  operations",
        "stem               patchconv   2x4x4x16         224      12,288",
        "stages.0.blocks.0  convfirst   2x4x4x16       1,760     106,496",
        "head               classifier      2x10         170       1,152",
        "total                                         2,154     119,936",
    ]
