"""Loading a network for this machine."""

from __future__ import annotations

from pathlib import Path

from kgen.devices import Device
from kgen.errors import DeviceError
from kgen.networks.gpu import GpuNetwork
from kgen.networks.host import HostNetwork
from kgen.networks.programs import NetworkPrograms
from kgen.networks.spec import Network
from kgen.networks.weights import NetworkWeights
from kgen.runtime import gpu


def load(
    network: Network,
    weights: NetworkWeights,
    *,
    device: str | None = None,
    folder: Path | None = None,
    tune: bool = False,
) -> GpuNetwork | HostNetwork:
    """The network as a callable, ``logits = model(images)``, with the best tuned configs there are for the device.

    ``device`` is a local GPU such as ``"cuda:0"``, the first one by default. ``folder`` is looked through for tuned
    configs before the user's and the packaged ones. On a machine without a GPU the network runs in NumPy. Kernels are
    compiled when images of a new shape come. With ``tune`` the problems that have no config of their own are then tuned
    first, up to a minute each, and saved in ``folder`` or the user's; without, whatever is not an exact, fresh,
    measured config is told by a :class:`~kgen.runtime.KgenWarning`.

    Raises:
        WeightsError: the weights do not fit the network.
        DeviceError: the device is unknown or not in this machine.
    """
    target = gpu(device)
    if target is None or target.ordinal is None:
        return HostNetwork(network, weights)
    return GpuNetwork(NetworkPrograms(network, weights, target, target.ordinal, folder, tune))


def load_on_gpu(network: Network, weights: NetworkWeights, device: Device, folder: Path | None = None) -> GpuNetwork:
    """The same where it is to be measured, which needs a GPU.

    Raises:
        DeviceError: the device is not in this machine.
    """
    if device.ordinal is None:
        raise DeviceError(f"networks are measured on a local GPU only, but {device.name} is a datasheet's; use cuda:0")
    return GpuNetwork(NetworkPrograms(network, weights, device, device.ordinal, folder))
