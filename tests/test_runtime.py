from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from host_time import host_us

from kgen import runtime
from kgen.blocks.convfirst import Problem, Weights, default_config, favourites, fold, layered, reference
from kgen.devices import find_device, local_devices
from kgen.errors import ArrayError, DeviceError, WeightsError
from kgen.runtime import KgenWarning, load
from kgen.tuned import Measurement, TunedEntry, save

H200 = find_device("h200")
PROBLEM = Problem(batch=2, height=5, width=6, channels=32, expansion=2)
WEIGHTS = Weights.random(PROBLEM)
FUSED = Problem(batch=1, height=56, width=56, channels=64)
LAYERS = Problem(batch=32, height=7, width=7, channels=512)
STORAGE = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def image(problem=PROBLEM, seed=3):
    return np.random.default_rng(seed).standard_normal(problem.x.shape).astype(STORAGE[problem.dtype])


def assert_right(problem, x, y):
    folded = fold(problem, Weights.random(problem))
    truth = reference(problem, folded, x)
    yardstick = np.linalg.norm(layered(problem, folded, x).astype(np.float64) - truth)
    assert np.linalg.norm(y.astype(np.float64) - truth) <= 2 * yardstick


class OnTheHost:
    """Tests on a machine without a GPU; on one with a GPU the GPU is hidden."""

    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch):
        monkeypatch.setattr(runtime, "find_device", lambda spec: H200)
        monkeypatch.setattr(runtime, "local_devices", lambda: ())
        monkeypatch.setattr(runtime, "_host_told", True)


class TestHost(OnTheHost):
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_numpy_in_numpy_out(self, dtype):
        problem = replace(PROBLEM, dtype=dtype)
        x = image(problem)
        y = load(problem, WEIGHTS)(x)
        assert (type(y), y.dtype, y.shape) == (np.ndarray, STORAGE[dtype], problem.x.shape)
        assert_right(problem, x, y)

    def test_out_is_filled_and_returned(self):
        block, x, out = load(PROBLEM, WEIGHTS), image(), np.full(PROBLEM.x.shape, np.nan, np.float16)
        assert block(x, out=out) is out
        np.testing.assert_array_equal(out, block(x))

    def test_channels_last_is_taken_and_given(self):
        block, x = load(PROBLEM, WEIGHTS), image()
        y = block(x.transpose(0, 3, 1, 2))
        assert y.shape == (2, 32, 5, 6)
        np.testing.assert_array_equal(y.transpose(0, 2, 3, 1), block(x))

    def test_bfloat16_bits_give_bits(self):
        problem = replace(PROBLEM, dtype="bfloat16")
        block, x = load(problem, WEIGHTS), image(problem)
        y = block(x.view(np.uint16))
        assert y.dtype == np.uint16
        np.testing.assert_array_equal(y.view(ml_dtypes.bfloat16), block(x))

    def test_torch_in_torch_out(self):
        torch = pytest.importorskip("torch")
        for dtype in ("float16", "bfloat16"):
            problem = replace(PROBLEM, dtype=dtype)
            block, x = load(problem, WEIGHTS), image(problem)
            tensor = torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)).permute(0, 3, 1, 2)
            y = block(tensor)
            assert isinstance(y, torch.Tensor)
            assert y.stride() == tensor.stride()
            same = y.permute(0, 2, 3, 1).float().numpy()
            np.testing.assert_array_equal(same, block(x).astype(np.float32))

    @pytest.mark.parametrize(
        ("spoil", "sentence"),
        [
            (lambda x: x.astype(np.float32), "x must have dtype float16, but got float32"),
            (lambda x: x[:1], r"x must have shape .* but got \(1, 5, 6, 32\)"),
            (lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)), "x must be contiguous"),
            (lambda x: np.repeat(x, 2, axis=1)[:, ::2], "x must be contiguous"),
            (lambda x: misaligned(x), "x must start at a multiple of 16 bytes"),
            (lambda x: None, "x must have dtype float16, but got object"),
        ],
    )
    def test_a_wrong_x_is_refused(self, spoil, sentence):
        with pytest.raises(ArrayError, match=sentence):
            load(PROBLEM, WEIGHTS)(spoil(image()))

    def test_a_wrong_out_is_refused(self):
        block, x = load(PROBLEM, WEIGHTS), image()
        with pytest.raises(ArrayError, match="out must not share memory with x"):
            block(x, out=x)
        with pytest.raises(ArrayError, match="out must have dtype float16"):
            block(x, out=np.empty(PROBLEM.x.shape, np.float32))
        with pytest.raises(ArrayError, match="out must be a NumPy array or a PyTorch tensor, but got list"):
            block(x, out=[0])

    def test_weights_of_another_problem_are_refused(self):
        with pytest.raises(WeightsError):
            load(replace(PROBLEM, channels=64), WEIGHTS)

    def test_a_block_tells_what_it_is(self):
        block = load(PROBLEM, WEIGHTS)
        assert block.config is None
        assert "convfirst(batch 2, 5x6, 32 channels" in repr(block)


