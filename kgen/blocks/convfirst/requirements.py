"""Rules of arithmetic that configs obey; each failure names its rule, the values and the next step."""

from __future__ import annotations

from kgen.blocks.convfirst.problem import ConvFirst
from kgen.errors import InfeasibleError


def require(holds: bool, rule: str, message: str) -> None:
    """Raise InfeasibleError for ``rule`` unless it holds."""
    if not holds:
        raise InfeasibleError(rule, message)


def storage_matmuls(problem: ConvFirst, boundary: str) -> None:
    """The rule that only the layers' Hopper kernels have float8 matmuls."""
    require(
        problem.matmul == "storage",
        "matmul",
        f"matmul must be 'storage' with boundary={boundary!r}, but the problem asks for {problem.matmul}; "
        "use boundary='wgmma_layers', on a Hopper GPU",
    )


def divides(name: str, part: int, whole: int, whole_name: str) -> None:
    """The rule that ``part``, field ``name``, divides ``whole``."""
    if whole % part == 0:
        return
    of_16 = [n for n in range(16, whole + 1, 16) if whole % n == 0] if part >= 16 else []
    choices = _listed(of_16 or _divisors(whole))
    raise InfeasibleError(
        name, f"{name} must divide {whole_name} ({whole}), but got {name}={part}; choose from {choices}"
    )


def _divisors(whole: int) -> list[int]:
    return [n for n in range(1, whole + 1) if whole % n == 0]


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:12]))
    return f"({shown}, ...)" if len(values) > 12 else f"({shown})"


def multiple(name: str, value: int, unit: int) -> None:
    """The rule that ``value``, field ``name``, is a multiple of ``unit``."""
    require(
        value % unit == 0,
        name,
        f"{name} must be a multiple of {unit}, but got {name}={value}; use {unit}",
    )
