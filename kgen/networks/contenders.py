"""What a network is measured against: itself as kgen's kernels, and in PyTorch's stock layers."""

from __future__ import annotations

from typing import Any

from kgen.devices import Device
from kgen.errors import ProblemError
from kgen.networks.bench import Contender
from kgen.networks.checkpoint import state_dict
from kgen.networks.images import random_images
from kgen.networks.loading import load_on_gpu
from kgen.networks.spec import Network
from kgen.networks.weights import NetworkWeights
from kgen.tensors import DTYPES

PEERS = ("inductor", "eager")


def ours(network: Network, weights: NetworkWeights, batch: int, size: int, device: Device) -> Contender:
    """The network as :func:`kgen.networks.load` gives it, on random images.

    Raises:
        DeviceError: the device is not in this machine.
    """
    model = load_on_gpu(network, weights, device)
    import cupy

    x = network.layers(batch, size, size)[0].problem.x
    with cupy.cuda.Device(device.ordinal):
        images = cupy.asarray(random_images(x))
        logits = cupy.empty((batch, network.classes), DTYPES[network.dtype])
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()

    def call() -> None:
        with stream:
            model(images, out=logits)

    return Contender(
        "kgen", call, stream.synchronize, lambda: model.memory_bytes + int(images.nbytes) + int(logits.nbytes)
    )


def peer(name: str, network: Network, weights: NetworkWeights, batch: int, size: int, device: Device) -> Contender:
    """The same network in PyTorch's stock layers: ``eager``, or ``inductor``, torch.compile with CUDA graphs.

    Raises:
        ProblemError: there is no such peer, or PyTorch is not installed.
    """
    if name not in PEERS:
        raise ProblemError(f"a peer must be one of {', '.join(PEERS)}, but got {name!r}; choose one of them")
    try:
        import torch
    except ImportError:
        raise ProblemError(f"peer {name} needs PyTorch, which is not installed; pip install 'kgen[torch]'") from None
    place, dtype = torch.device("cuda", device.ordinal), getattr(torch, network.dtype)
    module = stock(network, weights).to(place, dtype).eval().to(memory_format=torch.channels_last)
    shape = (batch, network.image_channels, size, size)
    images = torch.randn(shape, device=place, dtype=dtype).contiguous(memory_format=torch.channels_last)
    torch.cuda.reset_peak_memory_stats(place)
    run = torch.compile(module, mode="max-autotune") if name == "inductor" else module

    def call() -> None:
        with torch.no_grad():
            run(images)

    return Contender(
        name, call, lambda: torch.cuda.synchronize(place), lambda: int(torch.cuda.max_memory_allocated(place))
    )


def stock(network: Network, weights: NetworkWeights) -> Any:
    """The network in PyTorch's stock layers: a :class:`kgen.torch.ConvFirstNet` on the CPU, in float32.

    Raises:
        RuntimeError: the weights hold something the module has no place for, such as a bias before a BatchNorm.
    """
    import torch

    from kgen.torch import ConvFirstNet

    module = ConvFirstNet(
        network.widths,
        network.depths,
        expansion=network.expansion,
        activation=network.activation,
        image_channels=network.image_channels,
        classes=network.classes,
        patch=network.patch,
    )
    module.load_state_dict({name: torch.as_tensor(value) for name, value in state_dict(network, weights).items()})
    return module
