"""One study's report: everything that is drawn, still as data."""

from __future__ import annotations

from dataclasses import dataclass

from kgen.errors import StudyError
from kgen.report.analysis import (
    Failure,
    Importance,
    ModelFit,
    Ranked,
    TimeShare,
    failures,
    importances,
    model_fit,
    time_shares,
    top,
)
from kgen.report.answers import Answer, answers
from kgen.report.charts import Chart, charts
from kgen.report.peers import Peers
from kgen.report.trials import StudyTrials


@dataclass(frozen=True)
class StudyReport:
    """What a page or pictures show of a study."""

    study: StudyTrials
    answers: tuple[Answer, ...]
    charts: tuple[Chart, ...]
    time_shares: tuple[TimeShare, ...]
    importances: tuple[Importance, ...]
    failures: tuple[Failure, ...]
    fit: ModelFit | None
    top: tuple[Ranked, ...]


def analyse(study: StudyTrials, peers: Peers | None = None) -> StudyReport:
    """The report of ``study``; ``peers`` are what tuning is compared with, beside the default config.

    Raises:
        StudyError: the winner is a config of another kgen, of which this one cannot make a plan.
    """
    winner = study.winner
    try:
        program = study.plan(winner.config)
    except Exception as error:  # the fields of a config of another kgen may hold anything
        raise StudyError(
            f"a report needs the plan of the winning config, but this kgen cannot make that of trial "
            f"{winner.number} of {study.name!r} ({error}); use the kgen that tuned it, or tune again"
        ) from error
    return StudyReport(
        study=study,
        answers=answers(study, program, peers),
        charts=charts(study),
        time_shares=time_shares(study),
        importances=importances(study),
        failures=failures(study),
        fit=model_fit(study),
        top=top(study),
    )
