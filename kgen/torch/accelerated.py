"""A block that shares another one's layers and runs the tuned kernel where that gives the same result."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from kgen.blocks.convfirst.weights import fold, pack
from kgen.errors import WeightsError
from kgen.runtime import KgenWarning
from kgen.torch.ops import STORAGE_DTYPES, convfirst
from kgen.torch.structure import Structure

_KERNEL_DEVICES = ("cuda",)


class AcceleratedBlock(nn.Module):
    """A ConvFirst block in the place of ``block``, with its layers: parameters and state dict stay what they were.

    The kernel runs in evaluation mode, on a CUDA tensor in float16 or bfloat16 (under autocast: in autocast's dtype,
    which is then the result's too), where autograd records nothing. Everything else, such as training (also of one
    BatchNorm), CPU tensors, float32 and gradients, goes through the stock layers. The kernel calls no hook that is
    registered on a layer, only those of this block. x has shape (batch, channels, height, width) in any memory
    format; the kernel's result is in channels_last memory, and an x in another format is copied to it.

    The kernel reads a packed copy of the weights, a uint8 buffer per dtype that no state dict holds. It is made anew by
    ``eval()``, by ``load_state_dict`` on this block or a parent, and by whatever moves or casts the module. After
    parameters are changed by other means while in evaluation mode, call ``eval()``. The buffer stays where it is, so a
    captured CUDA graph replays with the new weights.

    Raises:
        WeightsError: the weights fit no kernel in any dtype, such as NaN.
    """

    def __init__(self, block: nn.Module, structure: Structure) -> None:
        super().__init__()
        self._block = (block,)  # in a tuple it is no submodule, which would double every name in the state dict
        self.structure = structure
        self._norms = tuple(layer.bn for layer in structure.layers.values() if layer.bn is not None)
        rules = structure.problem(1, 1, 1, "float16")
        self._expansion, self._activation, self._residual = float(rules.expansion), rules.activation, rules.residual
        self._channels = rules.channels
        for dtype in STORAGE_DTYPES:
            self.register_buffer(f"packed_{dtype}", None, persistent=False)
        self._modules.update(block._modules)
        self.register_load_state_dict_post_hook(_repack)
        nn.Module.train(self, block.training)
        self._pack()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self._kernel_dtype(x)
        packed = None if dtype is None else getattr(self, f"packed_{dtype}")
        if packed is None:
            return self._block[0](x)
        return convfirst(x, packed, self._expansion, self._activation, dtype, self._residual)

    def train(self, mode: bool = True) -> AcceleratedBlock:
        """Use the stock layers (True), or the kernel with the parameters' present values (False)."""
        super().train(mode)
        self._block[0].train(mode)
        if not mode:
            _repack(self)
        return self

    def _apply(self, *arguments: Any, **options: Any) -> AcceleratedBlock:
        super()._apply(*arguments, **options)
        _repack(self)
        return self

    def extra_repr(self) -> str:
        """What the kernel computes."""
        tail = "" if self._residual else ", no residual"
        return f"convfirst({self._channels} channels, expansion {self._expansion:g}, {self._activation}{tail})"

    def _kernel_dtype(self, x: torch.Tensor) -> str | None:
        """The dtype in which a kernel computes the result, or None when the stock layers do."""
        device = x.device.type
        if self.training or device not in _KERNEL_DEVICES or x.ndim != 4:
            return None
        if x.shape[1] != self._channels or 0 in x.shape or any(bn.training for bn in self._norms):
            return None
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters())):
            return None
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return next((name for name, storage in STORAGE_DTYPES.items() if storage is dtype), None)

    def _pack(self) -> None:
        """Pack the parameters' present values for every dtype that x may come in.

        Raises:
            WeightsError: that fails for each of them.
        """
        like = self.structure.conv.conv.weight
        weights, errors = self.structure.weights(), []
        for dtype, storage in STORAGE_DTYPES.items():
            packed = None
            # x comes in the dtype of 16-bit parameters, and in either under autocast of float32 ones.
            if like.dtype in (storage, torch.float32):
                try:
                    problem = self.structure.problem(1, 1, 1, dtype)
                    packed = torch.from_numpy(pack(problem, fold(problem, weights)))
                except WeightsError as error:
                    errors.append(error)
            self._put(f"packed_{dtype}", packed, like.device)
        if errors and not any(buffer is not None for buffer in self._buffers.values()):
            raise errors[0]

    def _put(self, name: str, packed: torch.Tensor | None, device: torch.device) -> None:
        """Fill the buffer in place where there is one, so that CUDA graphs see the new weights."""
        old = self._buffers[name]
        if packed is not None and old is not None and old.device == device:
            old.copy_(packed)
        else:
            with torch.inference_mode(False):  # else the buffer could not be filled outside of it
                self._buffers[name] = None if packed is None else packed.to(device, copy=True)


def _repack(block: AcceleratedBlock, _: object = None) -> None:
    """Pack again what can be packed now; the stock layers take over from what cannot."""
    if block.training or block.structure.conv.conv.weight.is_meta:
        return
    try:
        block._pack()
    except WeightsError as error:
        message = f"{error}; until the weights change, the block runs in stock layers"
        warnings.warn(message, KgenWarning, stacklevel=2)
