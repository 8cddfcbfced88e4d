"""Commands about one problem: of every family, with the options that name it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from kgen.arrays import KernelProblem
from kgen.blocks.classifier.problem import Classifier
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.patchconv.problem import PatchConv
from kgen.errors import ProblemError

Size = Annotated[int | None, typer.Option(help="Height and width.")]
Height = Annotated[int | None, typer.Option(help="Height, in the place of --size.")]
Width = Annotated[int | None, typer.Option(help="Width, in the place of --size.")]
Batch = Annotated[int, typer.Option(help="Images.")]
Act = Annotated[str, typer.Option(help="silu, relu, gelu, gelu_tanh or identity.")]
DType = Annotated[str, typer.Option(help="float16 or bfloat16.")]
Channels = Annotated[int, typer.Option(help="Channels, a multiple of 16.")]


def _convfirst(
    channels: Channels,
    size: Size = None,
    height: Height = None,
    width: Width = None,
    batch: Batch = 1,
    expansion: Annotated[float, typer.Option(help="Hidden channels per channel, 1 to 8.")] = 4,
    act: Act = "silu",
    dtype: DType = "float16",
    residual: Annotated[bool, typer.Option(help="Whether the block adds its input.")] = True,
    matmul: Annotated[
        str, typer.Option(help="storage, or float8 (e4m3, scaled per channel; Hopper only; less accurate).")
    ] = "storage",
) -> ConvFirst:
    """A ConvFirst block."""
    shape: dict[str, Any] = {**_image(size, height, width), "batch": batch, "channels": channels}
    whole = int(expansion) if expansion == expansion // 1 else expansion
    kind: dict[str, Any] = {"activation": act, "dtype": dtype, "residual": residual, "matmul": matmul}
    return ConvFirst(**shape, expansion=whole, **kind)


def _patchconv(
    channels: Annotated[int, typer.Option(help="Channels of x: up to 4 (an image's), or a multiple of 16.")],
    outputs: Annotated[int, typer.Option(help="Channels of y, a multiple of 16.")],
    size: Size = None,
    height: Height = None,
    width: Width = None,
    batch: Batch = 1,
    patch: Annotated[int, typer.Option(help="Side of a patch: 1, 2 or 4.")] = 2,
    act: Act = "identity",
    dtype: DType = "float16",
    residual: Annotated[bool, typer.Option(help="Whether the layer adds its input.")] = False,
    pixels: Annotated[str, typer.Option(help="Of an image: storage (--dtype's), or uint8.")] = "storage",
    order: Annotated[str, typer.Option(help="Of an image: nhwc or nchw.")] = "nhwc",
) -> PatchConv:
    """A convolution of patches, or a linear layer."""
    shape: dict[str, Any] = {**_image(size, height, width), "batch": batch, "channels": channels, "outputs": outputs}
    kind: dict[str, Any] = {"activation": act, "dtype": dtype, "residual": residual, "pixels": pixels, "order": order}
    return PatchConv(**shape, patch=patch, **kind)


def _classifier(
    channels: Channels,
    size: Size = None,
    height: Height = None,
    width: Width = None,
    batch: Batch = 1,
    classes: Annotated[int, typer.Option(help="Logits of an image.")] = 1000,
    dtype: DType = "float16",
) -> Classifier:
    """The mean over an image's pixels, and a linear layer."""
    shape: dict[str, Any] = {**_image(size, height, width), "batch": batch, "channels": channels}
    kind: dict[str, Any] = {"dtype": dtype}
    return Classifier(**shape, classes=classes, **kind)


_PROBLEMS: Mapping[str, Callable[..., KernelProblem]] = {
    "convfirst": _convfirst,
    "patchconv": _patchconv,
    "classifier": _classifier,
}


def for_every_family(app: typer.Typer) -> Callable[[Callable[..., None]], None]:
    """Register a command, whose first argument is a problem, under the name of each family with its options."""

    def register(command: Callable[..., None]) -> None:
        for name, build in _PROBLEMS.items():
            app.command(name, help=f"{build.__doc__} {command.__doc__}")(_with_options(build, command))

    return register


def _with_options(build: Callable[..., KernelProblem], command: Callable[..., None]) -> Callable[..., None]:
    shared = inspect.signature(build, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        command(build(**{name: options.pop(name) for name in shared}), **options)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*shared.values(), *own)]
    del run.__wrapped__  # typer would look through it
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _image(size: int | None, height: int | None, width: int | None) -> dict[str, int]:
    if size is not None and (height is not None or width is not None):
        raise ProblemError("pass either --size or --height and --width, but got both; drop one of them")
    height, width = (size, size) if size is not None else (height, width)
    if height is None or width is None:
        raise ProblemError(
            "a problem needs a height and a width, but one is missing; pass --size, or --height and --width"
        )
    return {"height": height, "width": width}
