from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge_samples import block, image, net, nhwc, problem_of  # noqa: E402

from kgen.blocks.convfirst import fold, reference  # noqa: E402
from kgen.errors import ProblemError  # noqa: E402
from kgen.torch import ConvFirst, ConvFirstNet, weights_of  # noqa: E402


@pytest.mark.parametrize(
    "options",
    [
        *({"activation": name} for name in ("silu", "relu", "gelu", "gelu_tanh", "identity")),
        {"expansion": 1.5},
        {"residual": False},
    ],
    ids=str,
)
def test_a_block_computes_what_the_reference_computes(options):
    module, x = block(**options), image(dtype=torch.float16)
    problem = problem_of(module, x)
    truth = reference(problem, fold(problem, weights_of(module)), nhwc(x))
    y = nhwc(module.double()(x.double()))
    # The reference has its weights rounded to float16, which is the difference.
    assert np.linalg.norm(y - truth) < 2e-3 * np.linalg.norm(truth)


def test_weights_are_copies_and_fold_exactly():
    module = block()
    before = weights_of(module).expand.weight.copy()
    weights = weights_of(module)
    with torch.no_grad():
        module.expand.weight.zero_()
    np.testing.assert_array_equal(weights.expand.weight, before)
    assert weights.conv.bn.eps == module.conv_bn.eps
    np.testing.assert_array_equal(weights.conv.bn.var, module.conv_bn.running_var.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_float32_whatever_the_parameters_are(dtype):
    assert weights_of(block().to(dtype)).project.weight.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"channels": 24}, "channels must be a multiple of 16"),
        ({"channels": 32, "expansion": 9}, "expansion must be a number from 1 to 8"),
        ({"channels": 32, "activation": "tanh"}, "activation must be one of silu"),
        ({"channels": 32, "residual": 1}, "residual must be True or False"),
    ],
)
def test_a_blocks_arguments_obey_the_problems_rules(arguments, sentence):
    with pytest.raises(ProblemError, match=sentence):
        ConvFirst(**arguments)


def test_gradients_reach_every_parameter():
    module = block().train()
    module(image()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_nets_names_are_the_contract():
    names = {name.rpartition(".")[0] for name in net().state_dict()}
    layers = ("conv", "conv_bn", "expand", "expand_bn", "project", "project_bn")
    blocks = ("stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1")
    rest = {"stem.conv", "stem.bn", "stages.1.downsample.conv", "stages.1.downsample.bn", "head"}
    assert names == rest | {f"{block}.{layer}" for block in blocks for layer in layers}


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_net_classifies_images(patch):
    module = net(patch=patch, image_channels=3)
    assert module(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    assert module.stem.conv.weight.shape == (16, 3, patch, patch)
    assert module.stages[1].downsample.conv.stride == (2, 2)


def test_a_net_is_its_parts():
    module, x = net(), torch.randn(2, 1, 8, 8)
    first, second = module.stages
    y = first.blocks[0](module.stem(x))
    y = second.blocks[1](second.blocks[0](second.downsample(y)))
    torch.testing.assert_close(module(x), module.head(y.mean((2, 3))))


@pytest.mark.parametrize(
    ("widths", "depths", "options", "sentence"),
    [
        ([], [], {}, "widths and depths must have one value per stage"),
        ([16, 32], [1], {}, "got 2 and 1 values"),
        ([16], [0], {}, "depths must be integers >= 1"),
        ([16], [1], {"patch": 0}, "patch must be integers >= 1"),
        ([16], [1], {"classes": 2.5}, "classes must be integers >= 1"),
        ([20], [1], {}, "channels must be a multiple of 16"),
    ],
)
def test_a_nets_arguments_are_checked(widths, depths, options, sentence):
    with pytest.raises(ProblemError, match=sentence):
        ConvFirstNet(widths, depths, **options)
