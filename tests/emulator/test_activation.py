"""Activations as kernels compute them, against float64 at every float16 and every bfloat16.

The emulator's tanh is exact but for its rounding: on a GPU 2^-12 |x| are added to the errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kgen.blocks.activations import SIGMOIDS, activate
from kgen.emulator import HostLibrary, build

HEADER = Path(__file__).parents[2] / "templates" / "tile" / "activation.cuh"
WAYS = [(name, how) for name in ("silu", "gelu", "gelu_tanh") for how in SIGMOIDS[name]]
Array = np.ndarray[Any, Any]
Launch = Callable[..., Array]

# A thread activates two floats. Words out: each as a float, both as halves.
TEXT = """
#include "tile/activation.cuh"
template <Activation Kind, Sigmoid How>
__device__ inline void apply(const void* x, void* y) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    const FloatPair v = load_global_f32x2(static_cast<const float*>(x) + 2 * thread);
    Vec16 out = {{__float_as_uint(activate_sum<Kind, How>(v.low, 0)), __float_as_uint(activate<Kind, How>(v.high)), 0}};
    if constexpr (ON_HALVES<f16, Kind, How>) out.word[2] = activate_halves<Kind>(v.low, v.high, {0, 0});
    store_global_16(static_cast<char*>(y) + thread * 16, out);
}
""" + "".join(f"KERNEL({name}_by_{how}) {{ apply<Activation::{name}, Sigmoid::{how}>(x, y); }}\n" for name, how in WAYS)


@pytest.fixture(scope="module")
def library(make_source: Callable[[str], Any]) -> HostLibrary:
    source = make_source(TEXT)
    return build(replace(source, headers={**source.headers, "tile/activation.cuh": HEADER.read_text("utf-8")}))


def activated(library: HostLibrary, launch: Launch, symbol: str, x: Array) -> tuple[Array, Array]:
    """What a kernel makes of float32 ``x``, a multiple of 64 of them: in float32, and in float16 by halves."""
    pairs = len(x) // 2
    y = launch(library, symbol, x=x.view(np.float16), grid=pairs // 32, y_words=4 * pairs)
    words = y.view(np.uint32)[: 4 * pairs].reshape(pairs, 4)
    return words[:, :2].ravel().view(np.float32), words[:, 2].copy().view(np.float16)


def every(dtype: Any) -> Array:
    """Every finite number of a 16-bit dtype, as float32, filled up with zeros."""
    values = np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)
    values = values[np.isfinite(values)]
    return np.pad(values, (0, -len(values) % 64))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("name", "how"), WAYS)
def test_activations_in_float(library: HostLibrary, launch: Launch, name: Any, how: str, dtype: Any) -> None:
    x = every(dtype)
    with np.errstate(over="ignore"):
        truth = activate(name, x.astype(np.float64))
    error = abs(activated(library, launch, f"{name}_by_{how}", x)[0] - truth)
    fitted = 2.6e-5 if (name, how) == ("gelu", "tanh") else 0
    assert (error <= fitted + 1e-6 * abs(x)).all()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_activations_on_halves_are_exact_to_their_rounding(library: HostLibrary, launch: Launch, name: Any) -> None:
    x = every(np.float16)
    truth = activate(name, x.astype(np.float64))
    error = abs(activated(library, launch, f"{name}_by_tanh", x)[1] - truth)
    exponent = np.frexp(np.maximum(abs(truth), 2**-14))[1]
    rounding = 2.0 ** (exponent - 12)
    assert (error <= rounding + 2**-12 * np.maximum(abs(x), 2**-11)).all()


def test_halves_of_what_float16_does_not_hold(library: HostLibrary, launch: Launch) -> None:
    """-70000 packed as minus infinity would give NaN instead of zero."""
    x = np.resize(np.array([70000, -70000, 1e30, -1e30, np.inf, -np.inf], np.float32), 64)
    for name in ("gelu", "gelu_tanh"):
        got = activated(library, launch, f"{name}_by_tanh", x)[1]
        np.testing.assert_array_equal(got, np.where(x > 0, np.inf, 0))
        assert np.isnan(activated(library, launch, f"{name}_by_tanh", np.full(64, np.nan, np.float32))[1]).all()
