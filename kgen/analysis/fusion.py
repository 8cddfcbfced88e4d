"""The kernels of a trace: layer by layer, and with each residual block fused into one.

Layer by layer every operator that computes is a kernel. Element-wise operators join the kernel that made the last of
their inputs, if that has as many elements as they; views belong to no kernel. A residual block is an addition whose
inputs share an ancestor: all kernels on the way from the last such ancestor to the addition. All of this is derived
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from kgen.analysis.kernels import Kernel
from kgen.analysis.operators import ELEMENTWISE, VIEWS, flops, weight_bytes
from kgen.analysis.trace import INPUT, Trace

_BYTES = 2  # of an activation's element

Group = tuple[int, ...]
"""Nodes of one kernel, ascending."""


@dataclass(frozen=True)
class Block:
    """A residual block: its kernels layer by layer, and as one."""

    name: str
    layers: tuple[Group, ...]

    @property
    def fused(self) -> Group:
        return tuple(sorted(node for layer in self.layers for node in layer))


def layer_groups(trace: Trace) -> tuple[Group, ...]:
    """The nodes of each kernel, layer by layer, in the order in which the kernels run."""
    groups: list[list[int]] = []
    home: dict[int, int] = {}
    for i, node in enumerate(trace.nodes):
        if node.op == INPUT or node.op in VIEWS:
            continue
        homes = [(home.get(source(trace, j), -1), trace.nodes[j].elements) for j in node.inputs]
        last, elements = max(homes)
        if node.op in ELEMENTWISE and last >= 0 and elements == node.elements:
            home[i] = last
            groups[last].append(i)
        else:
            home[i] = len(groups)
            groups.append([i])
    return tuple(map(tuple, groups))


def residual_blocks(trace: Trace) -> tuple[Block, ...]:
    """The residual blocks, innermost first where they are nested; no two share a kernel."""
    groups = layer_groups(trace)
    home = {node: k for k, group in enumerate(groups) for node in group}
    ancestors = _ancestors(trace)
    taken: set[int] = set()
    found = []
    for i, node in enumerate(trace.nodes):
        if node.op != "add" or len(node.inputs) != 2:
            continue
        one, other = (ancestors[j] | {j} for j in node.inputs)
        if not one & other:
            continue
        fork = max(one & other)
        between = {j for j in ancestors[i] | {i} if j == i or (j > fork and fork in ancestors[j])}
        members = sorted({home[j] for j in between if j in home})
        if len(members) > 1 and not taken & set(members):
            taken |= set(members)
            layers = tuple(groups[k] for k in members)
            found.append(Block(_block_name(trace, layers, i), layers))
    return tuple(found)


def fused_groups(trace: Trace, blocks: Iterable[Block]) -> tuple[tuple[str | None, Group], ...]:
    """The nodes of each kernel with every block fused, and the block's name where it is one, in their order."""
    whole = {layer: block for block in blocks for layer in block.layers}
    found: dict[Group, str | None] = {}
    for group in layer_groups(trace):
        block = whole.get(group)
        found[group if block is None else block.fused] = None if block is None else block.name
    return tuple((name, group) for group, name in found.items())


def kernel(trace: Trace, group: Group, batch: int, name: str | None = None) -> Kernel:
    """The nodes of a group as one kernel: reads what comes from outside, writes what is taken outside."""
    inside = set(group)
    read: dict[int, int] = {}
    for i in group:
        for j in trace.nodes[i].inputs:
            origin = source(trace, j)
            if origin not in inside:
                read[origin] = max(read.get(origin, 0), _elements(trace, j))
    written = sum(trace.nodes[i].elements for i in group if _leaves(trace, i, inside))
    activations = batch * _BYTES * (sum(read.values()) + written)
    weights = sum(weight_bytes(trace.nodes[i]) for i in group)
    operations = batch * sum(flops(trace, trace.nodes[i]) for i in group)
    return Kernel(trace.nodes[group[0]].name if name is None else name, operations, activations + weights)


def source(trace: Trace, i: int) -> int:
    """The node whose memory node ``i`` is, or is a view of."""
    while trace.nodes[i].op in VIEWS:
        i = trace.nodes[i].inputs[0]
    return i


def _elements(trace: Trace, i: int) -> int:
    """What must be read of node ``i``: of a padded or expanded view only what is there."""
    least = trace.nodes[i].elements
    while trace.nodes[i].op in VIEWS:
        i = trace.nodes[i].inputs[0]
        least = min(least, trace.nodes[i].elements)
    return least


def _leaves(trace: Trace, i: int, inside: set[int]) -> bool:
    """Whether node ``i``, or a view of it, is an output of the model or taken outside the group."""
    if i in trace.outputs:
        return True
    return any(
        _leaves(trace, user, inside) if trace.nodes[user].op in VIEWS else user not in inside for user in trace.users[i]
    )


def _ancestors(trace: Trace) -> list[frozenset[int]]:
    found: list[frozenset[int]] = []
    for node in trace.nodes:
        found.append(frozenset(node.inputs).union(*(found[j] for j in node.inputs)))
    return found


def _block_name(trace: Trace, layers: tuple[Group, ...], addition: int) -> str:
    """What the names of the block's nodes begin with, by dots."""
    names = [trace.nodes[i].name.split(".") for layer in layers for i in layer]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    return ".".join(parts[0] for parts in common) or trace.nodes[addition].name
