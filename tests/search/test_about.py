"""What a study says it is of: kept, read again, and refused with a sentence where it is something else."""

from __future__ import annotations

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
        ({"schema_version": 2}, "in schema_version 1, but 'one' has 2; run its kgen tune command again"),
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
    with pytest.raises(StudyError, match=sentence):
        About.read(study)
