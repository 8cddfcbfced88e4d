"""A study on a database server: tuners that join and die, a server that restarts or does not answer."""

from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from kgen.search import database as databases
from kgen.search.history import History
from kgen.search.retry import BEGAN, DEATHS
from kgen.search.storage import open_study
from kill_target import NAME, evaluated, most_done, start, wait_for_none_running, wait_for_retries
from optuna.trial import TrialState
from postgres_server import Postgres
from search_fakes import DEFAULT, FakeBench, config_from_json, make_search, make_space, plan

from kgen.errors import StudyError

pytestmark = pytest.mark.usefixtures("quick")

RUNNING = (TrialState.RUNNING,)


def begin(study: optuna.Study) -> optuna.Trial:
    """A trial in the midst of its evaluation."""
    trial = study.ask()
    trial.set_user_attr("config", make_space().suggest(trial).to_json())
    trial.set_user_attr(BEGAN, True)
    return trial


def test_two_tuners_share_a_study_and_evaluate_nothing_twice(database: str) -> None:
    benches = [FakeBench(delay_s=0.02), FakeBench(delay_s=0.02)]

    def tune(bench: FakeBench) -> float | None:
        with open_study(database, "one") as study:
            search = make_search(study, bench, 16)  # of equal seeds
            search.seed([DEFAULT])
            search.run()
            return search.history.best_efficiency

    with ThreadPoolExecutor(2) as threads:
        best, other_best = threads.map(tune, benches)
    assert best == other_best  # each knows what the other found
    configs = benches[0].log + benches[1].log
    assert len(configs) == len(set(configs)) and 16 <= len(configs) <= 17
    assert benches[0].log and benches[1].log
    assert not optuna.load_study(study_name="one", storage=database).get_trials(states=RUNNING)


def test_a_dead_tuners_trial_is_tried_once_more_and_then_recorded_as_crashed(database: str) -> None:
    for deaths in range(2):
        with open_study(database, "one") as study:
            begin(study)
            study.own.clear()  # as if it had been killed
        with open_study(database, "one") as study:
            waiting = wait_for_retries(study, 1 - deaths)
            assert [trial.user_attrs[DEATHS] for trial in waiting] == [1] * (1 - deaths)
    history = History(study, config_from_json, plan)
    assert history.failures == {"crashed": 1} and "2 tuners died" in history.last_failure


def test_a_trial_that_never_had_a_heartbeat_is_freed(database: str) -> None:
    with open_study(database, "one"):
        pass
    optuna.load_study(study_name="one", storage=database).ask()
    with open_study(database, "one") as study:
        wait_for_none_running(study)


def test_living_trials_outlast_the_grace_period(database: str) -> None:
    with open_study(database, "one") as study, open_study(database, "one"):
        trial = begin(study)
        time.sleep(3)
        study.tell(trial, 0.5)
    assert study.best_value == 0.5 and len(study.trials) == 1


