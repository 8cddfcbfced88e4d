"""The PyTorch operator ``kgen::convfirst``: a tuned block as a pure function of x and the packed weights.

The operator owns no weights. What it keeps per problem and GPU is the kernels alone, loaded on first use and shared by
every block of that shape for as long as the process lives, as PyTorch's own kernels are: CUDA graphs may hold them.
Outputs and the workspace between two kernels come from PyTorch's allocator on the current stream. So threads and
streams do not disturb each other, a captured graph owns the memory that it replays in, and nothing needs clean-up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import get_args

import torch

from kgen.arrays import ALIGNMENT_BYTES, torch_stream_getter
from kgen.blocks.convfirst.problem import ConvFirst as Problem
from kgen.blocks.convfirst.problem import DType
from kgen.blocks.convfirst.weights import packed_bytes, unpack
from kgen.devices import find_device
from kgen.errors import ArrayError, WeightsError
from kgen.host import HostForward
from kgen.launch import LaunchError, LoadedProgram
from kgen.runtime import generate

STORAGE_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(DType)}

_AUTOCAST_DEVICES = ("cuda", "cpu")
_Launch = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]

_launches: dict[tuple[object, ...], _Launch] = {}
_loading = threading.Lock()


@torch.library.custom_op("kgen::convfirst", mutates_args=(), device_types="cpu")
def convfirst(
    x: torch.Tensor, packed: torch.Tensor, expansion: float, activation: str, dtype: str, residual: bool
) -> torch.Tensor:
    """One ConvFirst block.

    x has shape (batch, channels, height, width) and the dtype that ``dtype`` names; the result has them too, in
    channels_last memory. An x that is not in channels_last memory is converted, which costs a copy. Under autocast x
    is cast to ``dtype`` first. ``packed`` is the vector of :func:`kgen.blocks.convfirst.weights.pack` as a uint8 tensor
    on x's device, written before the kernel that precedes this call on its stream: a kernel may read weights early.
    On a CPU the block is computed in float32 and rounded once. No gradients.

    Raises:
        ProblemError: the problem breaks a rule.
        ArrayError: x does not fit it.
        WeightsError: ``packed`` does not fit it.
        LaunchError: kernels not yet loaded are first needed while a CUDA graph is being captured.
        TunedConfigError, CompileError, DeviceError: as :func:`kgen.load`.
    """
    problem = _problem(x, expansion, activation, dtype, residual)
    x, y = _prepared(x, packed, dtype)
    forward = HostForward(problem, unpack(problem, packed.numpy()))
    forward(x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1))
    return y


@convfirst.register_kernel("cuda")
def _on_gpu(
    x: torch.Tensor, packed: torch.Tensor, expansion: float, activation: str, dtype: str, residual: bool
) -> torch.Tensor:
    key = (x.shape, x.get_device(), packed.shape, packed.dtype, expansion, activation, dtype, residual)
    launch = _launches.get(key) or _load(key, _problem(x, expansion, activation, dtype, residual), packed)
    x, y = _prepared(x, packed, dtype)
    launch(x, packed, y)
    return y


@convfirst.register_fake
def _(
    x: torch.Tensor, packed: torch.Tensor, expansion: float, activation: str, dtype: str, residual: bool
) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _register_autocast(device_type: str) -> None:
    """Cast x to the dtype of the weights. PyTorch's own rule would cast to one dtype that is fixed beforehand."""

    def under_autocast(x: torch.Tensor, packed: torch.Tensor, *scalars: object) -> torch.Tensor:
        _, _, dtype, _ = scalars
        with torch.autocast(device_type, enabled=False):
            return torch.ops.kgen.convfirst(x.to(STORAGE_DTYPES.get(str(dtype), x.dtype)), packed, *scalars)

    _library.impl("convfirst", under_autocast, f"Autocast{device_type.upper()}")


_library = torch.library.Library("kgen", "FRAGMENT")
for _device_type in _AUTOCAST_DEVICES:
    _register_autocast(_device_type)


def _problem(x: torch.Tensor, expansion: float, activation: str, dtype: str, residual: bool) -> Problem:
    if x.ndim != 4:
        raise ArrayError(
            f"x must have shape (batch, channels, height, width), but got {tuple(x.shape)}; pass a batch of images"
        )
    batch, channels, height, width = x.shape
    return Problem(batch, height, width, channels, expansion, activation, dtype, residual)  # type: ignore[arg-type]


def _prepared(x: torch.Tensor, packed: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x as the kernels read it, and a new tensor for y."""
    if x.dtype is not STORAGE_DTYPES[dtype] or packed.device != x.device:
        raise ArrayError(
            f"x must be {dtype} on the weights' device {packed.device}, but got {x.dtype} on {x.device}; convert it"
        )
    if packed.data_ptr() % ALIGNMENT_BYTES or not packed.is_contiguous():
        raise WeightsError(
            f"packed weights must be contiguous and start at a multiple of {ALIGNMENT_BYTES} bytes, but got strides "
            f"{packed.stride()} at {packed.data_ptr():#x}; clone them"
        )
    x = x.contiguous(memory_format=torch.channels_last)
    if x.data_ptr() % ALIGNMENT_BYTES:  # a view into other memory
        x = x.clone(memory_format=torch.channels_last)
    return x, torch.empty_like(x, memory_format=torch.channels_last)


def _load(key: tuple[object, ...], problem: Problem, packed: torch.Tensor) -> _Launch:
    """The launch of a problem that is needed for the first time; its kernels are loaded once, whichever thread asks."""
    size = packed_bytes(problem)
    if packed.dtype is not torch.uint8 or packed.shape != (size,):
        raise WeightsError(
            f"packed weights must be a uint8 vector of {size} bytes for {problem}, but got {packed.dtype} of shape "
            f"{tuple(packed.shape)}; pack them for this problem"
        )
    if torch.cuda.is_current_stream_capturing():
        raise LaunchError(
            f"the kernels of {problem} must be loaded before a CUDA graph is captured, but this is their first use; "
            "run the model once on an input of this shape, then capture"
        )
    with _loading:
        launch = _launches.get(key)
        if launch is None:
            launch = _launches[key] = _launch_of(problem, packed.get_device())
    return launch


def _launch_of(problem: Problem, ordinal: int) -> _Launch:
    _, program, cubin = generate(problem, find_device(f"cuda:{ordinal}"))
    loaded = LoadedProgram(program, cubin)
    stream_of = torch_stream_getter(torch)
    workspace_bytes = program.workspace_bytes

    def launch(x: torch.Tensor, packed: torch.Tensor, y: torch.Tensor) -> None:
        hidden = x.new_empty(workspace_bytes, dtype=torch.uint8) if workspace_bytes else None
        hidden_pointer = 0 if hidden is None else hidden.data_ptr()
        stream = int(stream_of(ordinal))
        loaded.launch(x.data_ptr(), packed.data_ptr(), hidden_pointer, y.data_ptr(), problem.batch, stream)

    return launch