@pytest.mark.skipif(bool(local_devices()), reason="needs a machine without a GPU")
def test_running_without_a_gpu_is_told_once_per_process():
    script = (
        "import warnings, kgen.runtime as r; from kgen.blocks.convfirst import Problem, Weights\n"
        "p = Problem(1, 2, 2, 16); w = Weights.random(p)\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always'); r.load(p, w); r.load(p, w)\n"
        "print(len(told), told[0].category.__name__, told[0].filename, told[0].message)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith("1 KgenWarning <string> no GPU was found, so blocks run in NumPy")


@pytest.mark.skipif(bool(local_devices()), reason="needs a machine without a GPU")
def test_an_absent_or_unknown_device_is_refused():
    for device in ("cuda:0", "gtx480"):
        with pytest.raises(DeviceError, match="device must be one of"):
            load(PROBLEM, WEIGHTS, device=device)


def test_a_named_device_is_refused_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(runtime, "local_devices", lambda: (replace(H200, ordinal=0),))
    with pytest.raises(DeviceError, match="device='h200' names a datasheet; choose cuda:0"):
        load(PROBLEM, WEIGHTS, device="h200")


class TestConfig:
    """Which config a block runs, and what the caller is told."""

    @pytest.fixture(autouse=True)
    def no_user_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KGEN_TUNED_DIR", str(tmp_path / "user"))

    def config(self, folder, problem=PROBLEM):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            config = runtime.config_for(problem, H200, folder)
        assert all(warning.category is KgenWarning for warning in told)
        return config, [str(warning.message) for warning in told]

    def save(self, folder, *, measured=True, **changes):
        config = replace(default_config(PROBLEM, H200), stages=3)
        timing = Measurement(10.0, 9.0, 11.0, 0.1, 1e-4) if measured else None
        entry = TunedEntry(
            problem=PROBLEM,
            config=config,
            measured=timing,
            modelled_us=None if measured else 9.5,
            intensity=100.0,
            attainable_efficiency=0.9,
            error=1e-4,
            trials=3,
            seconds=5.0,
            when="2026-01-02T03:04:05+00:00",
            template_digest=changes.get("digest") or runtime_digest(),
        )
        save(entry, H200, folder)
        return config

    def test_an_exact_measured_entry_is_used_in_silence(self, tmp_path):
        wanted = self.save(tmp_path)
        assert self.config(tmp_path) == (wanted, [])

    def test_a_stale_entry_is_named(self, tmp_path):
        wanted = self.save(tmp_path, digest="0" * 16)
        config, told = self.config(tmp_path)
        assert config == wanted
        assert len(told) == 1
        assert "other templates" in told[0]

    def test_the_nearest_entry_is_named(self, tmp_path):
        wanted = self.save(tmp_path)
        config, told = self.config(tmp_path, replace(PROBLEM, batch=4))
        assert config == wanted
        assert len(told) == 1
        assert "batch 4" in told[0]
        assert "batch 2" in told[0]

    def test_a_modelled_entry_is_named(self, tmp_path):
        wanted = self.save(tmp_path, measured=False)
        config, told = self.config(tmp_path)
        assert config == wanted
        assert "modelled, not measured" in told[0]

    def test_without_any_entry_the_models_choice_is_used(self, tmp_path):
        device = replace(H200, title="NVIDIA Unheard-of")
        with pytest.warns(KgenWarning, match="no tuned config for NVIDIA Unheard-of .* the performance model's choice"):
            assert runtime.config_for(PROBLEM, device, tmp_path) == favourites(PROBLEM, device, 1)[0]

    def test_kernels_are_generated_for_a_gpu_elsewhere(self, tmp_path):
        wanted = self.save(tmp_path)
        config, program, cubin = runtime.generate(PROBLEM, H200, tmp_path)
        assert (config, program.problem) == (wanted, PROBLEM)
        assert cubin.data.startswith(b"\x7fELF")


def runtime_digest():
    from kgen.render import template_digest

    return template_digest("convfirst.cu.j2")


def misaligned(x):
    memory = np.empty(x.nbytes + 32, np.uint8)
    start = -memory.ctypes.data % 16 + 2
    view = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::kgen.runtime.KgenWarning")
class TestGpu:
    """On a GPU. The default config has two kernels and a workspace."""

    @pytest.fixture
    def cupy(self):
        return pytest.importorskip("cupy")

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_cupy_in_cupy_out(self, cupy, dtype):
        problem = replace(PROBLEM, dtype=dtype)
        x = image(problem)
        bits = cupy.asarray(x.view(np.uint16))
        given = bits.view(np.float16) if dtype == "float16" else bits
        y = load(problem, WEIGHTS)(given)
        assert isinstance(y, cupy.ndarray)
        assert y.dtype == given.dtype
        assert_right(problem, x, y.get().view(x.dtype))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_torch_in_torch_out(self, torch, dtype, channels_last):
        problem = replace(PROBLEM, dtype=dtype)
        x = image(problem)
        tensor = torch.from_numpy(x.astype(np.float32)).to("cuda", getattr(torch, dtype))
        if channels_last:
            tensor = tensor.permute(0, 3, 1, 2)
        y = load(problem, WEIGHTS)(tensor)
        assert (y.shape, y.stride(), y.dtype, y.device) == (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        y = y.permute(0, 2, 3, 1) if channels_last else y
        assert_right(problem, x, y.float().cpu().numpy())

    def test_other_libraries_come_through_their_interfaces(self, cupy):
        x = cupy.asarray(image())

        class Interface:
            __cuda_array_interface__ = x.__cuda_array_interface__

        class DlPack:
            __dlpack__ = x.__dlpack__
            __dlpack_device__ = x.__dlpack_device__

        block = load(PROBLEM, WEIGHTS)
        want = block(x)
        assert bool((block(Interface()) == want).all())
        assert bool((block(DlPack()) == want).all())

    def test_out_is_filled_without_allocating(self, cupy):
        block, x = load(PROBLEM, WEIGHTS), cupy.asarray(image())
        want = block(x)
        out = cupy.full(PROBLEM.x.shape, cupy.nan, dtype=np.float16)
        pool = cupy.get_default_memory_pool()
        before = pool.used_bytes(), pool.total_bytes()
        assert block(x, out=out) is out
        assert (pool.used_bytes(), pool.total_bytes()) == before
        assert bool((out == want).all())

    @pytest.mark.parametrize(
        ("spoil", "sentence"),
        [
            (lambda x: x.astype(np.float32), "dtype float16, but got float32"),
            (lambda x: x[:1], "x must have shape"),
            (lambda x: x.repeat(2, axis=1)[:, ::2], "x must be contiguous"),
            (lambda x: x.get(), "it is in host memory"),
        ],
    )
    def test_a_wrong_x_is_refused(self, cupy, spoil, sentence):
        with pytest.raises(ArrayError, match=sentence):
            load(PROBLEM, WEIGHTS)(spoil(cupy.asarray(image())))

    def test_a_misaligned_or_overlapping_array_is_refused(self, cupy):
        block, x = load(PROBLEM, WEIGHTS), cupy.asarray(image())
        shifted = cupy.empty(x.size + 8, dtype=np.float16)[1 : x.size + 1].reshape(x.shape)
        with pytest.raises(ArrayError, match="multiple of 16 bytes"):
            block(shifted)
        with pytest.raises(ArrayError, match="out must not share memory with x"):
            block(x, out=x)

    def test_a_cpu_tensor_is_refused(self, torch):
        with pytest.raises(ArrayError, match="it is in host memory"):
            load(PROBLEM, WEIGHTS)(torch.zeros(PROBLEM.x.shape, dtype=torch.float16))

    def test_cupy_capture_replays(self, cupy):
        block = load(PROBLEM, WEIGHTS)
        x, other = cupy.asarray(image()), cupy.asarray(image(seed=4))
        want, out = block(other), cupy.empty_like(x)
        cupy.cuda.Device().synchronize()
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            block(x, out=out)
            graph = stream.end_capture()
            x[...] = other
            graph.launch()
            stream.synchronize()
        assert bool((out == want).all())

    def test_torch_capture_replays_on_its_stream(self, torch):
        block = load(PROBLEM, WEIGHTS)
        x, other = (torch.from_numpy(image(seed=seed)).cuda() for seed in (3, 4))
        want = block(other)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = block(x)
        x.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, want)

    def test_the_callers_stream_is_used(self, cupy):
        block, x = load(PROBLEM, WEIGHTS), cupy.asarray(image())
        want, out = block(x), cupy.zeros_like(x)
        blank = cupy.zeros_like(x)
        cupy.cuda.Device().synchronize()
        stream = cupy.cuda.Stream(non_blocking=True)
        spin = cupy.RawKernel(
            'extern "C" __global__ void spin() { long long t = clock64(); while (clock64() - t < 100000000) {} }',
            "spin",
        )
        with stream:
            spin((1,), (1,), ())
            block(x, out=out)
        assert bool((out == blank).all()), "the block must wait behind the stream's work"
        stream.synchronize()
        assert bool((out == want).all())

    def test_threads_share_a_block_on_one_stream(self, cupy):
        block = load(PROBLEM, WEIGHTS)
        inputs = [cupy.asarray(image(seed=seed)) for seed in range(4)]
        wants = [block(x) for x in inputs]
        wrong = []

        def run(x, want):
            for _ in range(200):
                if not bool((block(x) == want).all()):
                    wrong.append(x)

        threads = [threading.Thread(target=run, args=pair) for pair in zip(inputs, wants, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.parametrize("library", ["cupy", "torch"])
    @pytest.mark.parametrize(("problem", "kernels"), [(FUSED, 1), (LAYERS, 3)])
    def test_a_call_costs_less_than_ten_microseconds(self, library, problem, kernels):
        arrays = pytest.importorskip(library)
        block = load(problem, Weights.random(problem))
        assert len(block.program.kernels) == kernels
        x = arrays.asarray(image(problem))
        x = x.cuda() if library == "torch" else x
        out = block(x)
        assert host_us(lambda: block(x, out=out)) < 10

    def test_a_graph_of_kernels_follows_its_arrays(self, cupy):
        block = load(LAYERS, Weights.random(LAYERS))
        x, other = (cupy.asarray(image(LAYERS, seed)) for seed in (3, 4))
        want, elsewhere = block(other).copy(), cupy.zeros_like(x)
        for given, out in ((x, elsewhere), (other, cupy.zeros_like(x)), (other, elsewhere)):
            block(given, out=out)
        assert bool((elsewhere == want).all())
        assert_right(LAYERS, image(LAYERS), block(x, out=elsewhere).get())
