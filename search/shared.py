"""A study that several tuners share: each knows its own running trials, keeps them alive, and frees those of the dead.

Optuna's heartbeats are times of the database's clock, so that machines need not agree on theirs.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import optuna
import sqlalchemy
from kgen.search.retry import try_again
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

HEARTBEAT_S, GRACE_S = 10, 60
"""How often a tuner says that its trials are alive, and the silence after which they are taken for dead."""

PROCESS = "process"
"""A trial's attribute: the number of the process that asked for it, on its machine."""

STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)


class SharedStudy(optuna.Study):
    """A study that knows which of its running trials this process asked for."""

    def __init__(self, study_name: str, storage: optuna.storages.BaseStorage) -> None:
        super().__init__(study_name, storage)
        self.own: set[int] = set()

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> Trial:
        trial = super().ask(fixed_distributions)
        self.own.add(trial.number)
        trial.set_user_attr(PROCESS, os.getpid())
        return trial

    def tell(
        self,
        trial: Trial | int,
        values: Any = None,
        state: TrialState | None = None,
        skip_if_finished: bool = False,
    ) -> FrozenTrial:
        told = super().tell(trial, values, state, skip_if_finished)
        self.own.discard(told.number)
        return told

    def give_back(self) -> None:
        """End this process's running trials, for others or a later run to try."""
        for trial in self._running():
            if trial.number in self.own:
                self._free(trial, died=False)

    def free_all(self) -> None:
        """End every running trial, each of a tuner that died."""
        for trial in self._running():
            self._free(trial, died=True)

    def free_of(self, process: int | None, *, died: bool) -> None:
        """End the running trials of a process of this machine that ended, or ``died``."""
        for trial in self._running():
            if trial.user_attrs.get(PROCESS) == process:
                self._free(trial, died=died)

    def _running(self) -> list[FrozenTrial]:
        return self.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _free(self, trial: FrozenTrial, *, died: bool) -> None:
        """Try it again, then fail it: in this order a kill in between loses nothing."""
        try_again(self, trial, died=died)
        self.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


class Heartbeat:
    """A thread with a connection of its own that beats for ``study``'s own trials; use it as a context manager.

    ``open_storage`` makes the storage of given keyword arguments of :class:`optuna.storages.RDBStorage`.
    """

    def __init__(self, study: SharedStudy, open_storage: Callable[..., RDBStorage]) -> None:
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._study = study
        self._storage = open_storage(
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=partial(try_again, died=True),
        )
        self._beating = optuna.load_study(study_name=study.study_name, storage=self._storage)
        self._id = self._storage.get_study_id_from_name(study.study_name)
        self._seen: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._storage.engine.dispose()

    def _run(self) -> None:
        while True:
            with suppress(*STORAGE_ERRORS):  # the search notices too, unless the database is back by then
                self._beat()
            if self._stop.wait(HEARTBEAT_S):
                self._storage.remove_session()
                return

    def _beat(self) -> None:
        """Keep own trials alive. A trial that is new here may be of a tuner that died before its first beat."""
        self._take_back_beats_to_come()
        for trial in self._beating.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number in self._study.own or trial.number not in self._seen:
                self._storage.record_heartbeat(
                    self._storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)
                )
                self._seen.add(trial.number)
        fail_stale_trials(self._beating)

    def _take_back_beats_to_come(self) -> None:
        """Where the database's clock was set back, the dead would live on until it is again what it was."""
        beats, now = sqlalchemy.table("trial_heartbeats", sqlalchemy.column("heartbeat")), sqlalchemy.func.now()
        with self._storage.engine.begin() as connection:
            connection.execute(beats.update().where(beats.c.heartbeat > now).values(heartbeat=now))
