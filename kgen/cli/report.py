"""``kgen report``: a study as one HTML page, and as pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kgen.cli.options import AsJson, print_json
from kgen.errors import ProblemError, StudyError

if TYPE_CHECKING:
    from kgen.report import StudyReport


def report(
    storage: Annotated[str, typer.Argument(metavar="STUDY", help="Journal file or database URL of kgen tune.")],
    study: Annotated[str | None, typer.Option(help="Which study, where there are several; by default all.")] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="Folder for the charts as PNG and SVG.")] = None,
    against: Annotated[Path | None, typer.Option(help="Results file of benchmarks/ to compare with.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write what a study says as one HTML page: the winner's limits, what matters, what failed, what it cost."""
    from kgen.report import render_page

    found = _analyse(storage, study, against)
    try:
        out.write_text(render_page(found), encoding="utf-8", errors="xmlcharrefreplace")
    except OSError as error:
        raise ProblemError(
            f"--out must be a writable file, but {out} is not ({error.strerror}); choose another"
        ) from error
    if figures is not None:
        _save_figures(found, figures)
    if as_json:
        print_json({"path": str(out), "studies": [_document(one) for one in found]})
        return
    for one in found:
        print(f"{one.study.problem} on {one.study.device.title}")
        for answer in one.answers:
            print(f"  {answer.question} {answer.text}")
    print(f"written to {out}")


def _analyse(storage: str, name: str | None, against: Path | None) -> list[StudyReport]:
    """The reports of the studies that can be reported on; what is wrong with the others goes to stderr."""
    from kgen.report import analyse, read_peers, read_study
    from kgen.search.storage import read_studies

    peers = read_peers(against) if against is not None else None
    found, errors = [], []
    for study in read_studies(storage, name):
        try:
            found.append(analyse(read_study(study), peers))
        except StudyError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for left_out in errors:
        print(f"kgen: left out: {left_out}", file=sys.stderr)
    return found


def _document(found: StudyReport) -> dict[str, Any]:
    study = found.study
    answers = {answer.question: answer.text for answer in found.answers}
    return {"study": study.name, "problem": study.problem.to_json(), "device": study.device.name, "answers": answers}


def _save_figures(found: list[StudyReport], folder: Path) -> None:
    """One study's figures into ``folder``, several studies' into a folder each."""
    from kgen.report.figures import save_figures

    for number, one in enumerate(found):
        save_figures(one, folder if len(found) == 1 else folder / f"study-{number}")
