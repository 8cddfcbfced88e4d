"""Tracing a PyTorch model: ``torch.export`` lists its operators, which become a :class:`kgen.analysis.trace.Trace`."""

from __future__ import annotations

import importlib
import operator
from typing import Any

import torch

from kgen.analysis.trace import INPUT, Node, Trace
from kgen.errors import ProblemError

_CHANNELS = 3


def trace_model(model: torch.nn.Module, image: torch.Tensor, name: str) -> Trace:
    """Trace a model in evaluation mode on one image of shape (1, channels, height, width); nothing is computed.

    Raises:
        ProblemError: ``torch.export`` cannot follow the model.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            program = torch.export.export(model.eval(), (image,))
    except Exception as error:  # whatever the model's own code raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProblemError(
            f"model {name} must be one that torch.export can trace, but it failed ({reason}); trace a part of it"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return _trace(name, program)


def trace_named(spec: str, size: int) -> Trace:
    """Trace ``timm:NAME``, a model of timm without its weights, or ``MODULE:NAME``, what calling NAME returns.

    Raises:
        ProblemError: there is no such model, or it cannot be traced.
    """
    module, _, name = spec.partition(":")
    try:
        found: Any = importlib.import_module(module)
        model = found.create_model(name, pretrained=False) if module == "timm" else getattr(found, name)()
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"it is a {type(model).__name__}")
    except Exception as error:  # whatever importing and building a model raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProblemError(
            f"--torch must be timm:NAME, MODULE:NAME or a trace's FILE.json, but {spec!r} gives no model ({reason}); "
            "check the name and that the package is installed"
        ) from error
    return trace_model(model, torch.zeros(1, _CHANNELS, size, size), name)


def _trace(name: str, program: Any) -> Trace:
    """The nodes that depend on the image, in the order of the graph."""
    images = set(program.graph_signature.user_inputs)
    index: dict[Any, int] = {}
    nodes: list[Node] = []
    outputs: tuple[int, ...] = ()
    for node in program.graph.nodes:
        depends = [index[one] for one in node.all_input_nodes if one in index]
        if node.op == "output":
            outputs = tuple(depends)
        elif node.name in images or depends:
            weights = tuple(_shape(one) for one in node.all_input_nodes if one not in index and _shape(one))
            index[node] = len(nodes)
            op = _operator(node.target) if depends else INPUT
            nodes.append(Node(_name(node), op, tuple(depends), _shape(node), weights))
    return Trace(name, tuple(nodes), outputs)


def _operator(target: Any) -> str:
    """``aten.add_.Tensor`` is ``add``: in place or not, whatever the overload."""
    if target is operator.getitem:
        return "getitem"
    base: str = target._schema.name.split("::")[-1] if hasattr(target, "_schema") else str(target)
    return base.rstrip("_") or base


def _shape(node: Any) -> tuple[int, ...]:
    """Of a node that makes several tensors, all their elements in a row; () of what is no tensor."""
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return (sum(one.numel() for one in value if isinstance(one, torch.Tensor)),)
    return tuple(map(int, value.shape)) or (1,) if isinstance(value, torch.Tensor) else ()


def _name(node: Any) -> str:
    """The path of the module that ran it, or its own name at the top."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0] or node.name) if stack else str(node.name)
