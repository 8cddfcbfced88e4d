"""The legal combinations of a side's choices, listed whole or, where there are too many, as a uniform sample.

A rule ties the fields that it reads. Tied fields share a table of the combinations that obey it; tables are joined as
rules tie them, and the legal combinations are the tables' product. A rule that would join too much is left for last:
it is checked on every combination or, if there are too many, on uniform draws, those of which that pass are a uniform
sample. Draws are made apart for each group of fields that such rules tie: what is legal group by group is legal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf, prod
from operator import getitem
from types import SimpleNamespace
from typing import Any

import numpy as np

from kgen.errors import InfeasibleError

Rows = np.ndarray[Any, np.dtype[np.int16]]
"""A combination a row, a field a column; an entry is an index into the field's choices."""
Rule = Callable[[Any], None]
"""Raises InfeasibleError unless a config obeys it."""

_MOST_ROWS = 100_000
"""Of a table."""
_MOST_CHECKS = 20_000
"""Of a rule: each takes some five microseconds."""
_DRAWS, _MOST_DRAWS = 5_000, 40_000
"""Of a group of fields, at a time and in all."""


@dataclass(frozen=True)
class Legal:
    """Distinct legal combinations: all ``count`` of them when ``whole``, else a sample of about ``count``."""

    rows: Rows
    whole: bool
    count: float


def list_legal(
    choices: Mapping[str, Sequence[Any]],
    rules: Iterable[Rule],
    fixed: Mapping[str, Any],
    *,
    most: int,
    sample: int,
    seed: int,
) -> Legal:
    """All legal combinations of ``choices``, or a uniform sample of ``sample`` where there are more than ``most``.

    ``fixed`` has the values of a config's other fields. Where few draws are legal, a sample may be smaller.

    Raises:
        InfeasibleError: no combination is legal; it names the field without a choice, or the rule that left none.
    """
    for name, options in choices.items():
        if not options:
            raise InfeasibleError(name, f"{name} must have a choice, but it has none; add one")
    joined = _Joined(choices, fixed)
    for rule in rules:
        joined.tie(rule)
    rng = np.random.default_rng(seed)
    if joined.product > (_MOST_CHECKS if joined.late else _MOST_ROWS):
        return joined.sample(sample, rng)
    rows = joined.whole()
    if len(rows) <= most:
        return Legal(rows, True, len(rows))
    return Legal(rows[np.sort(rng.choice(len(rows), sample, replace=False))], False, len(rows))


@dataclass(frozen=True)
class _Table:
    names: tuple[str, ...]
    rows: Rows


