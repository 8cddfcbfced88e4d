"""Accelerated blocks on a GPU. The default config of most shapes has two kernels and a workspace between them."""

from __future__ import annotations

import copy
import threading

import pytest

torch = pytest.importorskip("torch")

from bridge_samples import assert_right, block, image, net  # noqa: E402
from torch import nn  # noqa: E402

from kgen.launch import LaunchError  # noqa: E402
from kgen.torch import accelerate, ops  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::kgen.runtime.KgenWarning")]

DTYPES = [torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def launches(monkeypatch):
    """How often kernels were launched: a stock layer in their place would be right as well."""
    count = []
    real = ops._launch_of

    def launch_of(problem, ordinal):
        launch = real(problem, ordinal)

        def counted(*tensors):
            count.append(problem)
            launch(*tensors)

        return counted

    monkeypatch.setattr(ops, "_launches", {})
    monkeypatch.setattr(ops, "_launch_of", launch_of)
    return count


def pair(dtype=torch.float16, **options):
    """A block, and an accelerated model of it alone."""
    stock = block(**options).to("cuda", dtype)
    model = nn.Sequential(copy.deepcopy(stock), nn.Identity()).eval()
    assert accelerate(model).rows[0].replaced
    return stock, model


def gpu_image(dtype=torch.float16, **options):
    return image(**options).to("cuda", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("options", [{}, {"expansion": 1.5, "activation": "gelu"}, {"residual": False}], ids=str)
def test_it_is_right_and_gives_channels_last(launches, dtype, channels_last, options):
    stock, model = pair(dtype, **options)
    x = gpu_image(dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    y = model(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_right(stock, x, y)
    assert len(launches) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compiled", [True, False])
def test_under_autocast(launches, dtype, compiled):
    stock, model = pair(torch.float32)
    run = torch.compile(model, fullgraph=True) if compiled else model
    x = gpu_image(torch.float32)
    with torch.autocast("cuda", dtype):
        y = run(x)
    assert_right(stock, x.to(dtype), y)
    assert len(launches) >= 1


def test_float32_runs_the_stock_layers(launches):
    stock, model = pair(torch.float32)
    x = gpu_image(torch.float32)
    torch.testing.assert_close(model(x), stock(x))
    assert not launches


def test_opcheck():
    _, model = pair()
    first = model[0]
    arguments = (first.packed_float16, 4.0, "silu", "float16", True)
    torch.library.opcheck(torch.ops.kgen.convfirst, (gpu_image(), *arguments))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor(launches, mode):
    stock = net().half().cuda()
    model = copy.deepcopy(stock)
    accelerate(model)
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for seed in range(4):
        x = gpu_image(channels=1, height=16, width=16, seed=seed)
        torch.testing.assert_close(compiled(x), stock(x), rtol=2e-2, atol=2e-2)
    assert launches


def test_a_captured_graph_replays_with_new_inputs_and_new_weights():
    stock, model = pair()
    x, other = gpu_image(), gpu_image(seed=2)
    model(x)  # loads the kernels
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = model(x)
    x.copy_(other)
    graph.replay()
    assert_right(stock, other, y)
    for module in (stock, model[0]):
        module.project.weight.mul_(2)
    model.eval()
    graph.replay()
    assert_right(stock, other, y)


def test_a_first_use_while_capturing_is_refused(launches):
    _, model = pair()
    x = gpu_image()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(LaunchError, match="before a CUDA graph is captured"), torch.cuda.graph(graph):
        model(x)
    model(x)
    assert len(launches) == 1


def test_the_current_stream_is_used():
    stock, model = pair()
    x = torch.zeros_like(gpu_image())
    model(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        x.copy_(gpu_image())
        y = model(x)
    stream.synchronize()
    assert_right(stock, gpu_image(), y)


def test_threads_with_a_stream_each_share_a_model():
    _, model = pair(channels=64)
    inputs = [gpu_image(channels=64, height=28, width=28, seed=seed) for seed in range(4)]
    wants = [model(x) for x in inputs]
    torch.cuda.synchronize()
    wrong = []

    def run(x, want):
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            ys = [model(x) for _ in range(200)]
            torch.cuda.current_stream().synchronize()
            wrong.extend(y for y in ys if not torch.equal(y, want))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(inputs, wants, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_calls_keep_no_memory():
    _, model = pair()
    x = gpu_image()
    model(x)
    before = torch.cuda.memory_allocated()
    for _ in range(10):
        model(x)
    assert torch.cuda.memory_allocated() <= before  # less, where something earlier is let go


def test_the_report_names_configs_of_this_gpu():
    report = accelerate(net().half().cuda(), gpu_image(channels=1, height=16, width=16))
    assert {row.tuned.partition(",")[0] for row in report.rows} <= {"exact", "near", "missing"}
