"""Copies a study of ``kgen tune`` to a journal that is small enough to commit: what a report reads, and nothing else.

Trials keep their numbers, times and outcomes. What only the sampler reads goes, and so do proposals that did not end.

    python benchmarks/keep_study.py search.journal STUDY benchmarks/studies/NAME.journal
"""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
from kgen.search.history import DUPLICATE_OF
from kgen.search.storage import open_study, read_studies
from optuna.trial import FrozenTrial, TrialState

from kgen.errors import KgenError, ProblemError


def keep(storage: str, name: str, out: Path) -> int:
    """Copy a study; returns the number of its trials that a report reads.

    Raises:
        ProblemError: ``out`` exists.
        StudyError: ``storage`` has no such study.
    """
    if out.exists():
        raise ProblemError(f"a study is kept in a new file, but {out} exists; name another")
    (study,) = read_studies(storage, name)
    trials = study.get_trials(deepcopy=False)
    last = max((trial.number for trial in trials if _read_by_reports(trial)), default=-1)
    with open_study(str(out), name) as kept:
        for key, value in study.user_attrs.items():
            kept.set_user_attr(key, value)
        for trial in trials[: last + 1]:
            kept.add_trial(_bare(trial))
    return sum(map(_read_by_reports, trials))


def _read_by_reports(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and DUPLICATE_OF not in trial.user_attrs


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """The trial without its parameters; a failed one without anything in the place of what is not read."""
    if not _read_by_reports(trial):
        return optuna.trial.create_trial(state=TrialState.FAIL)
    bare = optuna.trial.create_trial(state=trial.state, value=trial.value, user_attrs=trial.user_attrs)
    bare.datetime_start, bare.datetime_complete = trial.datetime_start, trial.datetime_complete
    return bare


def main() -> int:
    if len(sys.argv) != 4:
        print((__doc__ or "").splitlines()[-1].strip(), file=sys.stderr)
        return 2
    storage, name, out = sys.argv[1:]
    try:
        print(f"{keep(storage, name, Path(out))} trials kept in {out}, {Path(out).stat().st_size / 1024:.0f} KiB")
    except KgenError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
