"""Weights of a network: random ones of order 1, folded by layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from network_samples import NETWORK

from kgen.blocks import family
from kgen.errors import WeightsError
from kgen.networks import HostNetwork, Network, NetworkWeights, convfirst_tiny, fold
from kgen.networks.parts import parts_of


def test_random_weights_are_seeded():
    one, same, other = (NetworkWeights.random(NETWORK, seed) for seed in (3, 3, 4))
    weights = [w.layers["stages.1.blocks.1"].project.weight for w in (one, same, other)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[0], one.layers["stages.1.blocks.0"].project.weight)


@pytest.mark.parametrize("pixels", ["storage", "uint8"])
def test_logits_stay_of_order_one_through_27_blocks(pixels):
    network = Network("net", (32, 64, 96, 128), (3, 3, 27, 3), pixels=pixels)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 96, 96, 3)).astype(np.float16)
    images = images if pixels == "storage" else rng.integers(0, 256, images.shape, dtype=np.uint8)
    logits = HostNetwork(network, NetworkWeights.random(network))(images).astype(np.float64)
    assert 0.3 < logits.std() < 3
    assert abs(logits).max() < 20
    assert np.std(logits[0] - logits[1]) > 0.1, "logits must depend on the image"


def test_activations_stay_of_order_one_through_27_blocks():
    network = Network("deep", (32, 32), (27, 27))
    folded = fold(network, NetworkWeights.random(network))
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float16)
    for layer in network.layers(1, 32, 32)[:-1]:
        x = family(layer.problem.family).float32_forward(layer.problem, folded[layer.name], x)
        assert 0.3 < x.astype(np.float64).std() < 4, layer.name


def test_folded_weights_serve_every_shape():
    network = replace(NETWORK, dtype="bfloat16", pixels="uint8", order="nchw")
    folded = fold(network, NetworkWeights.random(network))
    for layer in network.layers(3, 20, 31):
        family(layer.problem.family).pack(layer.problem, folded[layer.name])
    assert list(folded) == [layer.name for layer in network.layers(1, 4, 4)]


def test_batch_norms_fold_into_the_same_network():
    weights = NetworkWeights.random(NETWORK)
    merged = weights.without_batch_norms()
    assert merged.layers["stages.0.blocks.0"].expand.bn is None
    for layer, want in fold(NETWORK, weights).items():
        for field, values in vars(fold(NETWORK, merged)[layer]).items():
            np.testing.assert_allclose(values, getattr(want, field), rtol=2**-10)
    uint8 = replace(NETWORK, pixels="uint8")
    np.testing.assert_array_equal(NetworkWeights.random(uint8).without_batch_norms().layers["stem"].mean, [0.45] * 3)


def test_weights_that_do_not_fit_are_named():
    weights = NetworkWeights.random(NETWORK)
    with pytest.raises(WeightsError, match="weights must be NetworkWeights, but got dict; use load_weights"):
        fold(NETWORK, weights.layers)
    with pytest.raises(WeightsError, match="weights of net must have the network's names, but it lacks head; check"):
        fold(NETWORK, NetworkWeights({name: w for name, w in weights.layers.items() if name != "head"}))
    with pytest.raises(WeightsError, match=r"lacks stages.0.blocks.1, .* and 5 more; check"):
        fold(convfirst_tiny(), weights)
    with pytest.raises(WeightsError, match=r"layer head of net: linear.weight must have shape \(11, 32\)"):
        fold(replace(NETWORK, classes=11), weights)
    with pytest.raises(WeightsError, match=r"layer stages.0.blocks.0 of net: weights must be a ConvFirstWeights"):
        fold(NETWORK, NetworkWeights({**weights.layers, "stages.0.blocks.0": weights.layers["stem"]}))


def test_parts_are_the_convolutions_in_order():
    parts = parts_of(NETWORK)
    assert [(part.conv, part.bn) for part in parts[:3]] == [
        ("stem.conv", "stem.bn"),
        ("stages.0.blocks.0.conv", "stages.0.blocks.0.conv_bn"),
        ("stages.0.blocks.0.expand", "stages.0.blocks.0.expand_bn"),
    ]
    assert (parts[-1].conv, parts[-1].bn, parts[-1].shape) == ("head", None, (10, 32))
    assert len(parts) == 1 + 3 * 3 + 1 + 1
