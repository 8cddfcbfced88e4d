"""Families of residual blocks; each subpackage holds one family's problem, weights, reference, config and plan."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

from kgen.errors import ProblemError

FAMILIES = ("convfirst", "patchconv", "classifier")


@lru_cache
def family(name: str) -> Any:
    """The package of a family, ``kgen.blocks.<name>``.

    It offers ``Problem`` and ``Weights``; ``config_from_json``, ``plan``, ``choices``, ``rules``, ``default_config``,
    ``draw``, ``relax``, ``neighbours`` and ``favourites``; ``fold``, ``pack``, ``reference``, ``layered`` and
    ``float32_forward``.

    Raises:
        ProblemError: there is no such family.
    """
    if name not in FAMILIES:
        raise ProblemError(f"a block must be one of {', '.join(FAMILIES)}, but got {name!r}; choose one of them")
    return import_module(f"kgen.blocks.{name}")
