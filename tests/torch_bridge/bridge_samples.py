"""Modules with random statistics, what kgen's reference says of a block, and the rule for a kernel's error."""

from __future__ import annotations

from collections import OrderedDict

import ml_dtypes
import numpy as np
import torch
from torch import nn

from kgen.blocks.convfirst import Problem, fold, layered, reference
from kgen.torch import ConvFirst, ConvFirstNet, weights_of

NUMPY_DTYPES = {torch.float16: np.dtype(np.float16), torch.bfloat16: np.dtype(ml_dtypes.bfloat16)}


def with_statistics(module, seed=0):
    """The module in evaluation mode, its BatchNorms as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for bn in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
            for tensor in (bn.weight, bn.running_var):
                tensor.uniform_(0.75, 1.25, generator=generator)
            for tensor in (bn.bias, bn.running_mean):
                tensor.normal_(0, 0.1, generator=generator)
        for conv in (part for part in module.modules() if isinstance(part, nn.Conv2d)):
            fan_in = conv.weight[0].numel()
            conv.weight.normal_(0, fan_in**-0.5, generator=generator)
    return module.eval()


def block(channels=32, **options):
    return with_statistics(ConvFirst(channels, **options))


def net(**options):
    sizes = {"image_channels": 1, "classes": 10, "patch": 2, "expansion": 2} | options
    return with_statistics(ConvFirstNet([16, 32], [1, 2], **sizes))


def sequential(activation=nn.SiLU, channels=32, hidden=64, bias=True, group_width=8):
    layers = OrderedDict(
        conv=nn.Conv2d(channels, channels, 3, padding=1, groups=channels // group_width, bias=bias),
        conv_bn=nn.BatchNorm2d(channels),
        expand=nn.Conv2d(channels, hidden, 1, bias=bias),
        expand_bn=nn.BatchNorm2d(hidden),
        activation=activation(),
        project=nn.Conv2d(hidden, channels, 1, bias=bias),
        project_bn=nn.BatchNorm2d(channels),
    )
    return with_statistics(nn.Sequential(layers))


def image(channels=32, batch=2, height=5, width=6, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator).to(dtype)


def nhwc(x):
    """A tensor's values as kgen's reference takes them."""
    values = x.detach().float().cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return values.astype(NUMPY_DTYPES.get(x.dtype, np.float64))


def problem_of(module, x):
    batch, channels, height, width = x.shape
    name = "bfloat16" if x.dtype == torch.bfloat16 else "float16"
    expansion = module.expand.out_channels / channels
    activation = {"SiLU": "silu", "ReLU": "relu", "Identity": "identity"}.get(type(module.activation).__name__)
    if activation is None:
        activation = "gelu_tanh" if module.activation.approximate == "tanh" else "gelu"
    return Problem(batch, height, width, channels, expansion, activation, name, residual=module.residual)


def assert_right(module, x, y):
    """The project's rule: at most twice the error of the same computation layer by layer in the storage dtype."""
    problem = problem_of(module, x)
    folded, values = fold(problem, weights_of(module)), nhwc(x)
    truth = reference(problem, folded, values)
    yardstick = np.linalg.norm(layered(problem, folded, values).astype(np.float64) - truth)
    assert y.dtype == x.dtype
    assert np.linalg.norm(nhwc(y).astype(np.float64) - truth) <= 2 * yardstick
