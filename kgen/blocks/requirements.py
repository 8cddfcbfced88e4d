"""Rules that problems and configs obey; each failure names its rule, the values and the next step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kgen.devices import Device
from kgen.errors import InfeasibleError, ProblemError

Rule = Callable[[Any, Any, Device], None]
"""Raises InfeasibleError unless a config, the second argument, obeys it on a problem and a device.

What a rule reads of the config ties those fields to one another, so rules are kept small."""


def require(holds: bool, rule: str, message: str) -> None:
    """Raise InfeasibleError for ``rule`` unless it holds.

    The message is made in either case: a rule that a search checks many thousand times raises the error itself.
    """
    if not holds:
        raise InfeasibleError(rule, message)


def positive(name: str, value: object) -> None:
    """The rule that a config's field is a positive integer."""
    if type(value) is not int or value < 1:
        raise InfeasibleError(
            name, f"{name} must be an integer >= 1, but got {name}={value!r}; pass a positive integer"
        )


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """The rule that a config's field is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise InfeasibleError(name, f"{name} must be one of {listed}, but got {name}={value!r}; choose one of them")


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
    if value % unit:
        raise InfeasibleError(name, f"{name} must be a multiple of {unit}, but got {name}={value}; use {unit}")


def check_side(boundary: str, side: str) -> None:
    """The rule that a config is on the only side that its family has."""
    require(
        boundary == side, "boundary", f"boundary must be {side!r}, but got boundary={boundary!r}; there is no other one"
    )


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """The rule that a problem's field is one of ``choices``.

    Raises:
        ProblemError: it is not.
    """
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        listed = ", ".join(map(str, choices))
        raise ProblemError(f"{name} must be one of {listed}, but got {name}={value!r}; choose one of them")


def check_positive(name: str, value: object) -> None:
    """The rule that a problem's field is a positive integer.

    Raises:
        ProblemError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProblemError(f"{name} must be an integer >= 1, but got {name}={value!r}; pass a positive integer")
