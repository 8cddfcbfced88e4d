"""Loading a tuned block and running it on the caller's arrays and stream."""

from __future__ import annotations

import inspect
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from kgen.arrays import Adapter, KernelProblem, adapter_of, layouts_of
from kgen.blocks import family
from kgen.compile import Cubin, compile_cubin
from kgen.devices import Device, find_device, local_devices
from kgen.errors import DeviceError
from kgen.graph import LaunchGraph
from kgen.host import HostForward
from kgen.launch import LoadedProgram
from kgen.machine import Config, Program
from kgen.render import render
from kgen.tuned import lookup

_host_told = False


class KgenWarning(UserWarning):
    """A block runs, but not with a config that was measured for exactly this problem and GPU."""


class Block:
    """A callable block: ``y = block(x)``, or ``block(x, out=y)`` without allocating.

    x has shape (batch, height, width, channels) in C order, or (batch, channels, height, width) in channels_last
    memory, in the problem's dtype, 16-byte aligned; y has the same shape and comes as the same kind of array.
    ``out`` must not overlap x. It is for inference: gradients do not flow through it.
    """

    def __init__(self, problem: KernelProblem, device: Device, config: Config | None) -> None:
        self.problem = problem
        self.device = device
        self.config = config
        """The config that the kernels were generated from; None for a block that runs in NumPy."""

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Run the block; on a GPU this queues the kernels and returns at once.

        Raises:
            ArrayError: x or out has a wrong shape, dtype, layout, alignment or device, or they overlap.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<kgen block {self.problem} on {self.device.name}>"


class GpuBlock(Block):
    """A block on a GPU. x is a CuPy array, a PyTorch CUDA tensor, or offers __cuda_array_interface__ or DLPack.

    The kernels run on PyTorch's current stream for a tensor and on CuPy's for everything else, and can be captured in
    a CUDA graph. A block whose program has several kernels (``program.workspace_bytes > 0``) starts them as one graph
    and owns one workspace between them: its calls must be ordered, as they are on one stream. To run on several streams
    at once, load a block each.
    """

    def __init__(self, problem: KernelProblem, config: Config, program: Program, cubin: Cubin, packed: Any) -> None:
        import cupy
        from cupy_backends.cuda.api import runtime

        super().__init__(problem, program.device, config)
        self.program = program
        self._is_capturing = runtime.streamIsCapturing
        self._loaded = LoadedProgram(program, cubin)
        self._layouts = layouts_of(problem)
        self._adapters: dict[type, Adapter] = {}
        with cupy.cuda.Device(self._loaded.ordinal):
            self._weights = cupy.asarray(packed)
            self._hidden = cupy.empty(program.workspace_bytes, dtype="uint8")
            # The caller's streams do not wait for this one.
            cupy.cuda.get_current_stream().synchronize()
            self._weights_pointer = int(self._weights.data.ptr)
            self._hidden_pointer = int(self._hidden.data.ptr) if program.workspace_bytes else 0
            self._graph = LaunchGraph(self._launch) if len(program.kernels) > 1 else None

    def __call__(self, x: Any, out: Any = None) -> Any:
        adapter = self._adapters.get(type(x)) or self._adapter(x)
        x_pointer = adapter.pointer(x, "x")
        if out is None:
            out = adapter.empty_for(x)
        y_pointer = (self._adapters.get(type(out)) or self._adapter(out)).pointer(out, "out")
        self._layouts.check_apart(x_pointer, y_pointer)
        stream = adapter.stream()
        if self._graph is None or self._is_capturing(stream):
            self._launch(x_pointer, y_pointer, stream)
        else:
            self._graph.start(x_pointer, y_pointer, stream)
        return out

    def _launch(self, x: int, y: int, stream: int) -> None:
        """Queue the kernels one by one; x, y and the stream are addresses."""
        self._loaded.launch(x, self._weights_pointer, self._hidden_pointer, y, self.problem.batch, stream)

    def _adapter(self, array: Any) -> Adapter:
        adapter = self._adapters[type(array)] = adapter_of(array, self._layouts, self._loaded.ordinal)
        return adapter


