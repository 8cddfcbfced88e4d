"""A network's kernels and weights on one GPU, which any number of instances share."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from kgen.blocks import family
from kgen.compile import CompilePool
from kgen.devices import Device
from kgen.launch import LoadedProgram
from kgen.networks.arena import ALIGNMENT_BYTES
from kgen.networks.spec import Layer, LayerProblem, Network
from kgen.networks.weights import NetworkWeights, fold
from kgen.render import render
from kgen.runtime import config_for
from kgen.tuned import is_tuned

_TRIALS, _BUDGET_S = 100, 60.0  # of a problem that is tuned while its network is loaded


class NetworkPrograms:
    """The packed weights, in one allocation, and the programs of every problem that was met.

    Raises:
        WeightsError: the weights do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        weights: NetworkWeights,
        device: Device,
        ordinal: int,
        folder: Path | None,
        tunes: bool = False,
    ) -> None:
        import cupy

        self.network = network
        self.device = device
        self.ordinal = ordinal
        self._folder = folder
        self._tunes = tunes
        self._lock = threading.Lock()
        self._loaded: dict[LayerProblem, LoadedProgram] = {}
        packed = _packed(network, weights)
        with cupy.cuda.Device(ordinal):
            self._memory = cupy.asarray(np.concatenate(list(packed.values())))
            cupy.cuda.get_current_stream().synchronize()  # the caller's streams do not wait for this one
        starts = np.cumsum([0, *(len(part) for part in packed.values())])
        base = int(self._memory.data.ptr)
        self.weights = {name: base + int(start) for name, start in zip(packed, starts[:-1], strict=True)}
        """Device addresses of the layers' weights."""

    @property
    def weight_bytes(self) -> int:
        """Of all layers' packed weights."""
        return int(self._memory.nbytes)

    def load(self, layers: tuple[Layer, ...]) -> list[LoadedProgram]:
        """Each layer's program, loaded; what was not met before is compiled, side by side.

        Raises:
            TunedConfigError: a tuned-config file is corrupt.
            CompileError: NVRTC is missing or rejects a kernel.
        """
        with self._lock:
            new = {layer.problem for layer in layers} - set(self._loaded)
            if new:
                self._compile(new)
            return [self._loaded[layer.problem] for layer in layers]

    def _compile(self, problems: set[LayerProblem]) -> None:
        for problem in problems if self._tunes else ():
            if not is_tuned(problem, self.device, self._folder):
                self._tune(problem)
        with CompilePool() as pool:
            compiling = []
            for problem in problems:
                config = config_for(problem, self.device, self._folder)
                program = family(problem.family).plan(problem, config, self.device)
                compiling.append((problem, program, pool.submit(render(program), program.arch)))
            self._loaded |= {problem: LoadedProgram(program, cubin.result()) for problem, program, cubin in compiling}

    def _tune(self, problem: LayerProblem) -> None:
        from kgen.search import tune  # Optuna takes a while to import

        tune(problem, self.device, trials=_TRIALS, budget_s=_BUDGET_S, out=self._folder)


def _packed(network: Network, weights: NetworkWeights) -> dict[str, Any]:
    """Each layer's packed weights, filled up so that what follows is aligned."""
    folded = fold(network, weights)
    packed = {}
    for layer in network.smallest_layers():
        part = family(layer.problem.family).pack(layer.problem, folded[layer.name])
        packed[layer.name] = np.pad(part, (0, -len(part) % ALIGNMENT_BYTES))
    return packed