def test_a_trial_that_was_freed_is_left_to_others(database: str) -> None:
    class Freed(FakeBench):
        def finish(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if not self.log:
                study.free_all()  # as another tuner would, had this one slept
            return super().finish(*args, **kwargs)

    with open_study(database, "one") as study:
        search = make_search(study, Freed(), 6)
        search.seed([DEFAULT])
        search.run()
        configs = evaluated(study)
        assert len(configs) == len(set(configs)) == 6 and str(DEFAULT.to_json()) in configs


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_restarts_in_the_middle_loses_nothing_that_ended(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    logs = [tmp_path / "0", tmp_path / "1"]
    tuners = [start(database, 30, seed, log) for seed, log in enumerate(logs)]
    while min(map(most_done, logs)) < 5:
        time.sleep(0.01)
    postgres.stop()
    done = max(map(most_done, logs))
    time.sleep(0.5)
    postgres.start()
    for tuner, log in zip(tuners, logs, strict=True):
        tuner.join()
        assert log.read_text().splitlines()[-1].isdigit()  # it went on
    with open_study(database, NAME) as study:
        before = evaluated(study)
        assert len(before) == len(set(before)) >= done >= 5
        make_search(study, FakeBench(), 30).run()
        assert evaluated(study)[: len(before)] == before and 30 <= len(evaluated(study)) <= 32
        wait_for_none_running(study)


def test_a_server_that_restarts_is_waited_for(postgres: Postgres, database: str) -> None:
    with open_study(database, "one") as study:
        trial = begin(study)
        postgres.stop()
        postgres.start()
        study.tell(trial, 0.5)
        assert study.best_value == 0.5


def test_a_server_that_stays_away_ends_the_search_with_a_sentence(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "RESTART_LIMIT_S", 0.5)
    with (
        pytest.raises(
            StudyError, match=r"must stay up, but 127\.0\.0\.1:\d+ stopped answering; .* same command goes on"
        ),
        open_study(database, "one") as study,
    ):
        study.tell(begin(study), 0.5)
        lost = begin(study)
        postgres.stop()
        try:
            study.tell(lost, 0.25)
        finally:
            postgres.start()
    with open_study(database, "one") as study:
        assert study.best_value == 0.5
        wait_for_retries(study, 1)


def test_a_server_that_refuses_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(StudyError, match=rf"must let this machine in, but 127\.0\.0\.1:{port} did not") as caught:
            open_study(f"postgresql+psycopg://kgen:secret@127.0.0.1:{port}/x", "one").__enter__()
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_driver_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError, match=r"needs the psycopg driver, .* pip install 'kgen\[postgresql\]'") as caught:
        open_study("postgresql+psycopg://kgen:secret@127.0.0.1/x", "one").__enter__()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "sentence"), [("CONNECT_LIMIT_S", "timeout"), ("ANSWER_LIMIT_S", "no answer within")]
)
def test_a_server_that_never_answers_is_given_up(limit: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its driver, and by kgen where the driver does not, as while it looks for the address of a name."""
    pytest.importorskip("psycopg")
    assert databases.CONNECT_LIMIT_S < databases.ANSWER_LIMIT_S < 10
    monkeypatch.setattr(databases, limit, 2 if limit == "CONNECT_LIMIT_S" else 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port, start_s = mute.getsockname()[1], time.monotonic()
        with pytest.raises(
            StudyError, match=rf"must let this machine in, but 127\.0\.0\.1:{port} did not .*{sentence}"
        ):
            open_study(f"postgresql+psycopg://kgen@127.0.0.1:{port}/x", "one").__enter__()
        assert time.monotonic() - start_s < 3


def set_clock(url: str, hours: int) -> None:
    """Set the server's clock forward, as seen from the heartbeats; back where ``hours`` is negative."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as server:
        server.execute(sqlalchemy.text(f"update trial_heartbeats set heartbeat = heartbeat - interval '{hours} hour'"))
    engine.dispose()


def test_a_clock_that_is_set_back_keeps_no_dead_tuners_trial_running(database: str) -> None:
    with open_study(database, "one") as study, open_study(database, "one"):
        begin(study)
        time.sleep(1.5)  # a heartbeat
        study.own.clear()  # as if it had been killed
        set_clock(database, -1)
        wait_for_retries(study, 1)


def test_a_study_goes_on_while_the_clock_jumps(database: str, tmp_path: Path) -> None:
    tuners = [start(database, 20, seed, tmp_path / str(seed)) for seed in range(2)]
    jumps = 0
    while any(tuner.is_alive() for tuner in tuners):
        time.sleep(0.3)
        if most_done(tmp_path / "0"):
            jumps += 1
            set_clock(database, (-1) ** jumps)
    assert jumps > 3 and [tuner.exitcode for tuner in tuners] == [0, 0]
    with open_study(database, NAME) as study:
        assert len(evaluated(study)) == len(set(evaluated(study))) >= 20
        wait_for_none_running(study)
