"""The GPU's counters for each layer of a network's call, by Nsight Compute, which runs the call in a child process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from kgen.counters import counted, counters_of, worth_asking
from kgen.devices import find_device
from kgen.ncu import CountersError, Launch, Profiler
from kgen.networks.gpu import GpuNetwork
from kgen.networks.images import random_images
from kgen.networks.loading import load_on_gpu
from kgen.networks.profile import ProfiledLayer
from kgen.networks.spec import Network
from kgen.networks.variants import variant
from kgen.networks.weights import NetworkWeights
from kgen.tensors import DTYPES

_QUANTITIES = ("dram_bytes", "mma_instructions", "wgmma_instructions")


@dataclass(frozen=True)
class Counts:
    """A layer's kernels in one call: bytes to and from DRAM, and tensor instructions by warp, a wgmma being four.

    None where ncu knows no such counter.
    """

    dram_bytes: float | None
    tensor_instructions: float | None


@dataclass(frozen=True)
class Call:
    """A network's call in plain values, as a child process gets it."""

    network: str
    dtype: str
    batch: int
    size: int
    device: str | None
    folder: str | None

    @property
    def spec(self) -> Network:
        """The network, without weights."""
        kind: dict[str, Any] = {"dtype": self.dtype}
        return replace(variant(self.network), **kind)

    def load(self) -> GpuNetwork:
        """The network with random weights.

        Raises:
            DeviceError: the device is not in this machine.
        """
        folder = None if self.folder is None else Path(self.folder)
        return load_on_gpu(self.spec, NetworkWeights.random(self.spec), find_device(self.device), folder)


def count_layers(call: Call, layers: Sequence[ProfiledLayer], profiler: Profiler) -> tuple[Counts, ...]:
    """The counts of every layer of ``call``.

    Raises:
        CountersError: ncu failed, or saw other kernels than those of the layers.
        NotPermittedError: it may not read counters.
    """
    counters = worth_asking(_QUANTITIES, profiler.known(counters_of(_QUANTITIES)))
    launches = profiler.run([sys.executable, "-m", __name__, json.dumps(asdict(call))], counters)
    expected = [kernel.symbol for layer in layers for kernel in layer.program.kernels]
    seen = [launch.kernel for launch in launches]
    if seen != expected:
        raise CountersError(
            f"ncu must see the {len(expected)} kernels of a call in order, but it saw {len(seen)}: {', '.join(seen)}; "
            "go on without counters"
        )
    rest = iter(launches)
    return tuple(_counts(list(islice(rest, len(layer.program.kernels)))) for layer in layers)


def _counts(launches: Sequence[Launch]) -> Counts:
    def total(*quantities: str) -> float | None:
        return _sum(counted(launch.counters, quantity) for launch in launches for quantity in quantities)

    return Counts(total("dram_bytes"), total("mma_instructions", "wgmma_instructions"))


def _sum(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) if found else None


def run(call: Call) -> None:
    """The child: two calls to warm up, and a third one, on other images, profiled."""
    import cupy

    model = call.load()
    x = model.network.layers(call.batch, call.size, call.size)[0].problem.x
    with cupy.cuda.Device(model.device.ordinal):
        stream = cupy.cuda.Stream(non_blocking=True)
        logits = cupy.empty((call.batch, model.network.classes), DTYPES[model.network.dtype])
        first, second = (cupy.asarray(random_images(x)) for _ in range(2))
        calls = [model.steps(images, logits) for images in (second, first, second)]
        cupy.cuda.get_current_stream().synchronize()
        for number, steps in enumerate(calls):
            if number == len(calls) - 1:
                cupy.cuda.runtime.profilerStart()
            for step in steps:
                step.launch(stream.ptr)
            stream.synchronize()
        cupy.cuda.runtime.profilerStop()


if __name__ == "__main__":
    run(Call(**json.loads(sys.argv[1])))
