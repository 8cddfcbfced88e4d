"""Networks as data: which layers they have, and what is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import pytest

import kgen
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.patchconv.problem import PatchConv
from kgen.errors import ProblemError
from kgen.networks import Network, convfirst_base, convfirst_narrow, convfirst_small, convfirst_tiny, variant

TINY = Network("net", (16, 32), (1, 2), expansion=2, activation="relu", classes=10, patch=2, dtype="bfloat16")


def test_layers_in_launch_order():
    block = ConvFirst(3, 5, 6, 32, 2, "relu", "bfloat16")
    assert [(layer.name, layer.problem) for layer in TINY.layers(3, 20, 25)] == [
        ("stem", PatchConv(3, 20, 25, 3, 16, 2, dtype="bfloat16")),
        ("stages.0.blocks.0", ConvFirst(3, 10, 12, 16, 2, "relu", "bfloat16")),
        ("stages.1.downsample", PatchConv(3, 10, 12, 16, 32, 2, dtype="bfloat16")),
        ("stages.1.blocks.0", block),
        ("stages.1.blocks.1", block),
        ("head", Classifier(3, 5, 6, 32, 10, "bfloat16")),
    ]


def test_only_the_stem_knows_the_images():
    images = {"pixels": "uint8", "order": "nchw", "image_channels": 4}
    stem, *rest = replace(TINY, **images).layers(3, 20, 25)
    assert stem.problem == PatchConv(3, 20, 25, 4, 16, 2, dtype="bfloat16", pixels="uint8", order="nchw")
    assert tuple(rest) == TINY.layers(3, 20, 25)[1:]


@pytest.mark.parametrize("make", [convfirst_tiny, convfirst_small, convfirst_base, convfirst_narrow])
@pytest.mark.parametrize("size", [(32, 32), (33, 63), (224, 224), (225, 511)])
def test_every_output_is_the_next_input(make, size):
    network = make(dtype="bfloat16", classes=7, pixels="uint8", order="nchw")
    layers = network.layers(2, *size)
    assert all(one.problem.y == other.problem.x for one, other in itertools.pairwise(layers))
    assert layers[0].problem.x.views[0].shape == (2, 3, *size)
    assert layers[-1].problem.y.views[0].shape == (2, 7)
    assert len({layer.name for layer in layers}) == len(layers)
    assert hash(network) == hash(make(dtype="bfloat16", classes=7, pixels="uint8", order="nchw"))


@pytest.mark.parametrize(
    ("make", "widths", "depths"),
    [
        (convfirst_tiny, (96, 192, 384, 768), (3, 3, 9, 3)),
        (convfirst_small, (96, 192, 384, 768), (3, 3, 27, 3)),
        (convfirst_base, (128, 256, 512, 1024), (3, 3, 27, 3)),
        (convfirst_narrow, (64, 128, 256, 512), (3, 4, 18, 3)),
    ],
)
def test_variants(make, widths, depths):
    network = make()
    assert network == Network(make.__name__, widths, depths) == variant(make.__name__)
    names = [layer.name for layer in network.layers(1, 32, 32)]
    assert [sum(name.startswith(f"stages.{i}.blocks.") for name in names) for i in range(4)] == list(depths)
    assert len(names) == 1 + sum(depths) + 3 + 1


def test_an_unknown_variant_is_refused():
    with pytest.raises(ProblemError, match=r"must be one of convfirst_tiny, .* but got 'resnet'; choose"):
        variant("resnet")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"widths": [16, 32]}, "widths and depths must be tuples, but got"),
        ({"widths": ()}, "one value per stage, but got 0 and 2"),
        ({"widths": (), "depths": ()}, "one value per stage, but got 0 and 0"),
        ({"depths": (1, 2, 3)}, "one value per stage, but got 2 and 3"),
        ({"depths": (1, 0)}, r"depths\[1\] must be an integer >= 1"),
        ({"widths": (16, True)}, r"widths\[1\] must be an integer >= 1"),
        ({"widths": (20, 32)}, "layer stem of net must be legal, but outputs must be a multiple of 16 .* outputs=20"),
        ({"widths": (16, 2048)}, r"layer stages.1.blocks.0 of net must be legal, but channels must .* channels=2048"),
        ({"expansion": 1.01}, "layer stages.0.blocks.0 of net must be legal, but expansion"),
        ({"activation": "tanh"}, "layer stages.0.blocks.0 of net must be legal, but activation"),
        ({"image_channels": 5}, "layer stem of net must be legal, but channels"),
        ({"image_channels": 0}, "layer stem of net must be legal, but channels"),
        ({"classes": 0}, "layer head of net must be legal, but classes"),
        ({"patch": 3}, "layer stem of net must be legal, but patch"),
        ({"patch": 0}, "patch must be an integer >= 1"),
        ({"dtype": "float32"}, "layer stem of net must be legal, but dtype"),
        ({"pixels": "int8"}, "layer stem of net must be legal, but pixels"),
        ({"order": "chwn"}, "layer stem of net must be legal, but order"),
    ],
)
def test_a_broken_rule_is_named(changes, sentence):
    with pytest.raises(ProblemError, match=sentence):
        replace(TINY, **changes)


def test_small_images_are_refused():
    assert TINY.least_size == 4
    assert TINY.layers(1, 4, 4)[-1].problem == Classifier(1, 1, 1, 32, 10, "bfloat16")
    assert convfirst_tiny().least_size == 32
    with pytest.raises(ProblemError, match=r"images must be at least 32x32, .* 4 stages .* but got 224x31; use larger"):
        convfirst_tiny().layers(1, 224, 31)
    with pytest.raises(ProblemError, match=r"^batch must be an integer >= 1"):
        TINY.layers(0, 4, 4)


def test_networks_come_with_kgen_when_they_are_asked_for():
    script = "import sys, kgen; assert 'kgen.networks' not in sys.modules; print(kgen.networks.convfirst_tiny().name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "convfirst_tiny\n"
    assert "networks" in kgen.__all__
