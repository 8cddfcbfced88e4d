"""What a study says it is of: kept, read again, and refused with a sentence where it is something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
from kgen.search.about import ATTRIBUTE, About

from kgen.blocks.convfirst.problem import ConvFirst
from kgen.blocks.patchconv.problem import PatchConv
from kgen.devices import find_device
from kgen.errors import StudyError

PROBLEMS = (ConvFirst(1, 7, 7, 16), PatchConv(1, 8, 8, 16, 32))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.family)
def test_it_is_read_as_it_was_written(problem: Any) -> None:
    study = optuna.create_study()
    about = About(problem, find_device("h200"))
    about.write(study)
    assert About.read(study) == about


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (None, "in schema_version 1, but 'one' has None"),
        ({"schema_version": 2}, "in schema_version 1, but 'one' has 2; use the kgen that wrote it"),
        ({"family": "mbconv"}, "must be ones that kgen knows, but those of 'one' are not .*mbconv"),
        ({"problem": {"batch": 0}}, "must be ones that kgen knows"),
        ({"device": {}}, "must be ones that kgen knows"),
    ],
)
def test_another_schema_is_refused(changes: dict[str, Any] | None, sentence: str) -> None:
    study = optuna.create_study(study_name="one")
    if changes is not None:
        About(PROBLEMS[0], find_device("h200")).write(study)
        study.set_user_attr(ATTRIBUTE, study.user_attrs[ATTRIBUTE] | changes)
    if changes is None:
        study.add_trial(optuna.trial.create_trial(value=0.5))
    before = study.user_attrs
    for use in (About.read, About(PROBLEMS[0], find_device("h200")).join):
        with pytest.raises(StudyError, match=sentence):
            use(study)
    assert study.user_attrs == before


def test_a_study_of_another_problem_is_not_joined() -> None:
    study = optuna.create_study(study_name="one")
    device = find_device("h200")
    About(PROBLEMS[0], device).join(study)
    for other in (PROBLEMS[1], replace(PROBLEMS[0], batch=2)):
        with pytest.raises(
            StudyError, match=r"at one problem, but 'one' is of convfirst\(.*, and this is .*; pass ano"
        ):
            About(other, device).join(study)
    assert About.read(study).problem == PROBLEMS[0]


def test_a_study_is_joined_from_any_gpu_of_the_model_and_from_no_other() -> None:
    study = optuna.create_study(study_name="one")
    device = find_device("h200")
    About(PROBLEMS[0], replace(device, ordinal=0)).join(study)
    About(PROBLEMS[0], replace(device, ordinal=1)).join(study)
    assert About.read(study).device.ordinal == 0
    with pytest.raises(StudyError, match=r"GPUs of one model, but 'one' has times of NVIDIA H200 \(132 SMs.* \(78 SMs"):
        About(PROBLEMS[0], replace(device, sms=78)).join(study)
