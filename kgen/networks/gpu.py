"""A network on a GPU: one CUDA graph for each shape of images, from the caller's images to the caller's logits.

The stem reads and the head writes the caller's arrays where they lie, so nothing is copied: the graph takes their
addresses at every start. What is between runs in memory of the network's own, at addresses that stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kgen.arrays import Adapter, Layout, Layouts, adapter_of
from kgen.errors import DeviceError
from kgen.graph import LaunchGraph
from kgen.launch import LoadedProgram
from kgen.networks.arena import plan_arena
from kgen.networks.images import layers_for
from kgen.networks.programs import NetworkPrograms
from kgen.networks.spec import Layer

GIGABYTE = 1e9


@dataclass(frozen=True)
class Step:
    """One layer's launch; an address that is the caller's to give is None until it is bound."""

    layer: Layer
    program: LoadedProgram
    x: int | None
    weights: int
    workspace: int
    y: int | None

    def launch(self, stream: int) -> None:
        """Queue the layer's kernels."""
        assert self.x is not None and self.y is not None
        self.program.launch(self.x, self.weights, self.workspace, self.y, self.layer.problem.batch, stream)


@dataclass(frozen=True)
class _Shape:
    """What runs for images of one shape and layout, and how to ask their library."""

    steps: tuple[Step, ...]
    adapter: Adapter
    graph: LaunchGraph


def _bound(steps: tuple[Step, ...], x: int, y: int) -> tuple[Step, ...]:
    """The steps of a call on images and logits at these addresses."""
    first, *between, last = steps
    return (replace(first, x=x), *between, replace(last, y=y))


def _launch(steps: tuple[Step, ...], x: int, y: int, stream: int) -> None:
    """Queue the layers' kernels one by one."""
    for step in _bound(steps, x, y):
        step.launch(stream)


