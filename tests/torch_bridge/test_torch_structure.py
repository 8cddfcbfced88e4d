"""Which modules are recognised as ConvFirst blocks, and the reason for every one that is not supported."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import timm_stand_ins  # noqa: E402
from bridge_samples import block, image, sequential, with_statistics  # noqa: E402
from torch import nn  # noqa: E402

from kgen.torch.accelerated import AcceleratedBlock  # noqa: E402
from kgen.torch.ops import convfirst  # noqa: E402
from kgen.torch.structure import UnsupportedError, is_candidate, structure_of  # noqa: E402


def uib(library=timm_stand_ins, channels=32, out_channels=32, **options):
    return with_statistics(library.UniversalInvertedResidual(channels, out_channels, **options))


def assert_same(module, activation, residual, channels=32):
    """The structure's weights and fields give what the module computes, but for float16."""
    structure = structure_of(module)
    assert (structure.activation, structure.residual) == (activation, residual)
    packed = AcceleratedBlock(module, structure).packed_float16
    x = image(channels=channels).half()
    expansion = structure.expand.conv.out_channels / channels
    y = convfirst(x, packed, expansion, activation, "float16", residual)
    with torch.no_grad():
        torch.testing.assert_close(y.float(), module(x.float()), rtol=1e-2, atol=1e-2)


class TestSupported:
    @pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "gelu_tanh", "identity"])
    @pytest.mark.parametrize("residual", [True, False])
    def test_convfirst(self, activation, residual):
        assert_same(block(activation=activation, residual=residual), activation, residual)

    @pytest.mark.parametrize("bias", [True, False])
    def test_a_sequential(self, bias):
        assert_same(sequential(bias=bias), "silu", False)

    def test_a_sequential_without_batch_norms_or_activation(self):
        layers = (nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.Conv2d(32, 48, 1), nn.Conv2d(48, 32, 1))
        assert_same(with_statistics(nn.Sequential(*layers)), "identity", False)

    def test_a_batch_norm_without_parameters(self):
        module = sequential()
        module.conv_bn = nn.BatchNorm2d(32, affine=False).eval()
        assert_same(module, "silu", False)

    def test_timms_block(self):
        assert_same(uib(), "relu", True)
        assert_same(uib(act_layer=nn.SiLU), "silu", True)
        module = uib()
        module.has_skip = False
        assert_same(module, "relu", False)

    def test_timms_own_block(self):
        library = pytest.importorskip("timm.models._efficientnet_blocks", exc_type=ImportError)
        options = {"dw_kernel_size_mid": 0, "group_size": 8, "exp_ratio": 2.0, "layer_scale_init_value": None}
        form = {"dw_kernel_size_start": 3, **options}
        for activation, layer in {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": "gelu", "gelu_tanh": "gelu_tanh"}.items():
            assert_same(uib(library, act_layer=layer, **form), activation, True)
        assert_same(uib(library, noskip=True, drop_path_rate=0.1, **form), "relu", False)
        for name, wrong in {
            "dw_mid": {"dw_kernel_size_mid": 3},
            "dw_end": {"dw_kernel_size_end": 3},
            "layer_scale": {"layer_scale_init_value": 1e-5},
            "no dw_start": {"dw_kernel_size_start": 0},
            "group width of 8": {"group_size": 1},
            "3x3 with stride 1": {"dw_kernel_size_start": 5},
        }.items():
            with pytest.raises(UnsupportedError, match=name):
                structure_of(uib(library, **form | wrong))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(32, 32, 3),
        nn.Sequential(),
        nn.Sequential(nn.Conv2d(32, 32, 3, groups=4)),
        nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)),
        nn.Sequential(*sequential(), nn.ReLU()),
        nn.Sequential(nn.ReLU(), *sequential()),
    ],
    ids=lambda module: f"{type(module).__name__} of {len(list(module.children()))}",
)
def test_other_modules_are_no_candidates(module):
    assert not is_candidate(module)


def changed(module, **parts):
    for name, part in parts.items():
        setattr(module, name, part.eval() if isinstance(part, nn.Module) else part)
    return module


