"""The figures behind a report, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kgen.search.objectives import parse_objectives
from kgen.search.storage import read_studies
from report_samples import DEFAULT, MARKUP, PARETO, PROBLEM, SCRIPT, SPLIT, WINNER, passed, write

from kgen.blocks.convfirst import plan
from kgen.errors import StudyError
from kgen.report import StudyTrials, analyse, read_study
from kgen.report.analysis import (
    best_so_far,
    by_number,
    by_seconds,
    failures,
    importances,
    model_fit,
    search_seconds,
    time_shares,
    top,
    variance_explained,
)
from kgen.report.charts import Chart, charts
from kgen.report.svg import draw
from kgen.report.trials import PlanFacts, Trial


def test_trials_are_read_without_repetitions(study: StudyTrials) -> None:
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [trial.number for trial in study.passed] == [0, 3, 5, 7, 8]
    assert study.winner.number == 7 and study.winner.config == WINNER.to_json() and study.measured
    assert study.problem == PROBLEM


def test_facts_are_the_plans(study: StudyTrials) -> None:
    (kernel,) = plan(PROBLEM, WINNER, study.device).kernels
    assert study.winner.facts == PlanFacts(175752, 384, 3136 / 132, 2)
    assert (kernel.shared_bytes, kernel.threads, kernel.work_items, kernel.grid) == (175752, 384, 3136, 132)
    facts = {trial.number: trial.shared_bytes for trial in study.trials}
    assert facts == {0: 27648, 1: None, 2: None, 3: 62816, 5: 175752, 6: None, 7: 175752, 8: None, 9: None}


def test_best_so_far(study: StudyTrials) -> None:
    steps = [(step.number, step.at, step.latency_us) for step in best_so_far(study, by_seconds)]
    assert steps == [(0, 10, 250), (3, 24, 150), (5, 30, 125), (7, 40, 100)]


def test_best_so_far_of_trials_that_ended_in_another_order(study: StudyTrials) -> None:
    seconds = {0: 30.0, 3: 10.0, 5: 24.0, 7: 40.0}
    trials = tuple(replace(trial, search_s=seconds.get(trial.number, 50.0)) for trial in study.trials)
    other = replace(study, trials=trials)
    assert [(step.number, step.at) for step in best_so_far(other, by_seconds)] == [(3, 10.0), (5, 24.0), (7, 40.0)]
    assert [(step.number, step.at) for step in best_so_far(other, by_number)] == [(0, 0), (3, 3), (5, 5), (7, 7)]


def test_time_is_attributed_to_how_configs_ended(study: StudyTrials) -> None:
    shares = {one.name.partition(" (")[0]: (one.seconds, one.share) for one in time_shares(study)}
    assert search_seconds(study) == 46
    assert shares == {
        "verifying and measuring": (39, pytest.approx(39 / 46)),  # 10 + (24 - 14) + (30 - 24) + (40 - 33) + (46 - 40)
        "failing: compile_failed": (4, pytest.approx(4 / 46)),
        "failing: wrong_answer": (3, pytest.approx(3 / 46)),
        "compiling": (25, pytest.approx(25 / 46)),
    }


def test_time_is_split_where_trials_say_what_they_waited_for_and_ran(tmp_path: Path) -> None:
    (found,) = read_studies(write(tmp_path / "split.journal", SPLIT))
    study = read_study(found)
    shares = {one.name.partition(" (")[0]: (one.seconds, one.share) for one in time_shares(study)}
    assert shares == {
        "verifying and measuring": (8, pytest.approx(0.4)),
        "sampling": (6, pytest.approx(0.3)),
        "failing: wrong_answer": (3, pytest.approx(0.15)),
        "waiting for compilation": (2, pytest.approx(0.1)),
        "failing: compile_failed": (1, pytest.approx(0.05)),
        "compiling": (9, pytest.approx(0.45)),
    }
    chart = next(one for one in charts(study) if one.name == "best-by-seconds")
    assert [(part.label, part.share) for part in chart.parts] == [
        ("waiting for compilation", pytest.approx(0.1)),
        ("verifying and measuring", pytest.approx(0.4)),
        ("sampling", pytest.approx(0.3)),
        ("failing", pytest.approx(0.2)),
    ]


def test_an_older_study_has_no_parts(study: StudyTrials) -> None:
    assert not study.split and all(not chart.parts for chart in charts(study))


def test_failures_are_counted_by_kind(study: StudyTrials) -> None:
    assert [(one.kind, one.count, one.share, one.example) for one in failures(study)] == [
        ("infeasible:shared_memory", 2, 2 / 9, MARKUP),
        ("compile_failed", 1, 1 / 9, SCRIPT),
        ("wrong_answer", 1, 1 / 9, "its output is wrong"),
    ]


def test_predictions_are_compared_with_measurements(study: StudyTrials) -> None:
    fit = model_fit(study)
    assert fit is not None and fit.trials == 5
    assert fit.median_ratio == pytest.approx(120 / 110)  # of 0.8, 0.933, 1.2, 1.2 and 1.091
    assert fit.rank_correlation == pytest.approx(8.5 / 95**0.5)  # ranks 4 2 3 0.5 0.5 and 4 3 2 0 1


def test_the_best_configs_say_how_they_differ(study: StudyTrials) -> None:
    rows = [(row.rank, row.trial.number, row.latency_us, pytest.approx(row.slower)) for row in top(study)]
    assert rows == [(1, 7, 100, 0.0), (2, 8, 110, 0.1), (3, 5, 125, 0.25), (4, 3, 150, 0.5), (5, 0, 250, 1.5)]
    words = [row.difference for row in top(study)]
    assert words[:3] == [
        "the winner",
        f"x_slots 1 instead of 2, sigmoid {SCRIPT} instead of tanh",
        "overlap yes instead of no",
    ]
    assert words[3].startswith("boundary fused instead of wgmma_fused, with tile_h=32, tile_w=4, pixels=128,")
    assert words[4].startswith(f"boundary {DEFAULT.boundary} instead of wgmma_fused")


@pytest.mark.parametrize(
    ("groups", "share"),
    [
        ([[1, 2], [3, 4]], 0.7),  # 1 - (1 / 2) / (5 / 3)
        ([[1, 1], [3, 3]], 1.0),
        ([[1, 3], [1, 3]], 0.0),
        ([[2, 2], [2, 2]], 0.0),
    ],
)
def test_variance_explained(groups: list[list[float]], share: float) -> None:
    assert variance_explained(groups) == pytest.approx(share)


def test_importances_are_found_on_the_winners_side(study: StudyTrials) -> None:
    assert importances(study) == ()  # five configs tell nothing
    trials = [
        Trial(number, replace(WINNER, overlap=overlap, cluster=cluster).to_json(), passed(time_us, 1, 1), 1.0, None)
        for number, (overlap, cluster, time_us) in enumerate(
            (overlap, cluster, 100.0 + 100 * overlap) for overlap in (False, True) for cluster in (1, 2) * 3
        )
    ]
    other = Trial(12, DEFAULT.to_json(), passed(400, 1, 1), 1.0, None)
    found = importances(replace(study, trials=(*trials, other)))
    assert [(one.parameter, one.values, one.trials) for one in found] == [
        ("overlap", 2, 12),
        ("boundary", 2, 13),
        ("cluster", 2, 12),
    ]
    assert [one.share for one in found] == [pytest.approx(1), pytest.approx(found[1].share), 0]
    assert 0 < found[1].share < 1


def test_charts_hold_what_was_measured(study: StudyTrials) -> None:
    found: dict[str, Chart] = {chart.name: chart for chart in charts(study)}
    points = {name: [(point.x, point.y, point.trial) for point in chart.points] for name, chart in found.items()}
    assert points["best-by-trials"] == [(0, 250, 0), (3, 150, 3), (5, 125, 5), (7, 100, 7)]
    assert points["best-by-seconds"] == [(10, 250, 0), (24, 150, 3), (30, 125, 5), (40, 100, 7)]
    assert (found["best-by-trials"].until, found["best-by-seconds"].until) == (9, 46)
    assert points["predicted"] == [(250, 200, 0), (150, 140, 3), (125, 150, 5), (100, 120, 7), (110, 120, 8)]
    percent = {trial.number: 100 * 60.65504511 / (trial.latency_us or 0) for trial in study.passed}
    for name, xs in {
        "efficiency-registers": dict.fromkeys((0, 3, 5, 7, 8), 168),
        "efficiency-shared": {0: 27, 3: 62816 / 1024, 5: 175752 / 1024, 7: 175752 / 1024},
        "efficiency-spills": {0: 0, 3: 0, 5: 64, 7: 0, 8: 0},
        "efficiency-work": {0: 1, 3: 1, 5: 3136 / 132, 7: 3136 / 132},
        "efficiency-threads": {0: 128, 3: 128, 5: 384, 7: 384},
        "efficiency-steps": {0: 13, 3: 21, 5: 2, 7: 2},
    }.items():
        assert points[name] == [(x, pytest.approx(percent[number]), number) for number, x in xs.items()], name
    bar = found["time"].bars[0]
    assert (bar.label, bar.share) == ("verifying and measuring", 39 / 46)


@pytest.fixture
def pareto(tmp_path: Path) -> StudyTrials:
    objectives = parse_objectives("energy,latency")
    (found,) = read_studies(write(tmp_path / "pareto.journal", PARETO, objectives=objectives))
    return read_study(found)


def test_a_pareto_set_is_drawn_and_listed_and_the_first_objective_wins(pareto: StudyTrials) -> None:
    assert pareto.front == {1, 2, 4} and pareto.winner.number == 1
    chart = next(chart for chart in charts(pareto) if chart.name == "pareto-efficiency")
    assert (chart.title, chart.x_label) == ("The Pareto set by energy, efficiency", "energy of a launch, mJ")
    assert [(point.x, point.y) for point in chart.points] == [(50, 250), (20, 150), (30, 100), (25, 125), (40, 125)]
    assert draw(chart).marks.count('class="front"') == 3
    *five, trade = analyse(pareto).answers
    assert len(five) == 5 and trade.question == "What can be had for what?"
    assert trade.text == (
        "By energy, efficiency no config is preferable to these 3: trial 2 takes 100.0 us, 30 mJ, error 0.0001; "
        "trial 4 takes 125.0 us, 25 mJ, error 0.0001; trial 1 takes 150.0 us, 20 mJ, error 0.0001."
    )


def test_a_study_of_other_metrics_is_refused(tmp_path: Path) -> None:
    storage = write(tmp_path / "pareto.journal", PARETO, objectives=parse_objectives("energy"))
    (found,) = read_studies(storage)
    found.set_metric_names(["speed"])
    with pytest.raises(
        StudyError, match="metrics must be of efficiency, energy, error, but those of 'sample' are speed"
    ):
        read_study(found)
