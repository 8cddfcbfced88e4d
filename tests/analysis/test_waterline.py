"""Waterlines computed by hand: one ConvFirst block, its classifier and network, and the levels of memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kgen import tuned
from kgen.analysis.bars import bars, caption
from kgen.analysis.kernels import Kernel, Sequence, merged
from kgen.analysis.problems import fused, layered, network_sequences, problem_sequences
from kgen.blocks import family
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.patchconv.problem import PatchConv
from kgen.devices import find_device
from kgen.networks import Network, convfirst_tiny
from kgen.render import template_digest
from kgen.tuned import Measurement, TunedEntry

H200 = find_device("h200")
ROUND = replace(H200, peak_flops=1e15, dram_bytes_per_s=5e12, l2_bytes_per_s=1e13)  # a waterline of 200
BLOCK = ConvFirst(256, 56, 56, 64)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))


def test_convfirst_by_hand() -> None:
    """64 channels, 256 hidden, 256 x 56 x 56 = 802,816 pixels, all tensors in 2 bytes, biases in 4."""
    conv, expand, project = layered(BLOCK)
    # Grouped conv: 64 channels x 8 inputs x 9 taps = 4,608 multiply-accumulates a pixel.
    assert conv.flops == 802_816 * 2 * 4_608 == 7_398_752_256
    # x 102,760,448 + weights 2 x 4,608 + bias 4 x 64 + z 102,760,448
    assert conv.dram_bytes == 102_760_448 + 9_216 + 256 + 102_760_448 == 205_530_368
    # Expand and project: 64 x 256 = 16,384 multiply-accumulates a pixel each.
    assert expand.flops == project.flops == 802_816 * 2 * 16_384 == 26_306_674_688
    # z + weights 2 x 16,384 + bias 4 x 256 + h of 256 channels, 411,041,792
    assert expand.dram_bytes == 102_760_448 + 32_768 + 1_024 + 411_041_792 == 513_836_032
    # h + weights + bias 4 x 64 + x once more for the residual + y
    assert project.dram_bytes == 411_041_792 + 32_768 + 256 + 2 * 102_760_448 == 616_595_712
    # Fused: x, all weights and biases, y.
    whole = fused(BLOCK)
    assert whole.flops == 7_398_752_256 + 2 * 26_306_674_688
    assert whole.dram_bytes == 2 * 102_760_448 + 9_216 + 2 * 32_768 + 4 * (64 + 256 + 64) == 205_597_184
    # Against P = 1e15 and B = 5e12, layer by layer all three lie under the waterline of 200, at 36, 51 and 43.
    assert [round(kernel.intensity) for kernel in (conv, expand, project)] == [36, 51, 43]
    layers, block = problem_sequences(BLOCK, ROUND)
    assert layers.attainable_us == pytest.approx(41.106074 + 102.767206 + 123.319142)
    # The block lies above it, at 292, and is bound by arithmetic.
    assert round(whole.intensity) == 292
    assert block.attainable_us == block.ideal_us == pytest.approx(60.012102)
    assert layers.attainable_efficiency == pytest.approx(60.012102 / 267.192422)
    # At the level of L2, of twice the bandwidth, layer by layer takes half as long.
    assert layers.l2_attainable_us == pytest.approx(267.192422 / 2)
    assert layers.share(layers.kernels[2]) == pytest.approx(123.319142 / 267.192422)


@pytest.mark.parametrize(
    "problem",
    [
        BLOCK,
        ConvFirst(2, 5, 7, 48, expansion=4 / 3, residual=False),
        ConvFirst(1, 14, 14, 256, matmul="float8"),
        PatchConv(4, 224, 224, 3, 96, 4, pixels="uint8"),
        Classifier(4, 7, 7, 768),
    ],
    ids=str,
)
def test_layers_add_up_to_the_block(problem: Any) -> None:
    layers, whole = layered(problem), fused(problem)
    assert sum(kernel.flops for kernel in layers) == whole.flops == problem.flops
    assert sum(kernel.float8_flops for kernel in layers) == whole.float8_flops
    assert whole.dram_bytes == problem.min_dram_bytes
    between = sum(kernel.dram_bytes for kernel in layers) - whole.dram_bytes
    assert between == hidden_traffic(problem)


def hidden_traffic(problem: Any) -> int:
    """What lies between the layers, written and read, and x read again for the residual."""
    if isinstance(problem, ConvFirst):
        residual = problem.x.bytes if problem.residual else 0
        return 2 * problem.matmul_bytes * problem.pixels * (problem.channels + problem.hidden) + residual
    return 4 * problem.batch * problem.channels if isinstance(problem, Classifier) else 0


def test_float8_matmuls_run_at_twice_the_peak() -> None:
    kernel = Kernel("matmul", 1000, 1, float8_flops=600)
    device = replace(ROUND, peak_flops=1e6, dram_bytes_per_s=1e12)
    assert kernel.attainable_us(device) == pytest.approx(400 + 600 / 2)
    assert kernel.ideal_us(device) == pytest.approx(1000)


def test_without_l2_bandwidth_there_is_no_l2_level() -> None:
    layers, _ = problem_sequences(BLOCK, find_device("a100"))
    assert layers.l2_attainable_us is None and layers.kernels[0].l2_attainable_us(find_device("a100")) is None


def test_merged_keeps_the_first_name_and_counts() -> None:
    kernels = (Kernel("a", 1, 2), Kernel("b", 3, 4), Kernel("c", 1, 2, times=2), Kernel("d", 1, 2, measured_us=5.0))
    assert merged(kernels) == (
        Kernel("a", 1, 2, times=3),
        Kernel("b", 3, 4),
        Kernel("d", 1, 2, measured_us=5.0),
    )


def test_a_network_is_the_sum_of_its_layers() -> None:
    layers, blocks = network_sequences(convfirst_tiny(), 256, 224, H200)
    problems = [layer.problem for layer in convfirst_tiny().layers(256, 224, 224)]
    assert layers.flops == blocks.flops == sum(problem.flops for problem in problems)
    assert blocks.launches == len(problems) == 23 and layers.launches == 23 + 2 * 18 + 1
    assert blocks.dram_bytes == sum(problem.min_dram_bytes for problem in problems)
    each = [problem_sequences(problem, H200) for problem in problems]
    assert layers.attainable_us == pytest.approx(sum(one.attainable_us for one, _ in each))
    assert blocks.attainable_us == pytest.approx(sum(one.attainable_us for _, one in each))


def test_golden_bars_of_a_network() -> None:
    layers, blocks = network_sequences(convfirst_tiny(), 256, 224, H200)
    found = [(bar.name, round(bar.width, 4), round(bar.height, 1), bar.under_water) for bar in bars(blocks)]
    assert found == [
        ("stem", 0.0032, 32.0, True),
        ("stages.0.blocks.0", 0.1684, 419.8, False),
        ("stages.1.downsample", 0.0128, 127.9, True),
        ("stages.1.blocks.0", 0.1612, 800.8, False),
        ("stages.2.downsample", 0.0128, 254.7, False),
        ("stages.2.blocks.0", 0.4727, 1524.1, False),
        ("stages.3.downsample", 0.0128, 491.9, False),
        ("stages.3.blocks.0", 0.1558, 2489.9, False),
        ("head", 0.0002, 18.9, True),
    ]
    for sequence in (layers, blocks):
        all_bars = bars(sequence)
        assert sum(bar.width for bar in all_bars) == pytest.approx(1)
        assert all(b.left == pytest.approx(a.left + a.width) for a, b in pairwise(all_bars))
    # Layer by layer: stem, first downsampling, all of stages 0 and 1, the convolutions of stages 2 and 3, head.
    under_water = 0.0032 + 0.0128 + 0.1684 + 0.1612 + 0.0108 + 0.0018 + 0.0002
    assert sum(bar.width for bar in bars(layers) if bar.under_water) == pytest.approx(under_water, abs=1e-4)


def test_caption_tells_what_has_no_bar() -> None:
    sequence = Sequence("both", (Kernel("a", 10**9, 5, measured_us=3.0), Kernel("b", 0, 10**7)), ROUND)
    assert [bar.name for bar in bars(sequence)] == ["a"]
    assert caption(sequence) == (
        "both, kernels: 2\nattainable 3.0 us, ideal 1.0 us\n"
        "attainable includes 2.0 us of kernels without operations (no bar)"
    )
    assert "measured 3.0 us" in caption(replace(sequence, kernels=sequence.kernels[:1]))


def test_measured_times_stand_beside_fused_blocks(tmp_path: Path) -> None:
    network = Network("tiny", (16,), (2,), expansion=2, classes=10, patch=2)
    for layer in network.layers(2, 8, 8):
        save_measured(layer.problem, tmp_path)
    layers, blocks = network_sequences(network, 2, 8, H200, tmp_path)
    assert [kernel.measured_us for kernel in blocks.kernels] == [12.5, 12.5, 12.5] and blocks.measured_us == 50.0
    assert layers.measured_us is None and {kernel.measured_us for kernel in layers.kernels} == {None}


def save_measured(problem: Any, folder: Path) -> None:
    config = family(problem.family).default_config(problem, H200)
    entry = TunedEntry(
        problem=problem,
        config=config,
        measured=Measurement(median_us=12.5, p20_us=12.0, p80_us=13.0, efficiency=0.3, error=1e-3),
        modelled_us=10.0,
        intensity=1.0,
        attainable_efficiency=0.5,
        error=None,
        trials=1,
        seconds=1.0,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        template_digest=template_digest(config.template),
    )
    tuned.save(entry, H200, folder)
