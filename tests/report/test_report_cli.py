"""``kgen report``: the page, the pictures, several studies, and one sentence for what cannot be reported on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from kgen.search.about import ATTRIBUTE, About
from kgen.search.storage import open_study
from report_samples import H200, PROBLEM, TRIALS, WINNER, Told, failed, write

from kgen.cli import main
from kgen.worker import Outcome

Ran = tuple[int, str, str]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["kgen", "report", *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, captured.out, captured.err

    return run


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_study_becomes_a_page(kind: str, report: Any, tmp_path: Path) -> None:
    storage = write(tmp_path / "a.journal" if kind == "journal" else f"sqlite:///{tmp_path}/a.db")
    code, out, err = report(storage)
    assert (code, err) == (0, "") and "Trial 7 takes 100.0 us measured" in out and "written to report.html" in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Trial 7 takes 100.0 us measured" in page and "&#55296;" in page  # half a character of a reason


def test_answers_as_json_and_figures(report: Any, journal: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which the extra plot brings")
    code, out, _ = report(journal, "--out", "a.html", "--figures", "figures", "--json")
    document = json.loads(out)
    assert code == 0 and document["path"] == "a.html" and (tmp_path / "figures" / "predicted.svg").exists()
    (study,) = document["studies"]
    assert (study["study"], study["device"], study["problem"]) == ("sample", "h200", PROBLEM.to_json())
    assert len(study["answers"]) == 5 and (tmp_path / "a.html").exists()


def test_one_of_several_studies_or_all(report: Any, journal: str, tmp_path: Path) -> None:
    write(journal, TRIALS[:1], "second")
    write(journal, TRIALS[1:3], "failures")
    code, _, err = report(journal)
    assert code == 0 and (tmp_path / "report.html").read_text().count("<section") == 2
    assert err.count("\n") == 1 and "kgen: left out: a report needs a config that passed" in err
    code, _, err = report(journal, "--study", "second")
    assert (code, err) == (0, "") and (tmp_path / "report.html").read_text().count("<section") == 1


def empty(path: Path) -> str:
    return write(path, ())


def only_failures(path: Path) -> str:
    return write(path, (*TRIALS[1:2], Told(WINNER.to_json(), failed(Outcome.CRASHED, "it broke\nin two", 1))))


def another_schema(path: Path) -> str:
    with open_study(write(path), "sample") as study:
        study.set_user_attr(ATTRIBUTE, {"schema_version": 7})
    return str(path)


def another_tuner(path: Path) -> str:
    with open_study(str(path), "theirs") as study:
        study.tell(study.ask(), 1.0)
    return str(path)


def other_trials(path: Path) -> str:
    with open_study(str(path), "theirs") as study:
        About(PROBLEM, H200).write(study)
        study.tell(study.ask(), 1.0)
    return str(path)


def strange_outcome(path: Path) -> str:
    return edited(path, '"outcome":"ok"', '"outcome":"odd"')


def strange_figure(path: Path) -> str:
    return edited(path, '"spill_bytes":0', '"spill_bytes":"many"')


def no_figure(path: Path) -> str:
    return edited(path, '{"efficiency":', '{"elegance":')


def edited(path: Path, old: str, new: str) -> str:
    text = Path(write(path, TRIALS[:1])).read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return str(path)


BAD: dict[str, tuple[Any, str]] = {
    "empty": (empty, "needs a study with trials, but 'sample' has none that ended"),
    "only failures": (
        only_failures,
        "needs a config that passed, but all 2 of 'sample' failed (the last one: it broke in two)",
    ),
    "another schema": (another_schema, "schema_version 1, but 'sample' has 7; use the kgen that wrote it"),
    "another tuner": (another_tuner, "schema_version 1, but 'theirs' has None"),
    "other trials": (other_trials, "but trial 0 of 'theirs' has not (KeyError: 'config')"),
    "strange outcome": (strange_outcome, "but trial 0 of 'sample' has not (ValueError: 'odd' is not a valid Outcome)"),
    "strange figure": (strange_figure, "has not (ValueError: 'many' is not a finite number)"),
    "no figure": (no_figure, "has not (ValueError: it passed without a latency and an efficiency)"),
    "no file": (lambda path: str(path), "is no file; check the path"),
    "unreachable": (lambda path: "postgresql://user:secret@127.0.0.1:1/none", "user:***@127.0.0.1:1/none"),
    "a folder": (lambda path: str(path.parent), "is no file; check the path"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_reported_on_is_one_sentence(name: str, report: Any, tmp_path: Path) -> None:
    make, sentence = BAD[name]
    code, out, err = report(make(tmp_path / "a.journal"))
    assert (code, out) == (2, "") and sentence in err and err.startswith("kgen: ") and err.count("\n") == 1
    assert "secret" not in err and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--out", "missing/report.html", "--out must be a writable file, but missing/report.html is not"),
        ("--out", ".", "--out must be a writable file"),
        ("--study", "none", "must hold a study called 'none', but"),
        ("--against", "missing.json", "--against must be a results file of benchmarks/"),
    ],
)
def test_bad_options_are_one_sentence(option: str, value: str, sentence: str, report: Any, journal: str) -> None:
    code, out, err = report(journal, option, value)
    assert (code, out) == (2, "") and sentence in err and err.startswith("kgen: ") and err.count("\n") == 1
