"""Traces as data, the cost of operators, kernels and residual blocks, on saved traces of timm's models: no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kgen.analysis.fusion import fused_groups, kernel, layer_groups, residual_blocks
from kgen.analysis.models import analyse
from kgen.analysis.operators import flops, macs, unknown, weight_bytes
from kgen.analysis.trace import Node, Trace, load_trace, save_trace
from kgen.devices import find_device
from kgen.errors import ProblemError

H200 = find_device("h200")
TRACES = Path(__file__).parent / "traces"
MODELS = sorted(path.stem for path in TRACES.glob("*.json"))

# GMACs of convolutions and linear layers alone, from the "_ops" of torchvision's weights (ResNet50_Weights,
# ConvNeXt_Tiny_Weights, RegNet_Y_3_2GF_Weights).
TORCHVISION = {"resnet50": 4.089, "convnext_tiny": 4.456, "regnety_032": 3.176}
# GMACs as timm's results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv has them. That of efficientnetv2_rw_s is of
# 288 pixels, 4.91: 9/7 of 224 in all layers, since both are multiples of 32.
TIMM = {
    "convnext_tiny": 4.47,
    "efficientnetv2_rw_s": 4.91 * 49 / 81,
    "mobilenetv4_conv_medium": 0.84,
    "regnety_032": 3.20,
    "resnet50": 4.11,
}
# What those figures of timm's count beside multiply-accumulates, per element: found here, since it explains them all.
COUNTED_TOO = {"batch_norm": 2, "layer_norm": 5}


def traced(model: str) -> Trace:
    return load_trace(TRACES / f"{model}.json")


def total_macs(trace: Trace) -> int:
    return sum(macs(trace, node) for node in trace.nodes)


@pytest.mark.parametrize("model", TORCHVISION)
def test_macs_are_torchvisions(model: str) -> None:
    assert total_macs(traced(model)) / 1e9 == pytest.approx(TORCHVISION[model], abs=6e-4)


@pytest.mark.parametrize("model", MODELS)
def test_macs_are_timms(model: str) -> None:
    trace = traced(model)
    norms = sum(COUNTED_TOO.get(node.op, 0) * node.elements for node in trace.nodes)
    assert (total_macs(trace) + norms) / 1e9 == pytest.approx(TIMM[model], rel=0.002)
    # Without the norms too the totals agree to 1%, but for the model of the most norms for its convolutions.
    assert total_macs(trace) / 1e9 == pytest.approx(TIMM[model], rel=0.015 if "mobilenet" in model else 0.01)


@pytest.mark.parametrize("model", MODELS)
def test_saved_traces_are_small_and_read_back_alike(model: str, tmp_path: Path) -> None:
    path = TRACES / f"{model}.json"
    save_trace(traced(model), tmp_path / "again.json")
    assert path.stat().st_size < 60_000 and (tmp_path / "again.json").read_bytes() == path.read_bytes()


BLOCKS = {  # residual blocks of the models' definitions
    "convnext_tiny": 3 + 3 + 9 + 3,
    "efficientnetv2_rw_s": 2 + 3 + 3 + 5 + 8 + 14,  # the first of a stage that downsamples has no residual
    "mobilenetv4_conv_medium": 18,
    "regnety_032": 2 + 5 + 13 + 1,
    "resnet50": 3 + 4 + 6 + 3,
}


@pytest.mark.parametrize("model", MODELS)
def test_sequences_of_models(model: str) -> None:
    trace = traced(model)
    found = analyse(trace, 8, H200)
    layers, blocks = found.sequences
    assert len(found.savings) == BLOCKS[model] and not found.unknown
    assert layers.flops == blocks.flops == 8 * sum(flops(trace, node) for node in trace.nodes)
    assert layers.launches == len(layer_groups(trace))
    assert layers.launches - blocks.launches == sum(saving.layered.launches - 1 for saving in found.savings)
    assert layers.dram_bytes - blocks.dram_bytes == sum(saving.bytes for saving in found.savings)
    assert layers.attainable_us - blocks.attainable_us == pytest.approx(sum(saving.us for saving in found.savings))
    assert blocks.ideal_us < blocks.attainable_us < layers.attainable_us
    covered = [node for _, group in fused_groups(trace, residual_blocks(trace)) for node in group]
    assert len(covered) == len(set(covered))


def test_convnext_block_by_hand() -> None:
    """The first block of convnext_tiny: 96 channels, 384 hidden, 256 x 56 x 56 = 802,816 pixels."""
    saving = analyse(traced("convnext_tiny"), 256, H200).savings[0]
    pixels, x = 802_816, 154_140_672  # x: 802,816 x 96 channels x 2 bytes
    conv, norm, expand, project = saving.layered.kernels
    assert conv.flops == pixels * 2 * 96 * 49 == 7_552_892_928  # depthwise 7x7
    assert conv.dram_bytes == x + 2 * 96 * 49 + 4 * 96 + x == 308_291_136
    assert (norm.flops, norm.dram_bytes) == (0, x + 2 * 4 * 96 + x)  # scale and shift; operations of norms count none
    assert expand.flops == project.flops == pixels * 2 * 96 * 384 == 59_190_018_048
    assert expand.dram_bytes == x + 2 * 96 * 384 + 4 * 384 + 4 * x == 770_778_624  # 4 x: the hidden tensor; with GELU
    # The hidden tensor, weights, bias, the layer scale, x once more for the residual, y.
    assert project.dram_bytes == 4 * x + 2 * 96 * 384 + 4 * 96 + 4 * 96 + x + x == 924_918_528
    (block,) = saving.fused.kernels
    weights = 2 * 96 * 49 + 4 * 96 + 2 * 4 * 96 + 2 * 2 * 96 * 384 + 4 * 384 + 4 * 96 + 4 * 96
    assert block.name == saving.name == "stages.0.blocks.0"
    assert block.dram_bytes == 2 * x + weights == 308_441_664 and block.flops == 125_932_929_024
    # On an H200 (989.4 TFLOP/s, 4.8 TB/s; waterline 206): every layer is under water, at 24, 0, 77 and 64; the block,
    # at 408, is not.
    assert [round(kernel.intensity) for kernel in (conv, norm, expand, project, block)] == [24, 0, 77, 64, 408]
    all_bytes = 308_291_136 + 308_282_112 + 770_778_624 + 924_918_528
    assert saving.layered.attainable_us == pytest.approx(all_bytes / 4.8e6)
    assert saving.fused.attainable_us == pytest.approx(125_932_929_024 / 989.4e6)
    assert saving.bytes == all_bytes - 308_441_664


IMAGE = Node("x", "input", (), (1, 8, 4, 4))


def test_squeeze_and_excitation_is_no_block_and_its_product_a_kernel() -> None:
    trace = Trace(
        "se",
        (
            IMAGE,
            Node("mean", "mean", (0,), (1, 8, 1, 1)),
            Node("fc", "conv2d", (1,), (1, 8, 1, 1), ((8, 8, 1, 1), (8,))),
            Node("gate", "sigmoid", (2,), (1, 8, 1, 1)),
            Node("scale", "mul", (0, 3), (1, 8, 4, 4)),
        ),
        (4,),
    )
    assert layer_groups(trace) == ((1,), (2, 3), (4,)) and not residual_blocks(trace)
    pool, gate, scale = (kernel(trace, group, 10) for group in layer_groups(trace))
    assert (pool.flops, pool.dram_bytes) == (10 * 128, 10 * 2 * (128 + 8))
    assert (gate.flops, gate.dram_bytes) == (10 * 2 * 64, 10 * 2 * (8 + 8) + 2 * 64 + 4 * 8)
    assert (scale.flops, scale.dram_bytes) == (0, 10 * 2 * (128 + 8 + 128))


def test_views_move_nothing_and_padding_is_not_read() -> None:
    trace = Trace(
        "padded",
        (
            IMAGE,
            Node("pad", "pad", (0,), (1, 8, 6, 6)),
            Node("conv", "conv2d", (1,), (1, 2, 4, 4), ((2, 8, 3, 3),)),
            Node("flat", "flatten", (2,), (1, 32)),
        ),
        (3,),
    )
    (only,) = (kernel(trace, group, 1) for group in layer_groups(trace))
    assert only.dram_bytes == 2 * (128 + 32) + 2 * 2 * 8 * 9


def test_unknown_operators_are_listed_and_count_as_bytes() -> None:
    trace = Trace("odd", (IMAGE, Node("odd", "fft", (0,), (1, 8, 4, 4), ((4, 4),))), (1,))
    found = analyse(trace, 2, H200)
    (only,) = found.sequences[0].kernels
    assert found.unknown == unknown(trace) == {"fft": 1}
    assert (only.flops, only.dram_bytes) == (0, 2 * 2 * (128 + 128) + 2 * 16)


def test_products_and_attention() -> None:
    nodes = (
        Node("q", "input", (), (1, 2, 5, 8)),
        Node("k", "input", (), (1, 2, 7, 8)),
        Node("v", "input", (), (1, 2, 7, 6)),
        Node("att", "scaled_dot_product_attention", (0, 1, 2), (1, 2, 5, 6)),
        Node("kt", "transpose", (1,), (1, 2, 8, 7)),
        Node("scores", "matmul", (0, 4), (1, 2, 5, 7)),
        Node("linear", "linear", (3,), (1, 2, 5, 3), ((3, 6), (3,))),
    )
    trace = Trace("products", nodes, (5, 6))
    assert [macs(trace, node) for node in nodes[3:]] == [2 * 5 * 7 * (8 + 6), 0, 2 * 5 * 7 * 8, 2 * 5 * 3 * 6]
    assert weight_bytes(nodes[6]) == 2 * 18 + 4 * 3


def test_a_weight_matrix_may_come_first_or_last() -> None:
    x = Node("x", "input", (), (1, 5, 7))
    last = Node("last", "matmul", (0,), (1, 5, 3), ((7, 3),))
    first = Node("first", "matmul", (0,), (1, 3, 7), ((3, 5),))
    trace = Trace("matmuls", (x, last, first), (1, 2))
    assert [macs(trace, last), macs(trace, first)] == [5 * 3 * 7, 3 * 7 * 5]


def test_a_model_must_compute_something() -> None:
    with pytest.raises(ProblemError, match="a model must compute something"):
        analyse(Trace("identity", (IMAGE,), (0,)), 1, H200)


def test_nested_blocks_are_counted_once() -> None:
    nodes = (
        IMAGE,
        Node("a", "conv2d", (0,), (1, 8, 4, 4), ((8, 8, 1, 1),)),
        Node("b", "conv2d", (1,), (1, 8, 4, 4), ((8, 8, 1, 1),)),
        Node("c", "conv2d", (2,), (1, 8, 4, 4), ((8, 8, 1, 1),)),
        Node("inner", "add", (3, 1), (1, 8, 4, 4)),
        Node("outer", "add", (4, 0), (1, 8, 4, 4)),
    )
    (block,) = residual_blocks(Trace("nested", nodes, (5,)))
    assert block.fused == (2, 3, 4, 5)


BAD: dict[str, Any] = {
    "text": "{",
    "list": [],
    "schema": {"schema": 99, "model": "m", "outputs": [0], "nodes": []},
    "no nodes": {"schema": 1, "model": "m", "outputs": [0], "nodes": []},
    "ahead": {"schema": 1, "model": "m", "outputs": [0], "nodes": [["x", "input", [], [1]], ["y", "relu", [1], [1]]]},
    "nothing": {"schema": 1, "model": "m", "outputs": [0], "nodes": [["x", "relu", [], [1]]]},
    "float": {"schema": 1, "model": "m", "outputs": [0], "nodes": [["x", "input", [], [1.5]]]},
    "short": {"schema": 1, "model": "m", "outputs": [0], "nodes": [["x"]]},
    "zero": {"schema": 1, "model": "m", "outputs": [0], "nodes": [["x", "input", [], [1, 0]]]},
    "negative": {"schema": 1, "model": "m", "outputs": [0], "nodes": [["x", "input", [], [1, -3]]]},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(BAD[name] if isinstance(BAD[name], str) else json.dumps(BAD[name]))
    with pytest.raises(ProblemError, match="trace") as raised:
        load_trace(path)
    assert "\n" not in str(raised.value)


def test_saving_where_one_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="choose another path"):
        save_trace(traced("resnet50"), tmp_path / "none" / "trace.json")


def test_batch_must_be_positive() -> None:
    with pytest.raises(ProblemError, match="batch must be an integer >= 1"):
        analyse(traced("resnet50"), 0, H200)
