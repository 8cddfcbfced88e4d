"""Recognising ConvFirst blocks among a model's modules: which layers do what, or why a block is not one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kgen.blocks.convfirst.problem import GROUP_WIDTH, KERNEL_SIZE
from kgen.blocks.convfirst.problem import ConvFirst as Problem
from kgen.blocks.convfirst.weights import ConvFirstWeights
from kgen.errors import ProblemError
from kgen.torch.modules import ConvFirst, conv_of

# timm's classes are told by name, so that timm is not imported.
_TIMM_BLOCK = "UniversalInvertedResidual"
_TIMM_LAYER = "ConvNormAct"
_TIMM_BATCH_NORM = "BatchNormAct2d"
_ACTIVATIONS = {"SiLU": "silu", "Swish": "silu", "ReLU": "relu", "GELUTanh": "gelu_tanh", "Identity": "identity"}
_PARAMETER_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class UnsupportedError(Exception):
    """A block looks like ConvFirst but no kernel computes it; the text is the reason."""


@dataclass(frozen=True)
class Layer:
    """A convolution and the BatchNorm that follows it."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d | None


@dataclass(frozen=True)
class Structure:
    """The layers of a ConvFirst block, still owned by the block, and what else the problem depends on."""

    conv: Layer
    expand: Layer
    project: Layer
    activation: str
    residual: bool

    @property
    def layers(self) -> dict[str, Layer]:
        return {"conv": self.conv, "expand": self.expand, "project": self.project}

    def problem(self, batch: int, height: int, width: int, dtype: str) -> Problem:
        """The problem at one shape; ProblemError when a rule is broken."""
        channels, hidden = self.conv.conv.in_channels, self.expand.conv.out_channels
        return Problem(batch, height, width, channels, hidden / channels, self.activation, dtype, self.residual)  # type: ignore[arg-type]

    def weights(self) -> ConvFirstWeights:
        """The present values of the parameters, as float32 copies in CPU memory."""
        return ConvFirstWeights(*(conv_of(layer.conv, layer.bn) for layer in self.layers.values()))


def is_candidate(module: nn.Module) -> bool:
    """Whether a module has the form of a ConvFirst block, supported or not."""
    if type(module) is nn.Sequential:
        parts = _sequential_parts(module)
        return parts is not None and parts[0].conv.groups > 1 and parts[0].conv.kernel_size != (1, 1)
    return type(module) is ConvFirst or type(module).__name__ == _TIMM_BLOCK


def structure_of(block: nn.Module) -> Structure:
    """The layers of a candidate.

    Raises:
        UnsupportedError: it is in training mode, has hooks, or computes something else; the message is the reason.
    """
    modules = list(block.modules())
    if any(module.training for module in modules):
        raise UnsupportedError("it is in training mode; call eval() first")
    if any(_has_hooks(module) for module in modules):
        raise UnsupportedError("a forward or backward hook is registered on it, which a kernel would not call")
    structure = _structure(block)
    for name, layer in structure.layers.items():
        _check_layer(name, layer)
    _check_shapes(*(layer.conv for layer in structure.layers.values()))
    try:
        structure.problem(1, 1, 1, "float16")
    except ProblemError as error:
        raise UnsupportedError(str(error)) from None
    return structure


def _structure(block: nn.Module) -> Structure:
    if type(block) is ConvFirst:
        return Structure(
            Layer(block.conv, block.conv_bn),
            Layer(block.expand, block.expand_bn),
            Layer(block.project, block.project_bn),
            _activation_name(block.activation),
            block.residual,
        )
    if type(block) is nn.Sequential:
        parts = _sequential_parts(block)
        if parts is None:
            raise UnsupportedError("its layers are not conv, conv, activation, conv with BatchNorms")
        conv, expand, project, activation = parts
        return Structure(conv, expand, project, _activation_name(activation), residual=False)
    return _timm_structure(block)


def _sequential_parts(block: nn.Sequential) -> tuple[Layer, Layer, Layer, nn.Module] | None:
    """Three layers and the activation after the second, or None when the sequence is another one."""
    rest = list(block)

    def layer() -> Layer | None:
        if not rest or not isinstance(rest[0], nn.Conv2d):
            return None
        conv = rest.pop(0)
        return Layer(conv, rest.pop(0) if rest and isinstance(rest[0], nn.BatchNorm2d) else None)

    conv, expand = layer(), layer()
    activation = nn.Identity() if not rest or isinstance(rest[0], nn.Conv2d) else rest.pop(0)
    project = layer()
    if conv is None or expand is None or project is None or rest:
        return None
    return conv, expand, project, activation


