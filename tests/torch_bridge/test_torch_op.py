from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bridge_samples import assert_right, block, image, problem_of  # noqa: E402

from kgen.blocks.convfirst import fold, pack  # noqa: E402
from kgen.blocks.convfirst.weights import packed_bytes  # noqa: E402
from kgen.errors import ArrayError, ProblemError, WeightsError  # noqa: E402
from kgen.launch import LaunchError  # noqa: E402
from kgen.torch import ops, weights_of  # noqa: E402
from kgen.torch.ops import convfirst  # noqa: E402

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def arguments(module, x):
    """The operator's, for a block and a 16-bit x."""
    problem = problem_of(module, x)
    packed = torch.from_numpy(pack(problem, fold(problem, weights_of(module))))
    return x, packed, float(problem.expansion), problem.activation, problem.dtype, problem.residual


@pytest.fixture
def given():
    return arguments(block(), image(dtype=torch.float16))


class TestOnTheHost:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("channels_last", [True, False])
    @pytest.mark.parametrize("options", [{}, {"expansion": 1.5, "activation": "gelu"}, {"residual": False}], ids=str)
    def test_it_is_right_and_gives_channels_last(self, dtype, channels_last, options):
        module, x = block(**options), image(dtype=DTYPES[dtype])
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        y = convfirst(*arguments(module, x))
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_right(module, x, y)

    @pytest.mark.parametrize("shape", [(1, 32, 1, 1), (2, 32, 1, 6), (1, 32, 32, 32)])
    def test_shapes_with_ambiguous_strides(self, shape):
        x = torch.randn(shape).half()
        module = block()
        assert_right(module, x, convfirst(*arguments(module, x)))

    def test_a_view_at_an_odd_address_is_copied(self, given):
        x, *rest = given
        memory = torch.zeros(x.numel() + 1, dtype=x.dtype)
        view = memory[1:].view(2, 5, 6, 32).permute(0, 3, 1, 2)
        view.copy_(x)
        assert torch.equal(convfirst(view, *rest), convfirst(*given))

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_opcheck(self, given, channels_last):
        x, *rest = given
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        torch.library.opcheck(torch.ops.kgen.convfirst, (x, *rest))

    @pytest.mark.parametrize("dynamic", [True, False])
    def test_it_compiles_without_graph_breaks(self, given, dynamic):
        x, *rest = given
        compiled = torch.compile(
            lambda x: convfirst(x * 2, *rest) + 1, fullgraph=True, dynamic=dynamic, backend="aot_eager"
        )
        for batch in (2, 3):
            x = image(batch=batch, dtype=torch.float16)
            assert torch.equal(compiled(x), convfirst(x * 2, *rest) + 1)

    @pytest.mark.parametrize("compiled", [True, False])
    def test_under_autocast_x_is_cast(self, given, compiled):
        x, *rest = given
        run = (
            torch.compile(lambda x: convfirst(x, *rest), fullgraph=True, backend="aot_eager") if compiled else convfirst
        )
        with torch.autocast("cpu", torch.bfloat16):
            y = run(x.float()) if compiled else run(x.float(), *rest)
        assert torch.equal(y, convfirst(*given))

    def test_bad_arguments_are_refused(self, given):
        x, packed, *rest = given
        with pytest.raises(ArrayError, match="x must be float16 on the weights' device cpu, but got"):
            convfirst(x.float(), packed, *rest)
        with pytest.raises(ArrayError, match="x must have shape"):
            convfirst(x[0], packed, *rest)
        with pytest.raises(ProblemError, match="channels must be a multiple of 16"):
            convfirst(x[:, :24], packed, *rest)
        with pytest.raises(ProblemError, match="dtype must be one of"), torch.autocast("cpu", torch.bfloat16):
            convfirst(x, packed, *rest[:2], "float32", True)
        with pytest.raises(WeightsError, match="packed weights must be a uint8 vector"):
            convfirst(x, packed[:-16], *rest)
        with pytest.raises(WeightsError, match="packed weights must be contiguous"):
            convfirst(x, packed.repeat_interleave(2)[::2], *rest)


def test_packed_bytes_are_the_size_of_the_packed_weights(given):
    x, packed, *_ = given
    assert packed_bytes(problem_of(block(), x)) == packed.numel()


class TestGpuPath:
    """The CUDA implementation on CPU tensors, with the kernels' launch replaced."""

    @pytest.fixture(autouse=True)
    def loads(self, monkeypatch):
        """The problems that were loaded; their launch fills y with twice x."""
        loads = []

        def launch_of(problem, ordinal):
            loads.append(problem)
            time.sleep(0.05)  # long enough for another thread to ask too
            return lambda x, packed, y: y.copy_(2 * x)

        monkeypatch.setattr(ops, "_launch_of", launch_of)
        monkeypatch.setattr(ops, "_launches", {})
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        return loads

    def test_kernels_are_loaded_once_per_problem(self, given, loads):
        x, *rest = given
        for batch in (1, 2, 1, 2):
            part = x[:batch]
            assert torch.equal(ops._on_gpu(part, *rest), 2 * part)
        assert [problem.batch for problem in loads] == [1, 2]

    def test_threads_load_once(self, given, loads):
        threads = [threading.Thread(target=ops._on_gpu, args=given) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(loads) == 1

    def test_a_first_use_while_capturing_is_refused(self, given, loads, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(LaunchError, match="must be loaded before a CUDA graph is captured"):
            ops._on_gpu(*given)
        assert not loads
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        ops._on_gpu(*given)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        ops._on_gpu(*given)

    def test_weights_of_another_size_are_refused_also_later(self, given):
        x, packed, *rest = given
        ops._on_gpu(*given)
        for wrong in (packed[:-16], packed.to(torch.int16)):
            with pytest.raises(WeightsError, match="packed weights must be a uint8 vector"):
                ops._on_gpu(x, wrong, *rest)


@pytest.mark.parametrize("workspace_bytes", [0, 4096])
def test_a_launch_passes_pointers_workspace_and_stream(given, monkeypatch, workspace_bytes):
    x, packed, *_ = given
    problem = problem_of(block(), x)
    launched = []

    class Loaded:
        def __init__(self, program, cubin):
            self.launch = lambda *pointers: launched.append(pointers)

    program = SimpleNamespace(workspace_bytes=workspace_bytes)
    monkeypatch.setattr(ops, "find_device", lambda spec: spec)
    monkeypatch.setattr(ops, "generate", lambda problem, device: (None, program, device))
    monkeypatch.setattr(ops, "LoadedProgram", Loaded)
    monkeypatch.setattr(ops, "torch_stream_getter", lambda torch: lambda ordinal: 70 + ordinal)
    y = torch.empty_like(x)
    ops._launch_of(problem, 1)(x, packed, y)
    ((x_pointer, weights_pointer, hidden_pointer, y_pointer, batch, stream),) = launched
    assert (x_pointer, weights_pointer, y_pointer) == (x.data_ptr(), packed.data_ptr(), y.data_ptr())
    assert (batch, stream) == (2, 71)
    assert bool(hidden_pointer) == bool(workspace_bytes)