class HostBlock(Block):
    """A block on a machine without a GPU: float32 NumPy on NumPy arrays and PyTorch's CPU tensors."""

    def __init__(self, problem: KernelProblem, device: Device, folded: Any) -> None:
        super().__init__(problem, device, None)
        self._forward = HostForward(problem, folded)

    def __call__(self, x: Any, out: Any = None) -> Any:
        return self._forward(x, out)


def load(problem: KernelProblem, weights: Any, *, device: str | None = None, folder: Path | None = None) -> Block:
    """The block for a problem, with the best tuned config there is for the device, ready to run.

    ``weights`` are the family's, such as :class:`~kgen.blocks.convfirst.weights.ConvFirstWeights`.
    ``device`` is a local GPU such as ``"cuda:0"``, the first one by default. ``folder`` is looked through for tuned
    configs before the user's and the packaged ones. On a machine without a GPU the block runs in NumPy. Whatever is
    not an exact, fresh, measured config is told by a :class:`KgenWarning`.

    Raises:
        WeightsError: the weights do not fit the problem.
        DeviceError: the device is unknown or not in this machine.
        TunedConfigError: a tuned-config file is corrupt.
        CompileError: NVRTC is missing or rejects the kernel.
    """
    block = family(problem.family)
    folded = block.fold(problem, weights)
    target = gpu(device)
    if target is None:
        return HostBlock(problem, find_device(device), folded)
    config, program, cubin = generate(problem, target, folder)
    return GpuBlock(problem, config, program, cubin, block.pack(problem, folded))


def generate(problem: KernelProblem, device: Device, folder: Path | None = None) -> tuple[Config, Program, Cubin]:
    """The best config known for the problem on a device, its plan and its machine code; errors as :func:`load`.

    Whatever the config falls short of is told.
    """
    config = config_for(problem, device, folder)
    program = family(problem.family).plan(problem, config, device)
    return config, program, compile_cubin(render(program), program.arch)


def gpu(device: str | None) -> Device | None:
    """The local GPU that blocks are to run on; None, told once, on a machine without any.

    Raises:
        DeviceError: the device is unknown, or names a datasheet on a machine with a GPU.
    """
    target = find_device(device)
    if target.ordinal is not None:
        return target
    if local_devices():
        raise DeviceError(
            f"a block runs on a local GPU, but device={device!r} names a datasheet; choose cuda:0, or leave it out"
        )
    _tell_host()
    return None


def config_for(problem: KernelProblem, device: Device, folder: Path | None) -> Config:
    """The best config known for the problem; whatever it falls short of is told by a :class:`KgenWarning`."""
    found = lookup(problem, device, folder)
    if found is None:
        _warn(
            f"no tuned config for {device.title} can run {problem}, so the performance model's choice is used; "
            "run kgen tune for this shape"
        )
        return _modelled_choice(problem, device)
    sentence = found.sentence()
    if sentence:
        _warn(sentence)
    if found.entry.measured is None:
        _warn(f"the config of {found.entry.problem} in {found.path} is modelled, not measured; tune it on this GPU")
    return found.entry.config


@lru_cache
def _modelled_choice(problem: KernelProblem, device: Device) -> Config:
    """What the performance model thinks fastest, which takes it a second or two."""
    best: Config = family(problem.family).favourites(problem, device, 1)[0]
    return best


def _tell_host() -> None:
    """Say once per process that blocks run on the CPU."""
    global _host_told
    if not _host_told:
        _host_told = True
        _warn("no GPU was found, so blocks run in NumPy, in float32 and slowly; nothing is tuned or generated")


def _warn(message: str) -> None:
    warnings.warn(message, KgenWarning, stacklevel=_caller_level())


def _caller_level() -> int:
    """The stack level of whoever called :func:`load`, so that a warning points there."""
    frame = inspect.currentframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "kgen":
        frame, level = frame.f_back, level + 1
    return level