def _timm_structure(block: nn.Module) -> Structure:
    """The layers of a UniversalInvertedResidual of ConvFirst form."""
    for name in ("dw_mid", "se", "dw_end", "layer_scale"):
        if not isinstance(getattr(block, name, None), nn.Identity):
            raise UnsupportedError(f"it has {name}, and ConvFirst does not")
    if isinstance(block.dw_start, nn.Identity):
        raise UnsupportedError("it has no dw_start, and ConvFirst begins with a convolution")
    conv, expand, project = (_timm_layer(name, getattr(block, name)) for name in ("dw_start", "pw_exp", "pw_proj"))
    if any(_activation_name(part.bn.act) != "identity" for part in (block.dw_start, block.pw_proj)):
        raise UnsupportedError("an activation may stand after pw_exp only")
    return Structure(conv, expand, project, _activation_name(block.pw_exp.bn.act), bool(block.has_skip))


def _timm_layer(name: str, part: nn.Module) -> Layer:
    is_plain = type(part).__name__ == _TIMM_LAYER and isinstance(getattr(part, "aa", None), nn.Identity | None)
    if not is_plain or type(part.bn).__name__ != _TIMM_BATCH_NORM or not isinstance(part.bn.drop, nn.Identity):
        raise UnsupportedError(f"{name} must be a {_TIMM_LAYER} with {_TIMM_BATCH_NORM} and nothing else")
    return Layer(part.conv, part.bn)


def _activation_name(module: nn.Module) -> str:
    kind = type(module)
    if kind.__module__.partition(".")[0] in ("torch", "timm"):
        if kind.__name__ == "GELU":
            return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else "gelu"
        if kind.__name__ in _ACTIVATIONS:
            return _ACTIVATIONS[kind.__name__]
    raise UnsupportedError(f"activation must be SiLU, ReLU, GELU or none, but is {kind.__name__}")


def _has_hooks(module: nn.Module) -> bool:
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, table) for table in tables)


def _check_layer(name: str, layer: Layer) -> None:
    conv, bn = layer.conv, layer.bn
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
        raise UnsupportedError(f"{name} must be a plain Conv2d with zero padding, but is {conv}")
    if conv.weight.is_meta or conv.weight.dtype not in _PARAMETER_DTYPES:
        place = "on the meta device" if conv.weight.is_meta else f"{conv.weight.dtype}"
        raise UnsupportedError(f"parameters must be float32, float16 or bfloat16 values, but {name}.weight is {place}")
    if bn is not None and type(bn) is not nn.BatchNorm2d and type(bn).__name__ != _TIMM_BATCH_NORM:
        raise UnsupportedError(f"{name} must be followed by a plain BatchNorm2d, but {type(bn).__name__} follows")
    if bn is not None and (bn.running_mean is None or bn.running_var is None):
        raise UnsupportedError(f"{name}'s BatchNorm must have running statistics, but it uses those of the batch")


def _check_shapes(conv: nn.Conv2d, expand: nn.Conv2d, project: nn.Conv2d) -> None:
    """Everything but the rules of the problem, which its constructor checks."""
    same = KERNEL_SIZE // 2
    _check_geometry("conv", conv, KERNEL_SIZE, same)
    _check_geometry("expand", expand, 1, 0)
    _check_geometry("project", project, 1, 0)
    group_width = conv.in_channels // conv.groups
    if group_width != GROUP_WIDTH:
        raise UnsupportedError(f"conv must have a group width of {GROUP_WIDTH} channels, but has {group_width}")
    if expand.groups > 1 or project.groups > 1:
        raise UnsupportedError("expand and project must have one group")
    if conv.out_channels != conv.in_channels or project.out_channels != conv.in_channels:
        raise UnsupportedError(
            f"conv and project must keep the {conv.in_channels} channels of x, but give {conv.out_channels} and "
            f"{project.out_channels}"
        )


def _check_geometry(name: str, conv: nn.Conv2d, size: int, padding: int) -> None:
    found = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    wanted = ((size, size), (1, 1), (padding, padding), (1, 1))
    if found != wanted:
        raise UnsupportedError(
            f"{name} must be {size}x{size} with stride 1, padding {padding} and dilation 1, but its kernel, stride, "
            f"padding and dilation are {', '.join(map(str, found))}"
        )
