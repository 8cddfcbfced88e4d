"""Weights of a network in safetensors files, under the names of PyTorch's state dict of the trainable module.

The contract: ``stem.conv.weight``, ``stages.{i}.downsample.conv.weight`` (i >= 1),
``stages.{i}.blocks.{j}.{conv,expand,project}.weight``, shaped as PyTorch's convolutions are, (outputs, inputs / groups,
height, width), where those of expand and project may lack the trailing (1, 1); beside each the four tensors of its
BatchNorm, ``{weight,bias,running_mean,running_var}`` under ``stem.bn``, ``stages.{i}.downsample.bn`` and
``stages.{i}.blocks.{j}.{conv,expand,project}_bn``; ``head.weight`` (classes, channels) and ``head.bias``. A convolution
may have a ``bias``; one whose BatchNorm is folded already has none of the four. ``num_batches_tracked`` is ignored.
Tensors are float32, float16 or bfloat16. The BatchNorms' eps is the file's metadata ``bn_eps``, else 1e-5.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from kgen.blocks import family
from kgen.blocks.layers import Array, BatchNorm, Conv, as_array, numbers
from kgen.env import atomic_write
from kgen.errors import WeightsError
from kgen.networks.parts import Part, Shape, parts_of
from kgen.networks.spec import STEM, Network
from kgen.networks.weights import LayerWeights, NetworkWeights, check_names, fold

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
EPS_KEY = "bn_eps"
_DEFAULT_EPS = "1e-5"
_LENGTH_BYTES = 8  # a safetensors file begins with its header's length


def load_weights(
    path: str | Path, network: Network, *, mean: npt.ArrayLike | None = None, std: npt.ArrayLike | None = None
) -> NetworkWeights:
    """Weights of a network from a safetensors file; the module's description has the names.

    ``mean`` and ``std``, of shape (image channels,), are of images whose values are from 0 to 1, such as ``uint8`` ones
    divided by 255: the network then takes images that are not normalised yet.

    Raises:
        WeightsError: the file cannot be read, is truncated or no safetensors file; names are missing or unexpected; a
            tensor has a wrong shape or dtype, or holds NaN or infinity.
    """
    tensors, eps = _read(Path(path))
    parts = parts_of(network)
    required = set().union(*(part.required(tensors) for part in parts))
    optional = set().union(*(part.optional for part in parts))
    check_names(f"weights file {path} for {network.name}", required, set(tensors) - optional)
    convs = {(part.layer, part.field): _conv(part, tensors, eps, path) for part in parts}
    layers: dict[str, LayerWeights] = {}
    for layer in network.smallest_layers():
        own = {field: conv for (name, field), conv in convs.items() if name == layer.name}
        normalisation = {"mean": mean, "std": std} if layer.name == STEM else {}
        layers[layer.name] = family(layer.problem.family).Weights(**own, **normalisation)
    return NetworkWeights(layers)


def save_weights(path: str | Path, network: Network, weights: NetworkWeights) -> None:
    """Write weights to a safetensors file that :func:`load_weights` reads, in place of any that is there, atomically.

    Convolutions with a BatchNorm keep it; see :meth:`NetworkWeights.without_batch_norms`. Dtypes stay, others than the
    contract's become float32. The normalisation of images is no part of the file: pass it again when loading.

    Raises:
        WeightsError: the weights do not fit the network, BatchNorms differ in eps, or the file cannot be written.
    """
    fold(network, weights)  # what does not fit must not be written
    convs = (getattr(weights.layers[part.layer], part.field) for part in parts_of(network))
    data = safetensors.numpy.save(state_dict(network, weights), _metadata(convs))
    try:
        atomic_write(Path(path), data)
    except OSError as error:
        raise WeightsError(
            f"weights file {path} must be writable, but writing it failed ({error.strerror or type(error).__name__}); "
            "choose another folder"
        ) from error


def state_dict(network: Network, weights: NetworkWeights) -> dict[str, Array]:
    """The tensors by their names in a file, and in PyTorch's state dict of the trainable module."""
    tensors: dict[str, Array] = {}
    for part in parts_of(network):
        tensors |= _tensors(part, getattr(weights.layers[part.layer], part.field))
    return tensors


def _read(path: Path) -> tuple[Mapping[str, Any], float]:
    """The tensors as safetensors has them, {dtype, shape, data} by name, and the BatchNorms' eps."""
    try:
        data = path.read_bytes()
        tensors = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise WeightsError(
            f"weights file {path} must be readable, but reading it failed ({error.strerror or type(error).__name__}); "
            "check path and mode"
        ) from error
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"weights file {path} must be a whole safetensors file, but it is none or truncated ({error}); fetch or "
            "save it again"
        ) from error
    header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
    text = (header.get("__metadata__") or {}).get(EPS_KEY, _DEFAULT_EPS)
    try:
        return tensors, float(text)
    except ValueError:
        raise WeightsError(
            f"metadata {EPS_KEY} of weights file {path} must be a number, but got {text!r}; save it with repr(eps)"
        ) from None


def _conv(part: Part, tensors: Mapping[str, Any], eps: float, path: str | Path) -> Conv:
    vector = ((part.shape[0],),)
    values = {field: _array(name, tensors, vector, path) for field, name in part.batch_norm.items() if name in tensors}
    bias = f"{part.conv}.bias"
    return Conv(
        _array(f"{part.conv}.weight", tensors, part.shapes, path),
        _array(bias, tensors, vector, path) if bias in tensors else None,
        BatchNorm(**values, eps=eps) if values else None,
    )


def _array(name: str, tensors: Mapping[str, Any], shapes: tuple[Shape, ...], path: str | Path) -> Array:
    """A tensor of the file, checked."""
    dtype, shape = tensors[name]["dtype"], tuple(tensors[name]["shape"])
    if dtype not in DTYPES or shape not in shapes:
        raise WeightsError(
            f"{name} in weights file {path} must be {' or '.join(DTYPES)} of shape {' or '.join(map(str, shapes))}, "
            f"but got {dtype} of shape {shape}; load it as a network of its dimensions, or convert it"
        )
    array = np.frombuffer(tensors[name]["data"], DTYPES[dtype]).reshape(shape)
    numbers(f"{name} in weights file {path}", array)
    return array


def _tensors(part: Part, conv: Conv) -> dict[str, Array]:
    """The part's tensors by name; the head's bias is always one of them."""
    values: dict[str, npt.ArrayLike] = {f"{part.conv}.weight": conv.weight}
    if conv.bias is not None or not part.bn:
        values[f"{part.conv}.bias"] = np.zeros(part.shape[0], np.float32) if conv.bias is None else conv.bias
    if conv.bn:
        values |= {name: getattr(conv.bn, field) for field, name in part.batch_norm.items()}
    arrays = {name: np.ascontiguousarray(as_array(name, value)) for name, value in values.items()}
    known = {name: a if a.dtype in DTYPES.values() else a.astype(np.float32) for name, a in arrays.items()}
    return known | {f"{part.conv}.weight": known[f"{part.conv}.weight"].reshape(part.shape)}


def _metadata(convs: Iterable[Conv]) -> dict[str, str]:
    found = sorted({repr(float(conv.bn.eps)) for conv in convs if conv.bn})
    if len(found) > 1:
        raise WeightsError(
            f"BatchNorms must have one eps to be saved, but got {', '.join(found)}; fold them first, with "
            "without_batch_norms()"
        )
    return {EPS_KEY: found[0]} if found else {}
