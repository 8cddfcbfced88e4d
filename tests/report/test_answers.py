"""The five sentences at the top of a report: their numbers, and what they say when there is nothing to say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_samples import H200, PROBLEM

from kgen.errors import ProblemError, StudyError
from kgen.model import predict_us
from kgen.report import StudyTrials, analyse, read_peers
from kgen.report.answers import winner_terms
from kgen.report.peers import Peers

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "convfirst-nvidia-h200.json"


def texts(study: StudyTrials, peers: Peers | None = None) -> list[str]:
    return [answer.text for answer in analyse(study, peers).answers]


def peers_file(path: Path, **changes: Any) -> Path:
    content = {
        "environment": {"gpu": H200.title},
        "rows": [{"problem": PROBLEM.to_json(), "peer": "inductor default", "peer_us": 800.0}],
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_five_answers(study: StudyTrials, tmp_path: Path) -> None:
    good, limit, matters, half, paid = texts(study, read_peers(peers_file(tmp_path / "results.json")))
    assert good == (
        "Trial 7 takes 100.0 us measured: efficiency 60.7% of the 100% that the waterline allows its plan. The ideal "
        "latency is 60.7 us and the attainable one 60.7 us, so the winner takes 1.65 times as long as it could."
    )
    assert limit == (
        "By the performance model, tensor cores: alone it would take 81.9 us of the 154.2 us predicted. An SM works"
        " for 152.6 us (tensor cores 81.9 us, shared-memory bandwidth 51.7 us, special functions 62.1 us, an SM's "
        "L2 bandwidth 11.8 us, pipeline-step latency 5.41 us; the longest hides 48% of the others); the chip's L2 "
        "needs 42.6 us, DRAM 42.8 us."
    )
    assert matters == "5 configs that passed are too few, or too alike, to tell."
    assert half.startswith(
        "The winner uses 171.6 KiB of shared memory a CTA; the best config with at most half of it, trial 3 with 61.3 "
        "KiB, takes 150.0 us, 50.0% longer (boundary=fused, tile_h=32,"
    )
    assert paid == (  # 46 s / 150 us and 46 s / 700 us calls of 100 us
        "The search took 46 s, and against the default config (250.0 us, trial 0) it saves 150.0 us a call measured: "
        "it has paid for itself after 306,667 calls, 31 s of running the winner. Against inductor default (800.0 us) "
        "it saves 700.0 us a call measured: it has paid for itself after 65,714 calls, 7 s of running the winner."
    )


def test_the_recorded_results_can_be_compared_with(study: StudyTrials) -> None:
    peer = read_peers(RESULTS).find(PROBLEM, H200.title)
    assert peer is not None and peer.name.startswith("inductor") and peer.latency_us > 100
    assert f"({peer.latency_us:.1f} us) it saves" in texts(study, read_peers(RESULTS))[4]


def test_the_models_terms_add_up_to_its_prediction(study: StudyTrials) -> None:
    program = study.plan(study.winner.config)
    assert sum(one.total_us for one in winner_terms(study.winner, program)) == pytest.approx(predict_us(program))


def test_what_is_missing_is_said(study: StudyTrials, tmp_path: Path) -> None:
    path = peers_file(tmp_path / "results.json", environment={"gpu": "another"})
    alone = replace(study, trials=tuple(trial for trial in study.trials if trial.number not in (0, 3)))
    _, _, _, half, paid = texts(alone, read_peers(path))
    assert half == (
        "The winner uses 171.6 KiB of shared memory a CTA, and no config that passed uses at most half of it."
    )
    assert paid == (
        "The search took 46 s, and the default config did not pass, so that there is nothing to compare with. "
        "The results given hold no row of this problem on NVIDIA H200."
    )


def test_a_default_that_wins_is_said(study: StudyTrials) -> None:
    only = replace(study, trials=study.trials[:1])
    assert texts(only)[4] == "The search took 10 s, and the default config won: it found nothing better."


def test_a_winner_of_another_kgen_is_refused(study: StudyTrials) -> None:
    strange = replace(study.winner, config={**study.winner.config, "sigmoid": "by hand"})
    with pytest.raises(StudyError, match="cannot make that of trial 7 of 'sample'"):
        analyse(replace(study, trials=(strange,)))


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"environment": {"gpu": "x"}, "rows": [{"peer": "p"}]}'])
def test_other_files_are_no_results(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(ProblemError, match=r"--against must be a results file"):
        read_peers(path)
    path.write_text(text)
    with pytest.raises(ProblemError, match=r"--against must be a results file .* but .*results\.json is not \("):
        read_peers(path)
