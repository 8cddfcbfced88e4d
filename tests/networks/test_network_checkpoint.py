"""Safetensors files: the contract of names, what is refused, and that what is written is read."""

from __future__ import annotations

import os
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import safetensors
from network_samples import BN, NETWORK, state_dict, write

from kgen.blocks.layers import BatchNorm
from kgen.errors import WeightsError
from kgen.networks import NetworkWeights, convfirst_tiny, fold, load_weights, save_weights


def same(one, other):
    """Whether two folded networks are equal, to the bit."""
    assert list(one) == list(other)
    return all(
        np.array_equal(values, getattr(other[layer], field))
        for layer, weights in one.items()
        for field, values in vars(weights).items()
    )


def test_names_are_pytorchs(tmp_path):
    tensors = state_dict()
    weights = load_weights(write(tmp_path / "net.safetensors", tensors), NETWORK)
    block = weights.layers["stages.1.blocks.1"]
    for part in ("conv", "expand", "project"):
        conv = getattr(block, part)
        np.testing.assert_array_equal(conv.weight, tensors[f"stages.1.blocks.1.{part}.weight"])
        for field, name in zip(("gamma", "beta", "mean", "var"), BN, strict=True):
            values = tensors[f"stages.1.blocks.1.{part}_bn.{name}"]
            np.testing.assert_array_equal(getattr(conv.bn, field), values)
        assert conv.bn.eps == 1e-5
        assert conv.bias is None
    for layer, name in (("stem", "stem"), ("stages.1.downsample", "stages.1.downsample")):
        conv = weights.layers[layer].conv
        np.testing.assert_array_equal(conv.weight, tensors[f"{name}.conv.weight"])
        np.testing.assert_array_equal(conv.bn.var, tensors[f"{name}.bn.running_var"])
    np.testing.assert_array_equal(weights.layers["head"].linear.weight, tensors["head.weight"])
    np.testing.assert_array_equal(weights.layers["head"].linear.bias, tensors["head.bias"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_dtypes(tmp_path, dtype):
    tensors = state_dict(dtype=dtype)
    weights = load_weights(write(tmp_path / "net.safetensors", tensors), NETWORK)
    assert weights.layers["stem"].conv.weight.dtype == dtype
    np.testing.assert_array_equal(weights.layers["stem"].conv.weight, tensors["stem.conv.weight"])
    fold(NETWORK, weights)


def test_matrices_counters_and_biases_are_taken(tmp_path):
    tensors = state_dict()
    plain = fold(NETWORK, load_weights(write(tmp_path / "plain", tensors), NETWORK))
    changed = {name: v[..., 0, 0] if v.shape[2:] == (1, 1) else v for name, v in tensors.items()}
    changed |= {f"{name[:-7]}.num_batches_tracked": np.array(7) for name in tensors if name.endswith("bn.weight")}
    changed["stem.conv.bias"] = np.full(16, 0.25, np.float32)
    changed["stem.bn.running_mean"] = tensors["stem.bn.running_mean"] + np.float32(0.25)
    folded = fold(NETWORK, load_weights(write(tmp_path / "changed", changed), NETWORK))
    np.testing.assert_allclose(folded["stem"].conv_bias, plain["stem"].conv_bias, rtol=1e-5)
    assert same(folded | {"stem": plain["stem"]}, plain)


def test_eps_is_the_files(tmp_path):
    tensors = state_dict()
    weights = load_weights(write(tmp_path / "net", tensors, {"bn_eps": "0.001", "format": "pt"}), NETWORK)
    assert weights.layers["stem"].conv.bn.eps == 0.001
    with pytest.raises(WeightsError, match=r"metadata bn_eps of weights file .*net must be a number, but got 'small'"):
        load_weights(write(tmp_path / "net", tensors, {"bn_eps": "small"}), NETWORK)


def test_convolutions_may_be_folded_already(tmp_path):
    weights = load_weights(write(tmp_path / "net", state_dict()), NETWORK)
    save_weights(tmp_path / "folded", NETWORK, weights.without_batch_norms())
    names = set(safetensors.numpy.load_file(tmp_path / "folded"))
    assert not any("bn" in name for name in names)
    assert {"stem.conv.weight", "stem.conv.bias", "stages.0.blocks.0.expand.bias", "head.bias"} < names
    folded = fold(NETWORK, load_weights(tmp_path / "folded", NETWORK))
    for layer, want in fold(NETWORK, weights).items():
        for field, values in vars(want).items():
            np.testing.assert_allclose(getattr(folded[layer], field), values, rtol=2**-10)
    without_bias = {name: v for name, v in state_dict().items() if "bn." not in name}
    assert load_weights(write(tmp_path / "bare", without_bias), NETWORK).layers["stem"].conv.bias is None


def test_normalisation_is_given_at_load_time(tmp_path):
    network = replace(NETWORK, pixels="uint8")
    mean, std = (0.5, 0.25, 0.125), (0.2, 0.25, 0.5)
    path = write(tmp_path / "net", state_dict())
    stem = load_weights(path, network, mean=mean, std=std).layers["stem"]
    assert (stem.mean, stem.std) == (mean, std)
    assert load_weights(path, network).layers["stem"].mean is None


@pytest.mark.parametrize("merged", [False, True])
def test_what_is_saved_is_loaded(tmp_path, merged):
    weights = NetworkWeights.random(NETWORK)
    weights = weights.without_batch_norms() if merged else weights
    save_weights(tmp_path / "net", NETWORK, weights)
    tensors = safetensors.numpy.load_file(tmp_path / "net")
    wanted = {name: values.shape for name, values in state_dict().items() if not (merged and "bn." in name)}
    biases = {name for name in tensors if name.endswith((".conv.bias", ".expand.bias", ".project.bias"))}
    assert {name: values.shape for name, values in tensors.items() if name not in biases} == wanted
    assert {values.dtype.name for values in tensors.values()} == {"float32"}
    assert same(fold(NETWORK, load_weights(tmp_path / "net", NETWORK)), fold(NETWORK, weights))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_saving_brings_any_array_into_shape(tmp_path):
    weights = NetworkWeights.random(NETWORK)
    stem = weights.layers["stem"]
    odd = replace(stem.conv, weight=np.asfortranarray(stem.conv.weight, dtype=np.float64), bias=None)
    head = weights.layers["head"]
    layers = {
        **weights.layers,
        "stem": replace(stem, conv=odd),
        "head": replace(head, linear=replace(head.linear, bias=None)),
    }
    save_weights(tmp_path / "net", NETWORK, NetworkWeights(layers))
    tensors = safetensors.numpy.load_file(tmp_path / "net")
    np.testing.assert_array_equal(tensors["stem.conv.weight"], stem.conv.weight)
    np.testing.assert_array_equal(tensors["head.bias"], np.zeros(10))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    weights = NetworkWeights.random(NETWORK)
    save_weights(tmp_path / "net", NETWORK, weights)
    before = (tmp_path / "net").read_bytes()
    stem = weights.layers["stem"]
    other_eps = replace(stem.conv, bn=replace(stem.conv.bn, eps=1e-3))
    bad = NetworkWeights({**weights.layers, "stem": replace(stem, conv=other_eps)})
    with pytest.raises(WeightsError, match=r"BatchNorms must have one eps to be saved, but got 0.001, 1e-05; fold"):
        save_weights(tmp_path / "net", NETWORK, bad)
    with pytest.raises(WeightsError, match="weights of convfirst_tiny must have the network's names"):
        save_weights(tmp_path / "net", convfirst_tiny(), weights)
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(WeightsError, match=r"weights file .*net must be writable, .*No space left on device"):
        save_weights(tmp_path / "net", NETWORK, weights)
    assert (tmp_path / "net").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_all_missing_and_unexpected_names_are_told_at_once(tmp_path):
    tensors = state_dict()
    spoiled = {name.replace("stages.1.", "layers.1."): values for name, values in tensors.items()}
    del spoiled["head.bias"], spoiled["stem.bn.running_var"]
    with pytest.raises(WeightsError) as told:
        load_weights(write(tmp_path / "net", spoiled), NETWORK)
    text = str(told.value)
    assert text.startswith(
        f"weights file {tmp_path / 'net'} for net must have the network's names, but it lacks head.bias, "
    )
    assert "stages.1.blocks.0.conv.weight" in text
    assert "layers.1.blocks.0.conv.weight" in text
    assert "stem.bn.running_var" in text
    # absent BatchNorms are not missed: 7 weights, head.bias and running_var are; 7 weights and 28 tensors are unknown
    assert "it has no use for layers.1.blocks.0.conv.weight, " in text
    assert text.count(" more") == 1
    assert "and 23 more; check" in text


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        ("head.weight", lambda v: v[:9], r"F32 or F16 or BF16 of shape \(10, 32\), but got F32 of shape \(9, 32\)"),
        ("stem.conv.weight", lambda v: v.transpose(0, 2, 3, 1).copy(), r".* of shape \(16, 3, 2, 2\), but got F32 of"),
        ("stages.0.blocks.0.expand.weight", lambda v: v[0], r".* of shape \(32, 16, 1, 1\) or \(32, 16\), but got"),
        ("stem.bn.bias", lambda v: v.astype(np.float64), r"F32 or F16 or BF16 of shape \(16,\), but got F64 of"),
        ("stem.bn.running_var", lambda v: v * np.nan, "finite, but 16 of 16 values are NaN and 0 are infinite"),
        ("head.bias", lambda v: v / 0, "finite, but 0 of 10 values are NaN and 10 are infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_wrong_tensor_is_named(tmp_path, name, spoil, sentence):
    tensors = state_dict()
    path = write(tmp_path / "net", tensors | {name: spoil(tensors[name])})
    with pytest.raises(WeightsError, match=rf"^{name} in weights file \S*net must be {sentence}"):
        load_weights(path, NETWORK)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    data = write(tmp_path / "net", state_dict()).read_bytes()
    for length in (0, 5, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(WeightsError, match="cut must be a whole safetensors file, but it is none or truncated"):
            load_weights(tmp_path / "cut", NETWORK)
    (tmp_path / "text").write_text("weights, but not as tensors" * 100)
    with pytest.raises(WeightsError, match="text must be a whole safetensors file"):
        load_weights(tmp_path / "text", NETWORK)
    with pytest.raises(WeightsError, match=r"absent must be readable, but reading it failed .No such file"):
        load_weights(tmp_path / "absent", NETWORK)
    with pytest.raises(WeightsError, match=r"must be readable, but reading it failed .Is a directory"):
        load_weights(str(tmp_path), NETWORK)


def test_a_negative_variance_is_named_with_its_layer(tmp_path):
    tensors = state_dict()
    tensors["stages.1.blocks.0.expand_bn.running_var"][3] = -1
    weights = load_weights(write(tmp_path / "net", tensors), NETWORK)
    with pytest.raises(WeightsError, match=r"layer stages.1.blocks.0 of net: expand.bn.var must be >= 0, but 1 of 64"):
        fold(NETWORK, weights)
    assert isinstance(weights.layers["stem"].conv.bn, BatchNorm)
