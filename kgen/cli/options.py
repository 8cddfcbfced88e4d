"""Options that commands share: the problem, a config, the device, and how results are printed."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kgen.blocks import family
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.errors import ProblemError
from kgen.machine import Config

DeviceSpec = Annotated[
    str | None,
    typer.Option("--device", help="cuda:0, or a name from `kgen devices`; by default the first GPU or h200."),
]
Folder = Annotated[Path | None, typer.Option("--folder", help="Folder of tuned configs to look in first.")]
ConfigText = Annotated[str | None, typer.Option("--config", help="A config: JSON text, or a file that holds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def _problem(
    channels: Annotated[int, typer.Option(help="Channels, a multiple of 16.")],
    size: Annotated[int | None, typer.Option(help="Height and width.")] = None,
    height: Annotated[int | None, typer.Option(help="Height, in the place of --size.")] = None,
    width: Annotated[int | None, typer.Option(help="Width, in the place of --size.")] = None,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    expansion: Annotated[float, typer.Option(help="Hidden channels per channel, 1 to 8.")] = 4,
    act: Annotated[str, typer.Option(help="silu, relu, gelu, gelu_tanh or identity.")] = "silu",
    dtype: Annotated[str, typer.Option(help="float16 or bfloat16.")] = "float16",
    residual: Annotated[bool, typer.Option(help="Whether the block adds its input.")] = True,
    matmul: Annotated[
        str, typer.Option(help="storage, or float8 (e4m3, scaled per channel; Hopper only; less accurate).")
    ] = "storage",
) -> ConvFirst:
    """The convfirst problem that the options name."""
    if size is not None and (height is not None or width is not None):
        raise ProblemError("pass either --size or --height and --width, but got both; drop one of them")
    height, width = (size, size) if size is not None else (height, width)
    if height is None or width is None:
        raise ProblemError(
            "a problem needs a height and a width, but one is missing; pass --size, or --height and --width"
        )
    whole = int(expansion) if expansion == expansion // 1 else expansion
    return ConvFirst(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        expansion=whole,
        activation=act,  # type: ignore[arg-type]  # the constructor checks it
        dtype=dtype,  # type: ignore[arg-type]
        residual=residual,
        matmul=matmul,  # type: ignore[arg-type]
    )


def convfirst_command(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a convfirst problem, which it receives as its first argument."""
    shared = inspect.signature(_problem, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        command(_problem(**{name: options.pop(name) for name in shared}), **options)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*shared.values(), *own)]
    del run.__wrapped__  # typer would look through it
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def parse_config(family_name: str, text: str) -> Any:
    """A family's config from JSON text, or from the file that ``text`` names.

    Raises:
        ProblemError: it cannot be read, is not an object, or has unknown or missing fields.
    """
    values = _json_object(text if text.lstrip().startswith("{") else _read(text))
    values = values.get("config", values) if isinstance(values.get("config"), dict) else values
    return family(family_name).config_from_json(values)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ProblemError(
            f"--config must be JSON text or a readable file, but {path!r} is neither ({error})"
        ) from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ProblemError(
            f"--config must be JSON, but it does not parse ({error}); check quotes and commas"
        ) from error
    if not isinstance(values, dict):
        raise ProblemError(f"--config must be a JSON object, but got {type(values).__name__}; write {{...}}")
    return values


def print_json(document: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2))


def config_line(config: Config) -> str:
    """A config on one line, without the fields that do not apply."""
    return " ".join(f"{name}={value}" for name, value in config.to_json().items() if value is not None)