class _Reading:
    """Stands in for a config, and notes which of the fields are read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return self._values[name]


class _BeyondGroupError(Exception):
    """A rule left for last reads a field of another group: the two groups are one."""


class _Joined:
    """Tables whose product, less what the rules left for last forbid, are the legal combinations."""

    def __init__(self, choices: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]) -> None:
        self._choices = choices
        self._fixed = {name: value for name, value in fixed.items() if name not in choices}
        self._tables = [_Table((name,), np.arange(len(of), dtype=np.int16)[:, None]) for name, of in choices.items()]
        self.late: dict[Rule, set[str]] = {}
        """The rules left for last, and the fields that they are known to read."""

    @property
    def product(self) -> int:
        """Combinations before the rules left for last."""
        return prod(len(table.rows) for table in self._tables)

    def tie(self, rule: Rule) -> None:
        """Join the tables whose fields the rule reads, less what it forbids; or leave the rule for last."""
        read: set[str] = set()
        while True:
            tied = [table for table in self._tables if read & set(table.names)]
            if prod(len(table.rows) for table in tied) > _MOST_ROWS:
                self.late[rule] = read
                return
            table = _product(tied)
            obeying, beyond = self._judge(rule, table, read, _MOST_CHECKS)
            if obeying is not None:
                break
            if not beyond:
                self.late[rule] = read
                return
            read |= beyond
        if not obeying.any():
            raise self._emptied(rule, table)
        rest = [one for one in self._tables if not read & set(one.names)]
        self._tables = [*rest, _Table(table.names, table.rows[obeying])] if table.names else rest

    def whole(self) -> Rows:
        """Every legal combination."""
        names = tuple(self._choices)
        return self._obeying(self.late, _Table(names, self._in_order(_product(self._tables))))

    def sample(self, size: int, rng: np.random.Generator) -> Legal:
        """Uniform draws that obey the rules left for last, at most ``size``."""
        drawn: list[tuple[_Table, float]] | None = None
        while drawn is None:
            with suppress(_BeyondGroupError):
                drawn = [self._draw(group, size, rng) for group in self._groups()]
        fewest = min(len(table.rows) for table, _ in drawn)
        names = tuple(name for table, _ in drawn for name in table.names)
        rows = self._in_order(_Table(names, np.hstack([table.rows[:fewest] for table, _ in drawn])))
        first = np.unique(rows, axis=0, return_index=True)[1]
        return Legal(rows[np.sort(first)][:size], False, prod(count for _, count in drawn))

    def _groups(self) -> list[set[str]]:
        """The fields, together those that rules left for last tie to one another."""
        groups = [set(table.names) for table in self._tables]
        for read in self.late.values():
            tied = [group for group in groups if group & read]
            groups = [*(group for group in groups if not group & read), set().union(*tied)]
        return groups

    def _draw(self, group: set[str], size: int, rng: np.random.Generator) -> tuple[_Table, float]:
        """Legal draws of a group, ``size`` or more unless they are rare, and about how many combinations are legal."""
        tables = [table for table in self._tables if set(table.names) <= group]
        rules = [rule for rule, read in self.late.items() if read & group]
        names = tuple(name for table in tables for name in table.names)
        found: list[Rows] = []
        refused: InfeasibleError | None = None
        drawn = 0
        while drawn < _MOST_DRAWS and sum(map(len, found)) < size:
            parts = [table.rows[rng.integers(len(table.rows), size=_DRAWS)] for table in tables]
            drawn += _DRAWS
            try:
                found.append(self._obeying(rules, _Table(names, np.hstack(parts))))
            except InfeasibleError as error:
                refused = error
        if not found and refused is not None:
            raise InfeasibleError(refused.rule, f"of {drawn} random combinations none is legal: {refused}")
        passed = np.concatenate(found)
        return _Table(names, passed), prod(len(table.rows) for table in tables) * len(passed) / drawn

    def _in_order(self, table: _Table) -> Rows:
        """Rows with their columns in the order of the choices."""
        return table.rows[:, [table.names.index(name) for name in self._choices]]

    def _obeying(self, rules: Iterable[Rule], table: _Table) -> Rows:
        """The rows that obey rules left for last; InfeasibleError, which names the one that left none."""
        for rule in rules:
            obeying = None
            while obeying is None:
                obeying, beyond = self._judge(rule, table, self.late[rule])
                self.late[rule] |= beyond
                if not beyond <= set(table.names):
                    raise _BeyondGroupError
            if not obeying.any():
                raise self._emptied(rule, table)
            table = _Table(table.names, table.rows[obeying])
        return table.rows

    def _judge(self, rule: Rule, table: _Table, read: set[str], most: float = inf) -> tuple[Any, set[str]]:
        """Which rows obey a rule that reads the fields ``read``, or None, and which others it reads.

        With no others, None says that it would take more than ``most`` checks.
        """
        columns = [index for index, name in enumerate(table.names) if name in read]
        names = [table.names[index] for index in columns]
        options = [self._choices[name] for name in names]
        distinct, position = _distinct(table.rows[:, columns], [len(of) for of in options])
        if len(distinct) > most:
            return None, set()
        config = SimpleNamespace(**self._fixed)
        verdicts = np.empty(len(distinct), dtype=bool)
        for index, row in enumerate(distinct.tolist()):
            vars(config).update(zip(names, map(getitem, options, row), strict=True))
            try:
                verdicts[index] = _obeys(rule, config)
            except AttributeError:  # what a rule reads may depend on what it has read
                reading = self._complete(vars(config))
                _obeys(rule, reading)
                return None, reading.read & set(self._choices) - read
        return verdicts[position], set()

    def _complete(self, values: dict[str, Any]) -> _Reading:
        """A config with these values, and any legal ones of the other fields."""
        return _Reading(self._fixed | {name: options[0] for name, options in self._choices.items()} | values)

    def _emptied(self, rule: Rule, table: _Table) -> InfeasibleError:
        row = zip(table.names, table.rows[0].tolist(), strict=True)
        try:
            rule(self._complete({name: self._choices[name][index] for name, index in row}))
        except InfeasibleError as error:
            fields = ", ".join(table.names) or "any field"
            return InfeasibleError(error.rule, f"no choice of {fields} obeys the rule {error.rule!r}: {error}")
        raise AssertionError("a rule that forbade a combination allows it now")


def _obeys(rule: Rule, config: Any) -> bool:
    try:
        rule(config)
    except InfeasibleError:
        return False
    return True


def _product(tables: Sequence[_Table]) -> _Table:
    """Every combination of the tables' rows."""
    rows = np.zeros((1, 0), dtype=np.int16)
    for table in tables:
        rows = np.hstack([np.repeat(rows, len(table.rows), axis=0), np.tile(table.rows, (len(rows), 1))])
    return _Table(tuple(name for table in tables for name in table.names), rows)


def _distinct(rows: Rows, sizes: Sequence[int]) -> tuple[Rows, Any]:
    """The distinct rows, and the index of each row among them; column n has entries below ``sizes[n]``."""
    if not sizes:
        return rows[:1], np.zeros(len(rows), dtype=np.intp)
    keys = np.ravel_multi_index(tuple(rows.T), tuple(sizes))
    _, first, position = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], position
