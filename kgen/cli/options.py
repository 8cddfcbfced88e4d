"""Options that commands share: a config, the device, and how results are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kgen.blocks import family
from kgen.devices import Device, find_device, local_devices
from kgen.errors import DeviceError, ProblemError
from kgen.machine import Config

DeviceSpec = Annotated[
    str | None,
    typer.Option("--device", help="cuda:0, or a name from `kgen devices`; by default the first GPU or h200."),
]
Gpus = Annotated[
    str | None,
    typer.Option(help="all, or ordinals such as 0,1: GPUs of this machine that search together, a process each."),
]
Folder = Annotated[Path | None, typer.Option("--folder", help="Folder of tuned configs to look in first.")]
ConfigText = Annotated[str | None, typer.Option("--config", help="A config: JSON text, or a file that holds it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def find_targets(device: str | None, gpus: str | None) -> list[Device]:
    """The device that ``--device`` names, or those of ``--gpus``: ``all`` of this machine, or ordinals as in ``0,1``.

    Raises:
        ProblemError: both are given, or ``gpus`` is neither.
        DeviceError: one of them is unknown, there is none, or they are of several models.
    """
    if gpus is None:
        return [find_device(device)]
    if device is not None:
        raise ProblemError(f"pass either --device or --gpus, but got {device!r} and {gpus!r}; drop one of them")
    if gpus == "all":
        found = list(local_devices())
    elif re.fullmatch(r"\d+(,\d+)*", gpus):
        found = [find_device(f"cuda:{ordinal}") for ordinal in dict.fromkeys(map(int, gpus.split(",")))]
    else:
        raise ProblemError(f"--gpus must be all, or ordinals with commas between, but got {gpus!r}; pass --gpus 0,1")
    if not found:
        raise DeviceError("--gpus searches on this machine's GPUs, but none was found; check nvidia-smi or drop it")
    if len({replace(one, ordinal=None) for one in found}) > 1:
        models = ", ".join(f"cuda:{one.ordinal} {one.title}" for one in found)
        raise DeviceError(f"GPUs that search together must be of one model, but got {models}; name equal ones")
    return found


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


def parse_batches(option: str, text: str) -> list[int]:
    """Batch sizes out of ``1,32,256``, as ``option`` has them.

    Raises:
        ProblemError: they are not integers with commas between.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ProblemError(f"{option} must be integers with commas between, but got {text!r}; pass 1,32,256") from None


def print_json(document: Mapping[str, Any] | list[Any]) -> None:
    """One JSON document on stdout."""
    print(json_text(document), end="")


def json_text(document: Mapping[str, Any] | list[Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def config_line(config: Config) -> str:
    """A config on one line, without the fields that do not apply."""
    return " ".join(f"{name}={value}" for name, value in config.to_json().items() if value is not None)
