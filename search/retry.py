"""What becomes of a trial that was running when its tuner ended: its config is tried again, but not for ever."""

from __future__ import annotations

import optuna
from kgen.search.evaluate import Evaluation
from optuna.trial import FrozenTrial, TrialState, create_trial

from kgen.worker import Outcome

RETRY_OF = "retry_of"
SEEDED = "seeded"
BEGAN = "began"
"""Set on a trial whose evaluation began; others that run are compiled, or wait for it."""
DEATHS = "deaths"
MOST_DEATHS = 2


def try_again(study: optuna.Study, trial: FrozenTrial, *, died: bool) -> None:
    """Enqueue the config of a trial whose tuner ended, unless it ended before the config was complete.

    A config in the midst of whose evaluation two tuners ``died`` may have killed them: it is recorded as crashed.
    """
    attrs = trial.user_attrs
    fixed = trial.system_attrs.get("fixed_params")  # of an enqueued trial, complete from the start
    params = fixed if fixed is not None else trial.params if "config" in attrs else None
    if not params:
        return
    deaths = attrs.get(DEATHS, 0) + (died and BEGAN in attrs)
    if deaths < MOST_DEATHS:
        kept = {SEEDED: True} if SEEDED in attrs else {}
        study.enqueue_trial(params, user_attrs={**kept, RETRY_OF: trial.number, DEATHS: deaths})
        return
    reason = f"a candidate must not end its tuner, but {deaths} tuners died in the midst of its evaluation"
    evaluation = Evaluation(Outcome.CRASHED, reason, compiled=True)
    crashed = {"config": attrs["config"], RETRY_OF: trial.number, **evaluation.to_attrs()}
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions, user_attrs=crashed
        )
    )
