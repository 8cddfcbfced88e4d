"""Kernels with a planted body, in place of a program's own."""

from __future__ import annotations

from kgen.machine import Program
from kgen.render import Source

PARAMETERS = (
    "const unsigned short* x, const unsigned char* weights, unsigned short* hidden, unsigned short* y, int batch"
)


def stub(program: Program, body: str) -> Source:
    """A source that defines the program's kernels, each with ``body``."""
    symbols = [kernel.symbol for kernel in program.kernels]
    text = "\n".join(f'extern "C" __global__ void {symbol}({PARAMETERS}) {{ {body} }}' for symbol in symbols)
    return Source(text, {}, f"stub {symbols} {body}")
