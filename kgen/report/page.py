"""A report as one HTML page that needs no network: texts go through an escaping template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jinja2
from markupsafe import Markup

from kgen.report.study import StudyReport
from kgen.report.svg import draw
from kgen.report.trials import StudyTrials, config_text


def render_page(reports: Sequence[StudyReport]) -> str:
    """The page of one or several studies."""
    template = _environment().get_template("page.html.j2")
    return template.render(
        reports=reports,
        hovers=_script_json([_hover(report.study) for report in reports]),
        drawings=[[draw(chart) for chart in report.charts if chart.points] for report in reports],
    )


@lru_cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kgen", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["config"] = config_text
    return environment


def _hover(study: StudyTrials) -> dict[str, Any]:
    """What the page's points show: by trial, its time, and its config as values in the order of ``names[shape]``."""
    shapes: dict[tuple[str, ...], int] = {}
    trials = {}
    for trial in study.passed:
        config = {name: value for name, value in trial.config.items() if value is not None}
        shape = shapes.setdefault(tuple(config), len(shapes))
        headline = f"{trial.latency_us or 0:.4g} us, efficiency {100 * (trial.efficiency or 0):.3g}%"
        trials[trial.number] = [headline, shape, *config.values()]
    return {"names": list(shapes), "trials": trials}


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
