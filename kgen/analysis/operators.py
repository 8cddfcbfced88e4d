"""What the operators of a trace cost: operations and weight bytes, by shapes alone.

Operations are 2 per multiply-accumulate of convolutions, linear layers, matrix products and attention, and one per
element that a mean or sum takes in; other operators count none, as in the blocks of this project. Matrices are stored
in 16 bits, vectors in 32.
"""

from __future__ import annotations

from math import prod

from kgen.analysis.trace import Node, Shape, Trace


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _names(
    "permute transpose t reshape view _unsafe_view flatten unflatten squeeze unsqueeze contiguous clone alias detach "
    "expand expand_as dropout feature_dropout identity pad constant_pad_nd getitem chunk split split_with_sizes unbind "
    "slice select narrow to _to_copy"
)
"""They move nothing: the next kernel reads their input as it lies, padding and all."""
ELEMENTWISE = _names(
    "add sub rsub mul div neg pow sqrt rsqrt exp clamp batch_norm relu relu6 silu gelu sigmoid tanh hardswish "
    "hardsigmoid hardtanh leaky_relu prelu elu selu mish softplus"
)
"""They are fused into the kernel before them. A batch norm is folded: it leaves a bias."""
_SUMS = _names("mean sum adaptive_avg_pool2d avg_pool2d")
_PRODUCTS = _names("matmul bmm mm baddbmm addmm")
_MOVES = _names(
    "max_pool2d adaptive_max_pool2d amax max layer_norm group_norm instance_norm rms_norm _softmax softmax cat stack "
    "roll flip upsample_nearest2d upsample_bilinear2d pixel_shuffle pixel_unshuffle"
)
"""Kernels of their own that count bytes only."""
_WEIGHTED = _names("conv1d conv2d conv3d linear")
ATTENTION = "scaled_dot_product_attention"
KNOWN = VIEWS | ELEMENTWISE | _SUMS | _PRODUCTS | _MOVES | _WEIGHTED | {ATTENTION, "input"}


def macs(trace: Trace, node: Node) -> int:
    """Multiply-accumulates of one image."""
    sources = [trace.nodes[i] for i in node.inputs]
    if node.op in _WEIGHTED and node.weights:
        return node.elements * prod(node.weights[0][1:])
    if node.op in _WEIGHTED or node.op in _PRODUCTS:
        return node.elements * _inner(node, [source.shape for source in sources])
    if node.op == ATTENTION and len(sources) >= 3:
        query, key = sources[0], sources[1]
        scores = query.elements // query.shape[-1] * key.shape[-2]
        return scores * (query.shape[-1] + node.shape[-1])
    return 0


def flops(trace: Trace, node: Node) -> int:
    """Operations of one image."""
    if node.op in _SUMS:
        return trace.nodes[node.inputs[0]].elements
    return 2 * macs(trace, node)


def weight_bytes(node: Node) -> int:
    """Bytes of what the node takes beside activations, whatever the batch."""
    shapes = node.weights[:1] if node.op == "batch_norm" else node.weights
    return sum(prod(shape) * (4 if _is_vector(shape) else 2) for shape in shapes)


def unknown(trace: Trace) -> dict[str, int]:
    """Operators that are counted as bytes only, since their cost is not known here, and how often each occurs."""
    found = [node.op for node in trace.nodes if node.op not in KNOWN]
    return {op: found.count(op) for op in dict.fromkeys(found)}


def _inner(node: Node, shapes: list[Shape]) -> int:
    """What a matrix product sums over: beside a weight matrix, that one's rows if it comes last, else its columns."""
    factor = node.weights[-1] if node.weights else ()
    if len(shapes) == 1 and len(factor) >= 2:
        is_last = (shapes[0][-1], node.shape[-1]) == factor[-2:]
        return factor[-2] if is_last else factor[-1]
    return shapes[0][-1]


def _is_vector(shape: Shape) -> bool:
    return prod(shape) == max(shape, default=1)
