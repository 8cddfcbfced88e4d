"""The network on a GPU that the emulator plays: real plans, sources, packed weights and addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_gpu import DEVICE, GRAPH, NETWORK, WEIGHTS, Array, FakeGpu, images, model

from kgen.errors import ArrayError, DeviceError
from kgen.networks import GpuNetwork, fold, layered, reference
from kgen.networks.arena import ALIGNMENT_BYTES, plan_arena
from kgen.networks.programs import NetworkPrograms
from kgen.render import render

pytest.importorskip("cupy_backends")


def assert_right(logits: Any, x: Any) -> None:
    folded = fold(NETWORK, WEIGHTS)
    truth = reference(NETWORK, folded, x)
    bound = 2 * np.linalg.norm(layered(NETWORK, folded, x).astype(np.float64) - truth)
    assert logits.shape == truth.shape and logits.dtype == np.float16
    assert 0 < np.linalg.norm(logits.astype(np.float64) - truth) <= bound


def test_logits_are_right_at_every_batch_and_size(gpu: FakeGpu) -> None:
    network = model()
    for batch, height, width in ((2, 8, 9), (1, 8, 9), (3, 9, 12), (2, 8, 9)):
        x = images(batch, height, width, seed=batch)
        assert_right(network(x).values, x.values)


def test_the_same_shape_is_prepared_once_and_its_graph_runs_every_layer(gpu: FakeGpu) -> None:
    network = model()
    for seed in (0, 1):
        gpu.launches.clear()
        network(images(2, seed=seed))
        layers = ["patchconv", "convfirst", "convfirst", "patchconv", "convfirst", "classifier"]
        assert gpu.launches == [(name, GRAPH) for name in layers]
    assert gpu.graphs == 1
    assert gpu.events == [("wait", 7), ("graph", 7), ("record", 7), ("graph", 7), ("record", 7)]


def test_a_new_stream_waits_for_the_last_call(gpu: FakeGpu) -> None:
    network, x = model(), images(2)
    network(x)
    gpu.stream = 8
    network(x)
    assert gpu.events[3:] == [("wait", 8), ("graph", 8), ("record", 8)]


def test_a_captured_call_launches_every_kernel_itself_and_keeps_its_buffers(gpu: FakeGpu) -> None:
    network, x = model(), images(1)
    network(x)
    gpu.launches.clear()
    gpu.events.clear()
    gpu.capturing = True
    assert_right(network(x).values, x.values)
    gpu.capturing = False
    assert len(gpu.launches) == 6 and not gpu.events
    before = network._memory
    network(images(4))
    assert network._memory is not before and network._kept == [before]


def test_out_is_filled_and_returned(gpu: FakeGpu) -> None:
    x, out = images(2), Array.of(np.full((2, 10), np.nan, np.float16))
    assert model()(x, out=out) is out
    assert_right(out.values, x.values)
    with pytest.raises(ArrayError, match=r"out must have shape \(2, 10\)"):
        model()(x, out=Array.of(np.empty((2, 11), np.float16)))


def test_clones_share_weights_and_kernels_but_no_buffers(gpu: FakeGpu) -> None:
    one, x = model(), images(2)
    one(x)
    other = one.clone()
    assert_right(other(x).values, x.values)
    assert other._programs is one._programs and other._memory is not one._memory


def test_too_little_memory_is_said_in_a_sentence(gpu: FakeGpu) -> None:
    network = model()
    gpu.room = 1000
    with pytest.raises(DeviceError, match=r"tiny needs 0.00 GB of GPU memory .* use a smaller batch"):
        network(images(2))
    gpu.room = 1 << 40
    assert_right(network(images(2)).values, images(2).values)


def test_images_of_another_dtype_are_refused_before_anything_is_compiled(gpu: FakeGpu) -> None:
    with pytest.raises(ArrayError, match="images must have dtype uint8, but got float16"):
        model()(Array.of(np.zeros((2, 3, 8, 9), np.float16)))
    assert not gpu.launches


def test_an_arena_has_two_buffers_by_turns_and_one_workspace() -> None:
    arena = plan_arena([300, 100, 500, 40], [0, 1000, 64, 0])
    assert arena.y == (0, 512, 0)
    assert (arena.workspace, arena.bytes) == (768, 768 + 1024)
    assert all(offset % ALIGNMENT_BYTES == 0 for offset in (*arena.y, arena.workspace))


def test_the_kernels_are_those_that_the_tuner_sees(gpu: FakeGpu) -> None:
    """One source a layer, whatever the batch: a network's kernels are its blocks'."""
    programs = NetworkPrograms(NETWORK, WEIGHTS, DEVICE, 0, None)
    first, second = (programs.load(NETWORK.layers(batch, 8, 9)) for batch in (1, 2))
    for one, other in zip(first, second, strict=True):
        assert render(one.program).text == render(other.program).text
    assert first[1] is first[2] and programs.load(NETWORK.layers(1, 8, 9)) == first


def test_problems_without_a_config_are_tuned_when_told_to(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, known = [], NETWORK.layers(2, 8, 9)[0].problem
    monkeypatch.setattr("kgen.networks.programs.is_tuned", lambda problem, device, folder: problem == known)
    monkeypatch.setattr("kgen.search.tune", lambda problem, device, **limits: tuned.append(problem))
    x = images(2)
    assert_right(GpuNetwork(NetworkPrograms(NETWORK, WEIGHTS, DEVICE, 0, None, tunes=True))(x).values, x.values)
    assert set(tuned) == {layer.problem for layer in NETWORK.layers(2, 8, 9)} - {known} and len(tuned) == 4