def hooked(module):
    module.project.register_forward_hook(lambda *_: None)
    return module


class OtherConv(nn.Conv2d):
    pass


class OtherBatchNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: block().train(), "it is in training mode; call eval"),
        (lambda: hooked(block()), "a forward or backward hook"),
        (lambda: sequential(nn.Hardswish), "activation must be SiLU, ReLU, GELU or none, but is Hardswish"),
        (lambda: changed(block(), activation=nn.Tanh()), "activation must be .* but is Tanh"),
        (lambda: sequential(channels=24, hidden=48), "channels must be a multiple of 16"),
        (lambda: sequential(hidden=40), r"expansion \* channels must be a multiple of 16"),
        (lambda: sequential(hidden=16), "expansion must be a number from 1 to 8"),
        (lambda: sequential(group_width=16), "conv must have a group width of 8 channels, but has 16"),
        (lambda: changed(sequential(), conv=nn.Conv2d(32, 32, 5, padding=2, groups=4)), "conv must be 3x3"),
        (lambda: changed(sequential(), conv=nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=4)), "with stride 1"),
        (lambda: changed(sequential(), conv=nn.Conv2d(32, 32, 3, groups=4)), "padding 1"),
        (lambda: changed(sequential(), expand=nn.Conv2d(32, 64, 3, padding=1)), "expand must be 1x1"),
        (lambda: changed(sequential(), project=nn.Conv2d(64, 32, 1, stride=2)), "project must be 1x1"),
        (
            lambda: changed(sequential(), expand=nn.Conv2d(32, 64, 1, groups=2)),
            "expand and project must have one group",
        ),
        (
            lambda: changed(sequential(), project=nn.Conv2d(64, 48, 1)),
            "must keep the 32 channels of x, but give 32 and 48",
        ),
        (
            lambda: changed(sequential(), conv=nn.Conv2d(32, 32, 3, padding=1, groups=4, padding_mode="reflect")),
            "conv must be a plain Conv2d with zero padding",
        ),
        (lambda: changed(block(), expand=OtherConv(32, 128, 1)), "expand must be a plain Conv2d"),
        (lambda: changed(block(), expand_bn=OtherBatchNorm(128)), "plain BatchNorm2d, but OtherBatchNorm follows"),
        (lambda: changed(block(), conv_bn=nn.BatchNorm2d(32, track_running_stats=False)), "running statistics"),
        (lambda: block().double(), "float32, float16 or bfloat16 values, but conv.weight is torch.float64"),
        (lambda: block().to("meta"), "conv.weight is on the meta device"),
        (lambda: changed(uib(), dw_mid=nn.Conv2d(64, 64, 3)), "it has dw_mid"),
        (lambda: changed(uib(), se=nn.Conv2d(64, 64, 1)), "it has se"),
        (lambda: changed(uib(), layer_scale=nn.Conv2d(32, 32, 1)), "it has layer_scale"),
        (lambda: changed(uib(), dw_start=nn.Identity()), "it has no dw_start"),
        (lambda: changed(uib(), pw_exp=nn.Conv2d(32, 64, 1)), "pw_exp must be a ConvNormAct"),
        (lambda: uib(out_channels=48), "must keep the 32 channels"),
        (lambda: uib(dw_kernel_size_start=5), "conv must be 3x3"),
        (lambda: uib(group_size=1), "group width of 8 channels, but has 1"),
    ],
)
def test_every_reason(make, reason):
    module = make()
    assert is_candidate(module)
    with pytest.raises(UnsupportedError, match=reason):
        structure_of(module)


def test_an_activation_after_timms_projection_is_refused():
    module = uib()
    module.pw_proj.bn.act = nn.ReLU().eval()
    with pytest.raises(UnsupportedError, match="an activation may stand after pw_exp only"):
        structure_of(module)


def test_one_part_in_training_mode_is_enough():
    module = block()
    module.expand_bn.train()
    with pytest.raises(UnsupportedError, match="training mode"):
        structure_of(module)


def test_recognising_changes_nothing():
    module = block()
    before = copy.deepcopy(module.state_dict())
    structure_of(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
