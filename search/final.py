"""The end of a search: its best configs are measured anew, turn by turn, so that no noise of other moments decides."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from kgen.search.evaluate import GIVE_UP
from kgen.search.history import History, Known

from kgen.errors import InfeasibleError
from kgen.finals import Finalist, choose
from kgen.machine import Config, Program

WITHIN, MOST = 0.03, 8
"""Finalists are the configs within this share of the best one's time, so many at most."""


class Comparer(Protocol):
    """What a final needs of :class:`kgen.search.evaluate.Bench`."""

    def compare(self, programs: Sequence[Program]) -> tuple[Finalist, ...]: ...


@dataclass(frozen=True)
class Final:
    """The winner, as it was measured in the final, those that ``tied`` with it, and all configs that took part."""

    winner: Known
    tied: tuple[Config, ...]
    took_part: tuple[Config, ...]


def hold_final(history: History, default: Config, plan: Callable[[Config], Program], bench: Comparer) -> Final | None:
    """Measure a search's finalists; None when it has none, or when they could not be measured together."""
    known = {one.config: one for one in finalists(history, default)}
    programs = []
    for config in known:
        with suppress(InfeasibleError):  # by rules that are new since it was evaluated
            programs.append(plan(config))
    if not programs:
        return None
    compared = bench.compare(programs)
    first, *others = choose(compared) or (None,)
    if first is None:
        warnings.warn(
            f"the finalists of a search could not be measured together ({compared[0].result.reason}), so the best of "
            "the search stands",
            stacklevel=2,
        )
        return None
    return Final(_measured(known[first.config], first), tuple(one.config for one in others), tuple(known))


def finalists(history: History, default: Config) -> list[Known]:
    """The best configs of a search, and ``default``, unless it is too slow for its median to have been awaited."""
    passed = history.passed
    near = [one for one in passed if _slowdown(one, passed[0]) <= 1 + WITHIN][:MOST]
    others = [one for one in passed if one not in near and _slowdown(one, passed[0]) <= GIVE_UP]
    return near + [one for one in others if one.config == default]


def _slowdown(one: Known, best: Known) -> float:
    """How many times as long as the best it takes."""
    return (best.evaluation.efficiency or 0.0) / (one.evaluation.efficiency or 0.0)


def _measured(known: Known, finalist: Finalist) -> Known:
    """What the final says of a config."""
    measured = finalist.result.measured
    efficiency = measured.efficiency if measured else None
    evaluation = replace(known.evaluation, measured=measured, efficiency=efficiency, error=finalist.result.error)
    return replace(known, evaluation=evaluation)
