"""Rendering: which templates make a tuned config stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kgen import render
from kgen.render import family_digest, template_digest

TEMPLATES = Path(__file__).parents[1] / "templates"


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the templates that may be changed."""
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    monkeypatch.setattr(render, "files", lambda package: folder)
    return folder


def test_the_digest_covers_every_template_of_a_family_and_its_headers(templates: Path) -> None:
    digests = [family_digest("convfirst")]
    sibling, header = templates / "convfirst_sibling.cu.j2", templates / "tile" / "sibling.cuh"
    header.write_text("// one\n")
    for path, text in (
        (sibling, "// a sibling\n"),
        (sibling, '#include "tile/sibling.cuh"\n'),
        (header, "// another\n"),
        (templates / "convfirst.cu.j2", "// nothing\n"),
    ):
        path.write_text(text)
        digests.append(family_digest("convfirst"))
    assert len(set(digests)) == len(digests)


def test_the_digest_leaves_out_other_families_and_headers_that_are_not_included(templates: Path) -> None:
    before = family_digest("convfirst")
    (templates / "mbconv.cu.j2").write_text("// another family\n")
    (templates / "convfirster.cu.j2").write_text("// another family\n")
    (templates / "tile" / "other.cuh").write_text("// not included\n")
    assert family_digest("convfirst") == before


def test_a_template_has_a_digest_of_its_own(templates: Path) -> None:
    before = template_digest("convfirst.cu.j2")
    (templates / "convfirst_sibling.cu.j2").write_text("// a sibling\n")
    assert template_digest("convfirst.cu.j2") == before
    (templates / "tile" / "index.cuh").write_text("// another\n")
    assert template_digest("convfirst.cu.j2") != before
