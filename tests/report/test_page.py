"""The page: everything in one file, hostile text escaped, and large studies small and quick."""

from __future__ import annotations

import html
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from kgen.search.storage import read_studies
from report_samples import H200, MARKUP, SCRIPT, SPLIT, TRIALS, WINNER, Told, passed, write

from kgen.report import StudyTrials, analyse, read_study, render_page
from kgen.report.scales import Scale, label, scale
from kgen.report.svg import draw

MANY = 5000
LIMIT_S, LIMIT_BYTES = 3.0, 5_000_000


class Collector(HTMLParser):
    """The elements and attributes of a page, and the headings of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def collect(page: str) -> Collector:
    collector = Collector()
    collector.feed(page)
    return collector


def test_the_page_has_everything(study: StudyTrials) -> None:
    report = analyse(study)
    page = render_page([report])
    text = html.unescape(page)
    for answer in report.answers:
        assert answer.question in text and answer.text in text
    for chart in report.charts:
        assert not chart.points or f"<figcaption>{chart.title}</figcaption>" in text
    for words in ("overlap yes instead of no", "its output is wrong", "1.09 times", "infeasible:shared_memory", "39.0"):
        assert words in text
    assert '<td class="n" data-v="175752">171.6</td>' in page
    assert '<td class="n" data-v="0">0.0</td>' not in page  # trial 8 has no plan, so that nothing is known
    found = collect(page)
    assert found.tags.count("table") == 3  # the best, time, failures; importances need more configs
    assert found.tags.count("th") == found.tags.count("button")
    points = sum(len(chart.points) for chart in report.charts)
    assert found.tags.count("circle") == points > 30


def test_the_page_needs_no_network(study: StudyTrials) -> None:
    page = render_page([analyse(study)])
    found = collect(page)
    assert [value for name, value in found.attributes if name in ("src", "href", "action", "srcset")] == ["data:,"]
    assert "default-src 'none'" in page and not re.search(r"@import|url\(|https?://", page)


def test_hostile_text_is_escaped(study: StudyTrials) -> None:
    page = render_page([analyse(replace(study, name=SCRIPT))])
    assert SCRIPT not in page and "<img" not in page
    assert html.escape(SCRIPT, quote=False).replace("'", "&#39;") in page
    assert collect(page).tags.count("script") == 2
    assert html.unescape(page).count(MARKUP) == 1


def test_points_know_their_configs(study: StudyTrials) -> None:
    page = render_page([analyse(study)])
    (text,) = re.findall(r'<script type="application/json" id="trials">(.*?)</script>', page, re.DOTALL)
    (hovers,) = json.loads(text)
    assert set(hovers["trials"]) == {"0", "3", "5", "7", "8"}
    headline, shape, *values = hovers["trials"]["7"]
    assert headline == "100 us, efficiency 60.7%"
    assert dict(zip(hovers["names"][shape], values, strict=True)) == WINNER.to_json()


def test_several_studies_are_on_one_page(study: StudyTrials, tmp_path: Path) -> None:
    storage = write(tmp_path / "two.journal")
    write(storage, TRIALS[:1], "other")
    page = render_page([analyse(read_study(one)) for one in read_studies(storage)])
    assert page.count("<section") == 2 and "2 studies" in page and 'href="#study-1"' in page


def test_charts_are_drawn_to_scale(study: StudyTrials) -> None:
    chart = next(chart for chart in analyse(study).charts if chart.name == "best-by-seconds")
    drawing = draw(chart)
    x, y = scale([46.0], drawing.left, drawing.right), scale([250.0], drawing.bottom, drawing.top)
    assert (x.low, x.high, y.low, y.high) == (0, pytest.approx(48.3), 0, pytest.approx(262.5))
    assert [tick.text for tick in drawing.x_ticks] == ["0", "10", "20", "30", "40"]
    assert [tick.text for tick in drawing.y_ticks] == ["0", "100", "200"]
    assert f'<circle cx="{x.at(40):.1f}" cy="{y.at(100):.1f}" r="3" data-t="7"/>' in drawing.marks
    assert f"H{x.at(40):.1f}V{y.at(100):.1f}H{x.at(46):.1f}" in drawing.marks


def test_the_best_so_far_by_seconds_shows_where_they_went(study: StudyTrials, tmp_path: Path) -> None:
    (found,) = read_studies(write(tmp_path / "split.journal", SPLIT))
    page = render_page([analyse(read_study(found))])
    assert re.findall(r"<li>(.*?) (\d+)%</li>", page) == [
        ("waiting for compilation", "10"),
        ("verifying and measuring", "40"),
        ("sampling", "30"),
        ("failing", "20"),
    ]
    assert page.count('<i style="flex-grow: ') == 4 and "and sampling, which is" in page
    old = render_page([analyse(study)])
    assert "<i style" not in old and "waiting for its compilation included, by how it ended" in old


def test_scales() -> None:
    log = Scale(10, 1000, 0, 100, log=True)
    assert [log.at(value) for value in (10, 100, 1000)] == pytest.approx([0, 50, 100])
    assert log.ticks == [10, 20, 50, 100, 200, 500, 1000]
    assert scale([0.0, 0.0], 0, 10).ticks[0] == 0
    assert [label(value) for value in (0.25, 200.0, 25000.0)] == ["0.25", "200", "25,000"]


def test_five_thousand_trials_are_small_and_quick(study: StudyTrials) -> None:
    configs = [replace(WINNER, cluster=1 + number % 8, x_slots=1 + number % 3) for number in range(MANY)]
    trials = tuple(
        replace(study.winner, number=number, config=config.to_json(), evaluation=passed(100 + number % 977, 120, 1))
        for number, config in enumerate(configs)
    )
    start_s = time.perf_counter()
    page = render_page([analyse(replace(study, trials=trials))])
    assert time.perf_counter() - start_s < LIMIT_S
    assert page.count("<circle") > 6 * MANY and len(page.encode()) < LIMIT_BYTES


def test_a_modelled_study_says_so(tmp_path: Path) -> None:
    evaluation = replace(passed(100, 120, 1), measured=None)
    told = (Told(WINNER.to_json(), evaluation, 3.0),)
    (study,) = read_studies(write(tmp_path / "modelled.journal", told, device=replace(H200, ordinal=None)))
    page = render_page([analyse(read_study(study))])
    assert "modelled, not measured" in page and "Nothing was measured" in page and "Predicted against" not in page
