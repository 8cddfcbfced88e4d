"""Tracing PyTorch modules: what a trace holds, and models that there are not or that cannot be traced."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from kgen.analysis.fusion import residual_blocks  # noqa: E402
from kgen.analysis.models import analyse  # noqa: E402
from kgen.analysis.trace import load_trace, save_trace  # noqa: E402
from kgen.devices import find_device  # noqa: E402
from kgen.errors import ProblemError  # noqa: E402
from kgen.torch.tracing import trace_model, trace_named  # noqa: E402

H200 = find_device("h200")


class Block(nn.Module):  # type: ignore[misc]
    """A residual block whose second half is scaled by what no image changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Any) -> Any:
        return x + self.project(self.act(self.norm(self.conv(x)))) * torch.exp(self.scale).view(1, -1, 1, 1)


def test_a_block_is_traced(tmp_path: Any) -> None:
    model = nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).train()
    model[0].norm.eval()
    trace = trace_model(model, torch.zeros(1, 8, 6, 6), "block")
    assert model.training and model[0].conv.training and not model[0].norm.training
    ops = [node.op for node in trace.nodes]
    assert ops == [
        *("input", "conv2d", "batch_norm", "relu", "conv2d", "mul", "add"),
        *("adaptive_avg_pool2d", "flatten", "linear"),
    ]
    assert trace.nodes[1].name == "0.conv" and trace.nodes[1].weights == ((8, 4, 3, 3), (8,))
    assert trace.nodes[5].weights == ((1, 8, 1, 1),) and trace.outputs == (9,)
    (block,) = residual_blocks(trace)
    assert (block.name, block.fused) == ("0", (1, 2, 3, 4, 5, 6))
    found = analyse(trace, 4, H200)
    assert found.macs == 36 * 8 * 4 * 9 + 36 * 8 * 8 + 8 * 3 and not found.unknown
    # x and y of the block, the conv's weights, its bias and the norm's, project's weights and bias, the scale.
    assert found.savings[0].fused.dram_bytes == 4 * 2 * 2 * 288 + 2 * 288 + 2 * 32 + 2 * 64 + 2 * 32
    save_trace(trace, tmp_path / "block.json")
    assert load_trace(tmp_path / "block.json") == trace


def test_several_outputs_of_an_operator() -> None:
    class Split(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            one, other = x.chunk(2, dim=1)
            return torch.cat([one.sigmoid(), other], dim=1)

    trace = trace_model(Split(), torch.zeros(1, 8, 4, 4), "split")
    found = analyse(trace, 1, H200)
    sigmoid, joined = found.sequences[0].kernels
    assert sigmoid.dram_bytes == 2 * (64 + 64) and joined.dram_bytes == 2 * (64 + 64 + 128) and not found.unknown


def test_a_model_that_cannot_be_traced() -> None:
    class Choosy(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(ProblemError, match=r"model choosy must be one that torch.export can trace") as raised:
        trace_model(Choosy(), torch.zeros(1, 3, 4, 4), "choosy")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "spec", ["no_such_package_here:model", "torch.nn:NoSuchModule", "torch.nn:Conv2d", "json:JSONDecoder", "nothing"]
)
def test_unknown_models(spec: str) -> None:
    with pytest.raises(ProblemError, match="gives no model") as raised:
        trace_named(spec, 32)
    assert "\n" not in str(raised.value)
