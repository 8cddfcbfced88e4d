"""Trainable ConvFirst blocks and networks in PyTorch's stock layers: the float reference and the source of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from kgen.blocks.activations import Activation
from kgen.blocks.convfirst.problem import GROUP_WIDTH
from kgen.blocks.convfirst.problem import ConvFirst as Problem
from kgen.blocks.convfirst.weights import ConvFirstWeights
from kgen.blocks.layers import Array, BatchNorm, Conv
from kgen.errors import ProblemError

_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "identity": nn.Identity,
}


class ConvFirst(nn.Module):
    """y = project(act(expand(conv(x)))) (+ x): a grouped 3x3 convolution (group width 8), then two 1x1 convolutions.

    Each convolution is without bias and followed by its BatchNorm: ``conv``, ``conv_bn``, ``expand``, ``expand_bn``,
    ``project``, ``project_bn``. x and y have shape (batch, channels, height, width). ``activation`` is one of silu,
    relu, gelu, gelu_tanh, identity and stands after ``expand_bn`` alone.

    Raises:
        ProblemError: an argument breaks a rule of :class:`kgen.ConvFirst`.
    """

    def __init__(
        self, channels: int, *, expansion: float = 4, activation: Activation = "silu", residual: bool = True
    ) -> None:
        rules = Problem(1, 1, 1, channels, expansion, activation, residual=residual)
        super().__init__()
        self.residual = residual
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels // GROUP_WIDTH, bias=False)
        self.conv_bn = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, rules.hidden, 1, bias=False)
        self.expand_bn = nn.BatchNorm2d(rules.hidden)
        self.activation = _ACTIVATIONS[activation]()
        self.project = nn.Conv2d(rules.hidden, channels, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.conv_bn(self.conv(x))
        hidden = self.activation(self.expand_bn(self.expand(z)))
        y = self.project_bn(self.project(hidden))
        return y + x if self.residual else y


class _ConvBn(nn.Module):
    """A convolution whose stride is its size, without bias, and its BatchNorm."""

    def __init__(self, channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, stride=size, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class _Stage(nn.Module):
    """Blocks of one width, behind a 2x2 downsampling from ``before`` channels unless it is the first stage."""

    def __init__(self, before: int | None, blocks: Sequence[ConvFirst], width: int) -> None:
        super().__init__()
        self.downsample = None if before is None else _ConvBn(before, width, 2)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x if self.downsample is None else self.downsample(x))


class ConvFirstNet(nn.Module):
    """A classifier of ConvFirst blocks: stem, stages, global average pooling, linear head.

    Stage i has ``depths[i]`` blocks of ``widths[i]`` channels. x has shape (batch, image_channels, height, width),
    height and width multiples of ``patch`` times 2 per stage after the first; the result is (batch, classes).

    The names in its state dict are a contract: ``stem.conv`` (patch x patch, stride ``patch``) and ``stem.bn``; for
    i >= 1 ``stages.{i}.downsample.conv`` (2x2, stride 2) and ``stages.{i}.downsample.bn``; ``stages.{i}.blocks.{j}.``
    before the names of :class:`ConvFirst`; ``head`` with weight and bias. Convolutions have no bias.

    Raises:
        ProblemError: an argument breaks a rule; the message names it.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        expansion: float = 4,
        activation: Activation = "silu",
        image_channels: int = 3,
        classes: int = 1000,
        patch: int = 4,
    ) -> None:
        if not widths or len(widths) != len(depths):
            raise ProblemError(
                f"widths and depths must have one value per stage, but got {len(widths)} and {len(depths)} values; "
                "pass equally many, at least one"
            )
        _check_positive(depths=depths, image_channels=[image_channels], classes=[classes], patch=[patch])
        super().__init__()
        stages = []
        for before, width, depth in zip([None, *widths], widths, depths, strict=False):
            blocks = [ConvFirst(width, expansion=expansion, activation=activation) for _ in range(depth)]
            stages.append(_Stage(before, blocks, width))
        self.stem = _ConvBn(image_channels, widths[0], patch)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def weights_of(module: ConvFirst) -> ConvFirstWeights:
    """The block's weights as kgen takes them: float32 copies in CPU memory, BatchNorms with running statistics."""
    return ConvFirstWeights(
        conv=conv_of(module.conv, module.conv_bn),
        expand=conv_of(module.expand, module.expand_bn),
        project=conv_of(module.project, module.project_bn),
    )


def conv_of(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> Conv:
    """A convolution and the BatchNorm that follows it as kgen takes them: float32 copies in CPU memory."""
    bias = None if conv.bias is None else _array(conv.bias)
    return Conv(_array(conv.weight), bias, None if bn is None else _batch_norm(bn))


def _batch_norm(bn: nn.BatchNorm2d) -> BatchNorm:
    mean, var = _array(bn.running_mean), _array(bn.running_var)
    gamma = _array(torch.ones_like(bn.running_var) if bn.weight is None else bn.weight)
    beta = _array(torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias)
    return BatchNorm(gamma, beta, mean, var, bn.eps)


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().to("cpu", torch.float32, copy=True).numpy()
    return array


def _check_positive(**arguments: Sequence[int]) -> None:
    for name, values in arguments.items():
        if any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
            raise ProblemError(f"{name} must be integers >= 1, but got {list(values)}; pass positive integers")
