"""What the benchmarks against PyTorch share: functions captured as CUDA graphs, the card's matmul, the environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(os.cpu_count()))

import cupy
import torch

from kgen import env
from kgen.devices import Device
from kgen.timing import Replay, long_enough

MODES = {"max-autotune": "max-autotune-no-cudagraphs", "default": "default"}  # the graph is ours, for both sides


@dataclass
class Runner:
    """One contender: its function, and inputs and outputs to rotate through."""

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor] = field(default_factory=list)

    def capture(self, repeats: int) -> Replay:
        """A graph that calls the function on every input in turn, ``repeats`` times."""
        self.outputs = [self.function(x) for x in self.inputs[:3]]  # compiles, on the first call
        torch.cuda.synchronize()
        self.outputs = [torch.empty(0) for _ in self.inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                for at, x in enumerate(self.inputs):
                    self.outputs[at] = self.function(x)
        torch.cuda.synchronize()
        return Replay(lambda stream: graph.replay(), repeats * len(self.inputs))

    def error(self, truth: torch.Tensor, replay: Replay, stream: Any) -> float:
        """Relative L2 error against float64, the larger of the first and the last output of one more replay."""
        for y in self.outputs:
            y.fill_(torch.nan)
        torch.cuda.synchronize()
        replay.start(stream)
        torch.cuda.synchronize()
        errors = [(y.double() - truth).norm() / truth.norm() for y in (self.outputs[0], self.outputs[-1])]
        return float(torch.stack(errors).max())  # NaN, if any, is the maximum


def captured(runner: Runner, stream: Any) -> Replay:
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        return long_enough(runner.capture, stream)


def matmul_flops_per_s(size: int = 8192, repeats: int = 20) -> float:
    """The rate of PyTorch's float16 matmul of random square matrices, in FLOP/s: what a vendor's GEMM reaches here."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.float16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        a @ b
    start.record()
    for _ in range(repeats):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (start.elapsed_time(end) * 1e-3)


def environment(device: Device) -> dict[str, Any]:
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader,nounits"]
    driver, clock = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")
    return {
        "gpu": device.title,
        "sms": device.sms,
        "l2_bytes": device.l2_bytes,
        "max_sm_clock_mhz": int(clock),
        "peak_flops": device.peak_flops,
        "driver": driver,
        "torch": torch.__version__,
        "triton": version("triton"),
        "cupy": cupy.__version__,
        "nvrtc": env.nvrtc_version(),
        "kgen": env.version(),
    }
