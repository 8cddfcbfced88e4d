"""A trace: the operators of one run of a model as plain data, which is saved as JSON and read without PyTorch.

The model ran on one image. Tensors that depend on it are nodes and grow with the batch; everything else, computed from
parameters or not, counts as weights of the node that takes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from kgen.env import atomic_write
from kgen.errors import ProblemError

INPUT = "input"
_SCHEMA = 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operator: its name in the model, the operator's name, and the tensor it makes.

    ``inputs`` are the indices of earlier nodes, in the operator's order; ``weights`` the shapes of what it takes that
    does not depend on the image.
    """

    name: str
    op: str
    inputs: tuple[int, ...]
    shape: Shape
    weights: tuple[Shape, ...] = ()

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Trace:
    """A model's nodes in the order in which they ran, the first ones its inputs, and the indices of its outputs.

    Raises:
        ProblemError: a node takes what comes after it, has an empty tensor, or an output is no node.
    """

    model: str
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        for i, node in enumerate(self.nodes):
            wrong = [j for j in node.inputs if not 0 <= j < i]
            if wrong or (not node.inputs) != (node.op == INPUT):
                raise ProblemError(
                    f"a trace's nodes must take nodes before them, and all but inputs at least one, but node {i}, "
                    f"{node.name!r}, takes {list(node.inputs)}; trace the model again"
                )
            if not node.shape or min(node.shape) < 1:
                raise ProblemError(
                    f"a trace's tensors must have dimensions of at least 1, but node {i}, {node.name!r}, has the shape "
                    f"{list(node.shape)}; trace the model on another image"
                )
        if not self.outputs or not all(0 <= i < len(self.nodes) for i in self.outputs):
            raise ProblemError(
                f"a trace's outputs must be among its {len(self.nodes)} nodes, but got {list(self.outputs)}; trace the "
                "model again"
            )

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """For every node the nodes that take it."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in dict.fromkeys(node.inputs):
                found[j].append(i)
        return tuple(map(tuple, found))


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace as JSON, a node a line.

    Raises:
        ProblemError: ``path`` cannot be written.
    """
    head = {"schema": _SCHEMA, "model": trace.model, "outputs": list(trace.outputs)}
    lines = ",\n".join(json.dumps(_node_json(node), separators=(",", ":")) for node in trace.nodes)
    text = json.dumps(head)[:-1] + ', "nodes": [\n' + lines + "\n]}\n"
    try:
        atomic_write(path, text.encode())
    except OSError as error:
        raise ProblemError(
            f"a trace must be saved where one can write, but {str(path)!r} cannot be written "
            f"({error.strerror or type(error).__name__}); choose another path"
        ) from error


def load_trace(path: Path) -> Trace:
    """Read a trace.

    Raises:
        ProblemError: the file cannot be read or is no trace.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != _SCHEMA:
            raise ValueError(f"schema {document['schema']!r} is not {_SCHEMA}")
        return Trace(str(document["model"]), tuple(map(_node, document["nodes"])), _ints(document["outputs"]))
    except ProblemError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ProblemError(
            f"a trace must be a JSON file that kgen saved, but {str(path)!r} is not ({type(error).__name__}: {error}); "
            "trace the model again"
        ) from error


def _node_json(node: Node) -> list[Any]:
    """Name, operator, inputs and shape, and weights if there are any."""
    fields = [node.name, node.op, list(node.inputs), list(node.shape)]
    return [*fields, [list(shape) for shape in node.weights]] if node.weights else fields


def _node(values: Any) -> Node:
    name, op, inputs, shape, *weights = values
    return Node(str(name), str(op), _ints(inputs), _ints(shape), tuple(map(_ints, weights[0] if weights else ())))


def _ints(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{values!r} must be integers >= 0")
    return tuple(values)
