"""Replacing the blocks of a model by ones that call the tuned kernels, and the report of what was replaced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import nn

from kgen.blocks.convfirst.problem import ConvFirst as Problem
from kgen.devices import Device, find_device, local_devices
from kgen.errors import WeightsError
from kgen.torch.accelerated import AcceleratedBlock
from kgen.torch.ops import STORAGE_DTYPES
from kgen.torch.structure import UnsupportedError, is_candidate, structure_of
from kgen.tuned import lookup


@dataclass(frozen=True)
class Row:
    """One block of the model.

    ``path`` is its name in the model and ``block`` its class. ``reason`` says why it was not replaced, ``""`` when it
    was. ``problem`` and ``tuned`` are known with an example input alone: what the block's first call computes, and
    whether there is a tuned config for that on this GPU: ``exact``, ``near`` (another problem's is used), ``missing``
    (the performance model's choice is used) or ``no GPU``; ``stale`` ones were tuned with other templates.
    """

    path: str
    block: str
    replaced: bool
    reason: str = ""
    problem: Problem | None = None
    tuned: str | None = None


@dataclass(frozen=True)
class Report:
    """Every block of the model that has the form of a supported one, in the model's order; ``str()`` is a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        names = [field.name for field in fields(Row)]
        lines = [names, *map(_cells, self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        replaced = sum(row.replaced for row in self.rows)
        return "\n".join([*table, f"replaced {replaced} of {len(self.rows)} blocks"])


def accelerate(model: nn.Module, example: torch.Tensor | None = None) -> Report:
    """Replace every supported block of a model in evaluation mode, in place, by one that calls the tuned kernel.

    Supported are :class:`kgen.torch.ConvFirst`, an ``nn.Sequential`` of the same layers (which has no residual), and
    timm's ``UniversalInvertedResidual`` that begins with a grouped convolution of group width 8 and has no other part.
    A replacement shares the block's layers: names, parameters and state dict stay. When it runs the kernel, and when
    it follows a change of parameters, is told at :class:`~kgen.torch.accelerated.AcceleratedBlock`. Run the model
    under ``torch.inference_mode()`` or ``torch.no_grad()``: where autograd records, the stock layers run.

    With ``example``, an input of the model on its device, a model wholly in evaluation mode runs once, and the report
    tells every block's problem and tuned config. A float32 example stands for autocast's dtype on CUDA. A problem
    whose config is not exact is told once, on first use, by a :class:`~kgen.runtime.KgenWarning` as of
    :func:`kgen.load`.
    """
    blocks = dict(_candidates(model))
    # In training mode a run would change the BatchNorms' statistics.
    runs = example is not None and not any(module.training for module in model.modules())
    inputs = _inputs(model, example, set(blocks.values())) if runs else {}
    device = _device(example) if runs else None
    done: dict[nn.Module, AcceleratedBlock | str] = {}
    rows = []
    for path, block in blocks.items():
        if block not in done:
            done[block] = _replacement(block) if path else "it is the model itself; put it into a container"
        result, kind = done[block], type(block).__name__
        if isinstance(result, str):
            rows.append(Row(path, kind, False, result))
            continue
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, result)
        x = inputs.get(block)
        problem = None if x is None else _problem(result, x)
        rows.append(Row(path, kind, True, "", problem, None if problem is None else _tuned(problem, device)))
    return Report(tuple(rows))


def _candidates(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every place of every block, also where one block stands in several places."""
    if is_candidate(module):
        yield path, module
        return
    for name, child in module._modules.items():  # named_children() would name a shared child once
        if child is not None:
            yield from _candidates(child, f"{path}.{name}" if path else name)


def _replacement(block: nn.Module) -> AcceleratedBlock | str:
    """The block's replacement, or the reason why there is none."""
    try:
        return AcceleratedBlock(block, structure_of(block))
    except (UnsupportedError, WeightsError) as error:
        return str(error)


def _inputs(model: nn.Module, example: torch.Tensor, blocks: set[nn.Module]) -> dict[nn.Module, torch.Tensor]:
    """What each block is first called with when the model runs on the example, on the meta device."""
    found: dict[nn.Module, torch.Tensor] = {}

    def remember(block: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        found.setdefault(block, arguments[0].to("meta"))

    hooks = [block.register_forward_pre_hook(remember) for block in blocks]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _problem(block: AcceleratedBlock, x: torch.Tensor) -> Problem:
    dtype = x.dtype if x.dtype in STORAGE_DTYPES.values() else torch.get_autocast_dtype("cuda")
    batch, _, height, width = x.shape
    return block.structure.problem(batch, height, width, str(dtype).removeprefix("torch."))


def _device(example: torch.Tensor) -> Device | None:
    """The GPU that the model will run on: the example's, else the first one; None when there is none."""
    if example.is_cuda:
        return find_device(f"cuda:{example.get_device()}")
    return find_device(None) if local_devices() else None


def _tuned(problem: Problem, device: Device | None) -> str:
    if device is None:
        return "no GPU"
    found = lookup(problem, device)
    if found is None:
        return "missing"
    return ("exact" if found.exact else "near") + (", stale" if found.stale else "")


def _cells(row: Row) -> list[str]:
    values = (getattr(row, field.name) for field in fields(Row))
    return ["yes" if value is True else "no" if value is False else str(value or "-") for value in values]