class GpuNetwork:
    """A callable network, ``logits = model(images)``, or ``model(images, out=logits)`` without allocating.

    Images are CuPy arrays, PyTorch CUDA tensors, or offer __cuda_array_interface__ or DLPack, in any view of the stem's
    x; batch and image size are taken from them. Logits have shape (batch, classes), in the network's dtype. The kernels
    run on PyTorch's current stream for a tensor and on CuPy's for everything else.

    The first call for a shape plans, compiles and captures; later ones replay. A caller that captures a call in a graph
    of its own makes one for that shape before, and orders that graph among the other calls itself. An instance has one
    set of buffers, so its calls run one after the other, on whatever streams; for calls side by side, :meth:`clone` it.
    Clones share weights and kernels.
    """

    def __init__(self, programs: NetworkPrograms) -> None:
        import cupy
        from cupy_backends.cuda.api import runtime

        self.network = programs.network
        self.device = programs.device
        self._cupy = cupy
        self._runtime = runtime
        self._programs = programs
        self._shapes: dict[object, _Shape] = {}
        self._memory: Any = None
        self._kept: list[Any] = []
        self._lock = threading.Lock()
        self._stream = 0
        with cupy.cuda.Device(programs.ordinal):
            self._done = cupy.cuda.Event(disable_timing=True)

    def clone(self) -> GpuNetwork:
        """Another instance, with buffers of its own."""
        return GpuNetwork(self._programs)

    @property
    def memory_bytes(self) -> int:
        """GPU memory of the weights and of this instance's buffers, as of the largest images so far."""
        return self._programs.weight_bytes + (0 if self._memory is None else int(self._memory.nbytes))

    def __call__(self, images: Any, out: Any = None) -> Any:
        """Queue the network's kernels and return at once.

        Raises:
            ArrayError: images or out have a wrong shape, dtype, layout, alignment or device.
            ProblemError: the images are too small.
            DeviceError: the GPU has too little free memory.
        """
        key = _key(images)
        with self._lock:
            shape = self._shapes.get(key) or self._prepare(images, key)
            adapter = shape.adapter
            x = adapter.pointer(images, "x")
            if out is None:
                out = adapter.empty_for(images)
            y = adapter.pointer(out, "out")
            stream = adapter.stream()
            if self._runtime.streamIsCapturing(stream):
                self._run_captured(shape, x, y, stream)
            else:
                self._run(shape.graph, x, y, stream)
        return out

    def steps(self, images: Any, out: Any) -> tuple[Step, ...]:
        """What a call on these arrays launches, in order, for who runs it layer by layer.

        The steps hold until the buffers grow for larger images, and run one after the other like calls.

        Raises:
            what a call raises.
        """
        key = _key(images)
        with self._lock:
            shape = self._shapes.get(key) or self._prepare(images, key)
            return _bound(shape.steps, shape.adapter.pointer(images, "x"), shape.adapter.pointer(out, "out"))

    def _run(self, graph: LaunchGraph, x: int, y: int, stream: int) -> None:
        if stream != self._stream:
            self._runtime.streamWaitEvent(stream, self._done.ptr)
            self._stream = stream
        graph.start(x, y, stream)
        self._runtime.eventRecord(self._done.ptr, stream)

    def _run_captured(self, shape: _Shape, x: int, y: int, stream: int) -> None:
        """Into the caller's graph, which no other one can be launched into; its buffers must stay as long as this."""
        _launch(shape.steps, x, y, stream)
        if not any(kept is self._memory for kept in self._kept):
            self._kept.append(self._memory)

    def _prepare(self, images: Any, key: object) -> _Shape:
        """Everything that a new shape of images needs."""
        layers = layers_for(self.network, *_description(images, self._cupy))
        layouts = Layouts(Layout(layers[0].problem.x), Layout(layers[-1].problem.y))
        adapter = adapter_of(images, layouts, self._programs.ordinal)
        adapter.pointer(images, "x")  # that they lie on this GPU, before anything is compiled
        loaded = self._programs.load(layers)
        arena = plan_arena([layer.problem.y.bytes for layer in layers], [one.program.workspace_bytes for one in loaded])
        base = self._reserve(arena.bytes)
        places = [None, *(base + offset for offset in arena.y), None]
        steps = tuple(
            Step(
                layer,
                one,
                places[i],
                self._programs.weights[layer.name],
                base + arena.workspace if one.program.workspace_bytes else 0,
                places[i + 1],
            )
            for i, (layer, one) in enumerate(zip(layers, loaded, strict=True))
        )
        with self._cupy.cuda.Device(self._programs.ordinal):
            graph = LaunchGraph(partial(_launch, steps))
        shape = self._shapes[key] = _Shape(steps, adapter, graph)
        return shape

    def _reserve(self, size: int) -> int:
        """The address of at least ``size`` bytes. When they must grow, what was captured before is forgotten."""
        if self._memory is None or self._memory.nbytes < size:
            self._done.synchronize()
            self._shapes.clear()
            self._memory = None
            with self._cupy.cuda.Device(self._programs.ordinal):
                try:
                    self._memory = self._cupy.empty(size, dtype="uint8")
                except self._cupy.cuda.memory.OutOfMemoryError as error:
                    raise DeviceError(
                        f"{self.network.name} needs {size / GIGABYTE:.2f} GB of GPU memory between its layers for "
                        f"these images, which {self.device.title} does not have free; use a smaller batch"
                    ) from error
                self._cupy.cuda.get_current_stream().synchronize()
        return int(self._memory.data.ptr)

    def __repr__(self) -> str:
        return f"<kgen network {self.network.name} on {self.device.title}>"


def _key(images: Any) -> object:
    """Equal for images that run alike."""
    return type(images), images.shape, _strides(images)


def _strides(array: Any) -> object:
    strides: Callable[[], object] | object = getattr(array, "stride", None)
    return strides() if callable(strides) else getattr(array, "strides", None)


def _description(images: Any, cupy: Any) -> tuple[str, tuple[int, ...], tuple[int, ...], int]:
    """Name of the dtype, shape, strides in elements and address."""
    if hasattr(images, "data_ptr"):
        dtype = str(images.dtype).removeprefix("torch.")
        return dtype, tuple(images.shape), tuple(images.stride()), images.data_ptr()
    array = images if isinstance(images, cupy.ndarray) else cupy.asarray(images)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return array.dtype.name, array.shape, strides, array.data.ptr
