"""Whole networks on a real GPU."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from host_time import host_us

from kgen.networks import (
    GpuNetwork,
    Network,
    NetworkWeights,
    convfirst_tiny,
    fold,
    layered,
    load,
    reference,
)

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::kgen.runtime.KgenWarning")]

SMALL = Network("small", (32, 64), (2, 2), classes=10, patch=2)
WEIGHTS = NetworkWeights.random(SMALL, 1)


def model() -> GpuNetwork:
    loaded = load(SMALL, WEIGHTS)
    assert isinstance(loaded, GpuNetwork)
    return loaded


def images(batch: int, seed: int = 0) -> Any:
    import cupy

    return cupy.asarray(np.random.default_rng(seed).standard_normal((batch, 16, 16, 3)).astype(np.float16))


def test_logits_are_right() -> None:
    network = model()
    for batch in (1, 5, 2):
        x = images(batch, batch)
        host = x.get()
        truth = reference(SMALL, fold(SMALL, WEIGHTS), host)
        bound = 2 * np.linalg.norm(layered(SMALL, fold(SMALL, WEIGHTS), host).astype(np.float64) - truth)
        assert np.linalg.norm(network(x).get().astype(np.float64) - truth) <= bound


def test_a_call_costs_the_host_less_than_fifteen_microseconds() -> None:

    network, x = model(), images(1)
    logits = network(x)

    assert host_us(lambda: network(x, out=logits)) < 15


def test_a_caller_may_capture_calls() -> None:
    import cupy

    network, x = model(), images(3)
    want = network(x)
    out = cupy.full_like(want, np.nan)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.runtime.deviceSynchronize()
    with stream:
        stream.begin_capture()
        network(x, out=out)
        graph = stream.end_capture()
    network(images(64))  # larger: other buffers
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(out.get(), want.get())


def test_ten_thousand_calls_of_four_threads() -> None:
    import cupy

    first = model()
    known = {batch: (images(batch, batch), None) for batch in range(1, 65)}
    truth = {batch: first(x).get() for batch, (x, _) in known.items()}
    cupy.cuda.runtime.deviceSynchronize()
    failures: list[str] = []
    free_bytes: list[int] = []

    def work(seed: int) -> None:
        rng, network = np.random.default_rng(seed), first.clone()
        stream = cupy.cuda.Stream(non_blocking=True)
        network(known[64][0])
        with stream:
            for i, batch in enumerate(rng.integers(1, 65, 2500)):
                logits = network(known[int(batch)][0])
                if i % 50 == 0:
                    stream.synchronize()
                    if not np.array_equal(logits.get(), truth[int(batch)]):
                        failures.append(f"thread {seed}, call {i}, batch {batch}")
                if i in (1250, 2499):
                    stream.synchronize()
                    free_bytes.append(cupy.cuda.runtime.memGetInfo()[0])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(free_bytes) == 8
    assert max(free_bytes) - min(free_bytes) < 64 << 20, "memory must not grow"


def test_tiny_is_as_exact_as_pytorch_in_float16() -> None:
    """On 64 images: twice the error of PyTorch's own float16 run, and the same class wherever the margin allows."""
    torch = pytest.importorskip("torch")
    from kgen.networks.contenders import stock as stock_of

    network = convfirst_tiny()
    weights = NetworkWeights.random(network, 2)
    stock = stock_of(network, weights).cuda().eval()
    x = torch.randn((64, 3, 224, 224), device="cuda", generator=torch.Generator("cuda").manual_seed(0)).half()
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        truth = torch.cat([stock.double()(part.double()) for part in x.split(8)])
        theirs = stock.half()(x).double()
        logits = load(network, weights)(x).double()
    error, bound = (logits - truth).norm(), 2 * (theirs - truth).norm()
    assert 0 < error <= bound
    best = truth.topk(2, dim=1)
    margin, largest = best.values[:, 0] - best.values[:, 1], (logits - truth).abs().amax(dim=1)
    sure = margin > 2 * largest
    assert sure.any() and (logits.argmax(dim=1) == best.indices[:, 0])[sure].all()
