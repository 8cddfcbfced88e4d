"""Convolutions with BatchNorms as users hand them over, for every family: checked, folded in float64, rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kgen.errors import WeightsError
from kgen.tensors import DTYPES

Array = npt.NDArray[Any]

STORAGE_DTYPES: dict[str, np.dtype[Any]] = {name: DTYPES[name] for name in ("float16", "bfloat16")}


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Inference statistics of a BatchNorm, each of shape (output channels,), as ``torch.nn.BatchNorm2d`` holds them."""

    gamma: npt.ArrayLike
    beta: npt.ArrayLike
    mean: npt.ArrayLike
    var: npt.ArrayLike
    eps: float = 1e-5

    def affine(self, name: str, channels: int) -> tuple[Array, Array, Array]:
        """(scale, mean, beta) in float64, where y = (x - mean) * scale + beta and scale = gamma / sqrt(var + eps).

        Raises:
            WeightsError: a value is not a finite real number, a shape is not (channels,), or var + eps is not positive.
        """
        gamma, beta, mean, var = (
            numbers(f"{name}.{field}", getattr(self, field), (channels,)) for field in ("gamma", "beta", "mean", "var")
        )
        eps = float(numbers(f"{name}.eps", self.eps, ()))
        negative = np.count_nonzero(var < 0)
        if negative:
            raise WeightsError(
                f"{name}.var must be >= 0, but {negative} of {var.size} values are negative, the least {var.min():g}; "
                f"pass the running variance"
            )
        if eps < 0 or (var + eps <= 0).any():
            raise WeightsError(
                f"{name}.eps must be >= 0 and make var + eps positive, but got eps={eps:g} with a least variance of "
                f"{var.min():g}; 1e-05 is the usual choice"
            )
        return gamma / np.sqrt(var + eps), mean, beta


@dataclass(frozen=True, eq=False)
class Conv:
    """One convolution: weight, optional bias of shape (output channels,), optional BatchNorm that follows it.

    Arrays are anything ``numpy.asarray`` takes, PyTorch CPU tensors included.
    """

    weight: npt.ArrayLike
    bias: npt.ArrayLike | None = None
    bn: BatchNorm | None = None

    def folded(self, name: str = "conv") -> tuple[Array, Array]:
        """Weight and bias in float64 with the BatchNorm folded in: w * scale and beta + (bias - mean) * scale.

        ``name`` is what error messages call this convolution.

        Raises:
            WeightsError: an array is not finite real numbers, has a wrong shape, or a variance is negative.
        """
        weight = numbers(f"{name}.weight", self.weight)
        if weight.ndim == 0:
            raise WeightsError(f"{name}.weight must have output channels, but got a scalar; pass an array")
        channels = weight.shape[0]
        bias = np.zeros(channels) if self.bias is None else numbers(f"{name}.bias", self.bias, (channels,))
        if self.bn is None:
            return weight, bias
        scale, mean, beta = self.bn.affine(f"{name}.bn", channels)
        with np.errstate(over="ignore", invalid="ignore"):  # rounded() reports what overflows
            return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), beta + (bias - mean) * scale

    @classmethod
    def random(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> Conv:
        """Float32 weight, bias and BatchNorm that keep unit-variance input at about unit variance."""
        channels = shape[0]

        def draw(values: Array) -> Array:
            return values.astype(np.float32)

        return cls(
            weight=draw(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))),
            bias=draw(0.1 * rng.standard_normal(channels)),
            bn=BatchNorm(
                gamma=draw(rng.uniform(0.75, 1.25, channels)),
                beta=draw(0.1 * rng.standard_normal(channels)),
                mean=draw(0.1 * rng.standard_normal(channels)),
                var=draw(rng.uniform(0.75, 1.25, channels)),
            ),
        )


def folded_conv(name: str, conv: object, accepted: tuple[tuple[int, ...], ...], problem: object) -> tuple[Array, Array]:
    """A convolution's folded weight, in the first of the shapes that are accepted for it, and bias, in float64.

    Raises:
        WeightsError: it is no Conv, its weight has another shape, or what :meth:`Conv.folded` raises.
    """
    if not isinstance(conv, Conv):
        raise WeightsError(f"{name} must be a Conv, but got {type(conv).__name__}; pass Conv(weight, ...)")
    found = np.shape(as_array(f"{name}.weight", conv.weight))
    if found not in accepted:
        raise WeightsError(
            f"{name}.weight must have shape {' or '.join(map(str, accepted))} for {problem}, but got {found}; "
            "pass the weights of this layer"
        )
    weight, bias = conv.folded(name)
    return weight.reshape(accepted[0]), bias


def as_array(name: str, value: Any) -> Array:
    """``value`` as a NumPy array of any dtype, detached when it tracks gradients.

    Raises:
        WeightsError: it does not convert, as a tensor in GPU memory does not.
    """
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{name} must convert to a NumPy array, but {type(value).__name__} does not ({error}); "
            f"pass a float32 array or tensor in CPU memory"
        ) from error


def numbers(name: str, value: object, shape: tuple[int, ...] | None = None) -> Array:
    """``value`` as finite float64, of ``shape`` when given.

    Raises:
        WeightsError: ``value`` holds something else, and how many NaN and infinite values.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "iuf" and array.dtype != STORAGE_DTYPES["bfloat16"]:
        raise WeightsError(f"{name} must hold real numbers, but got dtype {array.dtype}; pass a float32 array")
    if shape is not None and array.shape != shape:
        each = "one value per channel" if shape else "a single number"
        raise WeightsError(f"{name} must have shape {shape}, but got {array.shape}; pass {each}")
    array = array.astype(np.float64)
    nans, infs = np.count_nonzero(np.isnan(array)), np.count_nonzero(np.isinf(array))
    if nans or infs:
        raise WeightsError(
            f"{name} must be finite, but {nans} of {array.size} values are NaN and {infs} are infinite; "
            f"check the checkpoint that it comes from"
        )
    return array


def rounded(name: str, values: Array, dtype: np.dtype[Any]) -> Array:
    """``values`` rounded to ``dtype``.

    Raises:
        WeightsError: a value overflows to infinity.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        result = values.astype(dtype)
    overflows = np.count_nonzero(~np.isfinite(result.astype(np.float32)))
    if overflows:
        raise WeightsError(
            f"{name} must fit {dtype.name} after BatchNorm folding, but {overflows} of {values.size} values overflow, "
            f"the largest magnitude being {np.abs(values).max():g}; use bfloat16 or rescale the layer"
        )
    return result
