"""Reports: what a study's trials say, as figures and sentences (analysis), and as a page or pictures (drawing)."""

from __future__ import annotations

from kgen.report.page import render_page
from kgen.report.peers import read_peers
from kgen.report.study import StudyReport, analyse
from kgen.report.trials import StudyTrials, read_study

__all__ = ["StudyReport", "StudyTrials", "analyse", "read_peers", "read_study", "render_page"]
