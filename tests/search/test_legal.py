"""Listing legal combinations: the same as checking each one, uniform where sampled, and what leaves none is named."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from kgen.search.legal import list_legal

from kgen.blocks import family
from kgen.blocks.convfirst.problem import ConvFirst
from kgen.devices import find_device
from kgen.errors import InfeasibleError

H200 = find_device("h200")
CHOICES = {name: tuple(range(1, 13)) for name in "abcd"}


def area(config: Any) -> None:
    if config.a * config.b > 20:
        raise InfeasibleError("area", f"a * b must be at most 20, but got {config.a * config.b}")


def parity(config: Any) -> None:
    """Reads d where c is odd only."""
    if config.c % 2 and config.d % 3:
        raise InfeasibleError("parity", "d must be a multiple of 3 where c is odd")


def total(config: Any) -> None:
    if config.a + config.b + config.c + config.d > config.limit:
        raise InfeasibleError("total", "the sum is too large")


def by_hand(limit: int) -> set[tuple[int, ...]]:
    def legal(a: int, b: int, c: int, d: int) -> bool:
        return a * b <= 20 and (c % 2 == 0 or d % 3 == 0) and a + b + c + d <= limit

    return {
        (a - 1, b - 1, c - 1, d - 1) for a, b, c, d in itertools.product(range(1, 13), repeat=4) if legal(a, b, c, d)
    }


def listed(rules: Any = (area, parity, total), *, most: int = 10**6, sample: int = 500, seed: int = 0) -> Any:
    return list_legal(CHOICES, rules, {"limit": 30}, most=most, sample=sample, seed=seed)


def test_the_list_is_what_checking_each_combination_gives() -> None:
    legal = listed()
    assert legal.whole and legal.count == len(legal.rows)
    assert set(map(tuple, legal.rows.tolist())) == by_hand(30)


def test_rules_left_for_last_are_obeyed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kgen.search.legal._MOST_ROWS", 2000)
    legal = listed()
    assert legal.whole and set(map(tuple, legal.rows.tolist())) == by_hand(30)
    monkeypatch.setattr("kgen.search.legal._MOST_CHECKS", 100)
    sampled = listed()
    assert not sampled.whole and len(sampled.rows) == 500
    assert set(map(tuple, sampled.rows.tolist())) <= by_hand(30)
    assert sampled.count == pytest.approx(len(by_hand(30)), rel=0.05)


def test_a_sample_is_uniform_seeded_and_without_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    for limits in ({}, {"_MOST_ROWS": 2000, "_MOST_CHECKS": 100}):
        for name, value in limits.items():
            monkeypatch.setattr(f"kgen.search.legal.{name}", value)
        counts: Counter[int] = Counter()
        for seed in range(20):
            rows = listed(most=100, sample=300, seed=seed).rows
            assert len({tuple(row) for row in rows.tolist()}) == 300
            counts.update(rows[:, 0].tolist())
        share = Counter(row[0] for row in by_hand(30))
        for value, count in share.items():
            assert counts[value] / 6000 == pytest.approx(count / len(by_hand(30)), abs=0.02)
        assert (listed(most=100, seed=3).rows == listed(most=100, seed=3).rows).all()


def test_what_no_rule_ties_is_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One combination in 288 is legal: of two thousand joint draws, seven."""

    def narrow(config: Any) -> None:
        if config.a * config.b != 12:
            raise InfeasibleError("narrow", "a * b must be 12")

    def equal(config: Any) -> None:
        if config.c != config.d:
            raise InfeasibleError("equal", "c must be d")

    for name, value in {"_MOST_ROWS": 100, "_MOST_CHECKS": 10, "_DRAWS": 1000, "_MOST_DRAWS": 2000}.items():
        monkeypatch.setattr(f"kgen.search.legal.{name}", value)
    legal = listed([narrow, equal], sample=60)
    legal_rows = {(a - 1, 12 // a - 1, c, c) for a in (1, 2, 3, 4, 6, 12) for c in range(12)}
    assert not legal.whole and legal.count == pytest.approx(len(legal_rows), rel=0.2)
    assert set(map(tuple, legal.rows.tolist())) <= legal_rows and len(legal.rows) > 40


def test_a_rule_that_seldom_reads_a_field_is_obeyed_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def seldom(config: Any) -> None:
        if config.a == 12 and config.b == 12 and config.c > 2:
            raise InfeasibleError("seldom", "c must be at most 2 where a and b are 12")

    for name, value in {"_MOST_ROWS": 100, "_MOST_CHECKS": 10, "_DRAWS": 1000, "_MOST_DRAWS": 5000}.items():
        monkeypatch.setattr(f"kgen.search.legal.{name}", value)
    rows = listed([seldom], sample=5000).rows.tolist()
    assert {row[2] for row in rows if row[:2] == [11, 11]} == {0, 1}
    assert {row[2] for row in rows if row[:2] != [11, 11]} == set(range(12))


def test_what_leaves_nothing_is_named() -> None:
    def never(config: Any) -> None:
        raise InfeasibleError("device", "the device must be another one")

    with pytest.raises(InfeasibleError, match="no choice of any field obeys the rule 'device': the device must be"):
        listed([never])
    with pytest.raises(InfeasibleError, match="no choice of c, d, a, b obeys the rule 'total'"):
        list_legal(CHOICES, [area, total], {"limit": 3}, most=10, sample=10, seed=0)
    with pytest.raises(InfeasibleError, match="b must have a choice, but it has none"):
        list_legal({"a": (1,), "b": ()}, [], {}, most=10, sample=10, seed=0)


def test_a_contradiction_of_rules_left_for_last_leaves_no_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was one without an error, which a search then took for a space of its own."""
    monkeypatch.setattr("kgen.search.legal._MOST_ROWS", 2000)
    sentence = "no choice of a, b, c, d obeys the rule 'total': the sum is too large"
    with pytest.raises(InfeasibleError, match=f"^{sentence}"):
        list_legal(CHOICES, [area, total], {"limit": 3}, most=10**6, sample=10, seed=0)
    monkeypatch.setattr("kgen.search.legal._MOST_CHECKS", 100)
    monkeypatch.setattr("kgen.search.legal._MOST_DRAWS", 2000)
    monkeypatch.setattr("kgen.search.legal._DRAWS", 1000)
    with pytest.raises(InfeasibleError, match=f"^of 2000 random combinations none is legal: {sentence}"):
        list_legal(CHOICES, [area, total], {"limit": 3}, most=10**6, sample=10, seed=0)


@pytest.mark.parametrize(
    "name, side, problem",
    [
        ("convfirst", "wgmma_fused", ConvFirst(32, 28, 28, 128)),
        ("convfirst", "cluster", ConvFirst(1, 7, 7, 64)),
        ("convfirst", "fused", ConvFirst(1, 7, 7, 64)),
        ("convfirst", "split", ConvFirst(1, 7, 7, 64)),
        ("convfirst", "layers", ConvFirst(1, 7, 7, 64)),
        ("classifier", "portable", family("classifier").Problem(2, 7, 7, 64, 10)),
        ("patchconv", "portable", family("patchconv").Problem(2, 8, 8, 16, 32)),
    ],
)
def test_rules_of_the_families_list_what_their_plans_allow(name: str, side: str, problem: Any) -> None:
    kind = family(name)
    every = kind.choices(problem, H200)[side].items()
    kept = {field: of[:: max(1, len(of) // 3)][: 3 if place < 7 else 1] for place, (field, of) in enumerate(every)}

    def config(values: Any) -> Any:
        return kind.config_from_json({"boundary": side, **dict(zip(kept, values, strict=True))})

    def legal(values: Any) -> bool:
        try:
            kind.plan(problem, config(values), H200)
        except InfeasibleError:
            return False
        return True

    rules = [lambda one, rule=rule: rule(problem, one, H200) for rule in kind.rules(side)]
    fixed = config([of[0] for of in kept.values()]).to_json()
    rows = list_legal(kept, rules, fixed, most=10**6, sample=1, seed=0).rows.tolist()
    found = {tuple(of[index] for of, index in zip(kept.values(), row, strict=True)) for row in rows}
    assert found == {values for values in itertools.product(*kept.values()) if legal(values)}
    assert len(found) > 0
