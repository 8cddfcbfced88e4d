"""From a PyTorch model down to the very source that the GPU runs, on the CPU: the emulator in the place of the GPU."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge_samples import assert_right, block, image  # noqa: E402
from torch import nn  # noqa: E402

from kgen.blocks.convfirst import default_config, plan  # noqa: E402
from kgen.devices import find_device  # noqa: E402
from kgen.emulator import build  # noqa: E402
from kgen.render import render  # noqa: E402
from kgen.torch import accelerate, accelerated, ops  # noqa: E402

FEW_SMS = replace(find_device("h200"), sms=2)


class EmulatedProgram:
    """Launches like a LoadedProgram, from addresses in host memory."""

    def __init__(self, program, weights_bytes):
        self.program = program
        self.library = build(render(program))
        self.sizes = (2 * program.problem.pixels * program.problem.channels, weights_bytes)

    def launch(self, x, weights, hidden, y, batch, stream):
        image_bytes, weights_bytes = self.sizes
        arrays = {
            "x": memory(x, image_bytes).view(np.uint16),
            "weights": memory(weights, weights_bytes),
            "hidden": memory(hidden, self.program.workspace_bytes) if hidden else None,
            "y": memory(y, image_bytes).view(np.uint16),
        }
        for kernel in self.program.kernels:
            shape = {"grid": kernel.grid, "threads": kernel.threads, "cluster": kernel.cluster}
            self.library.run(kernel.symbol, shared_bytes=kernel.shared_bytes, batch=batch, **shape, **arrays)


def memory(address, size):
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


@pytest.fixture
def programs(monkeypatch):
    """The programs that were launched, with CPU tensors taken for CUDA ones."""
    programs = []

    def generate(problem, device):
        programs.append(plan(problem, default_config(problem, device), device))
        return None, programs[-1], ops.packed_bytes(problem)

    monkeypatch.setattr(ops, "_launches", {})
    monkeypatch.setattr(ops, "find_device", lambda spec: FEW_SMS)
    monkeypatch.setattr(ops, "generate", generate)
    monkeypatch.setattr(ops, "LoadedProgram", EmulatedProgram)
    monkeypatch.setattr(ops, "torch_stream_getter", lambda torch: lambda ordinal: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(accelerated, "_KERNEL_DEVICES", ("cpu",))
    monkeypatch.setattr(accelerated, "convfirst", ops._on_gpu)
    return programs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{"channels": 32, "expansion": 2}, {"channels": 16, "residual": False}], ids=str)
def test_a_models_block_runs_its_kernels(programs, dtype, options):
    stock = block(**options).to(dtype)
    model = nn.Sequential(stock, nn.Identity()).eval()
    accelerate(model)
    with torch.inference_mode():
        for seed in (1, 2):
            x = image(channels=options["channels"], dtype=dtype, seed=seed)
            assert_right(stock, x, model(x))
    (program,) = programs
    assert len(program.kernels) == 2
    assert program.workspace_bytes
