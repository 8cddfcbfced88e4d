"""The page in a real browser: no error, no request, and a click on a heading sorts."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from kgen.search.storage import read_studies
from report_samples import SPLIT, write

from kgen.report import StudyTrials, analyse, read_study, render_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMIT_S = 60
COLOURS = {"light": "--blink-settings=preferredColorScheme=1", "dark": "--blink-settings=preferredColorScheme=0"}
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""Of the last run, to look at; git ignores them."""
KEPT = Path(__file__).parents[2] / "benchmarks" / "studies" / "patchconv-nvidia-h200.journal"
WIDTH, HEIGHT = 1100, 4800

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which the package chromium brings")

WATCH = """<script>
const seen = [];
addEventListener("error", (event) => seen.push(`error: ${event.message}`));
addEventListener("securitypolicyviolation", (event) => seen.push(`blocked: ${event.blockedURI}`));
console.error = (...words) => seen.push(`console: ${words}`);
</script>"""

ACT = """<script>
const table = document.querySelector("table.top");
const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].textContent.trim()).join(" ");
const headings = table.querySelectorAll("th button");
const told = {};
told.before = column(1);
headings[1].click();
told.rising = column(1);
told.sort = headings[1].parentElement.getAttribute("aria-sort");
headings[1].click();
told.falling = column(1);
headings[7].click();
told.words = column(1);
const point = document.querySelector('circle[data-t="8"]');
point.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
told.hover = document.getElementById("hover").textContent;
document.body.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
told.hidden = document.getElementById("hover").hidden;
told.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
told.title = document.title;
told.dark = matchMedia("(prefers-color-scheme: dark)").matches;
told.paper = getComputedStyle(document.body).backgroundColor;
told.seen = seen;
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(told);
document.body.append(out);
</script>"""


def open_page(page: str, folder: Path, *options: str) -> str:
    """Open a page, and return what the browser prints."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    profile = f"--user-data-dir={folder / 'profile'}"
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", profile)
    command = [str(CHROMIUM), *fixed, *options, path.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True, env=environment)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def tell(study: StudyTrials, folder: Path, *options: str) -> dict[str, object]:
    page = render_page([analyse(study)]).replace("<title>", WATCH + "<title>").replace("</body>", ACT + "</body>")
    (text,) = re.findall(r'<pre id="told">(.*?)</pre>', open_page(page, folder, *options, "--dump-dom"))
    told: dict[str, object] = json.loads(html.unescape(text))
    return told


def test_a_reader_sorts_tables_and_sees_configs(study: StudyTrials, tmp_path: Path) -> None:
    told = tell(study, tmp_path)
    assert told["seen"] == [] and told["requests"] == []
    assert (told["before"], told["rising"], told["falling"]) == ("7 8 5 3 0", "0 3 5 7 8", "8 7 5 3 0")
    assert told["sort"] == "ascending"
    assert str(told["words"]).endswith("5 7 8")  # boundary, overlap, the winner, x_slots
    assert str(told["hover"]).startswith("trial 8: 110 us, efficiency 55.1%\nboundary=wgmma_fused, warpgroups=2")
    assert "sigmoid=</script>" in str(told["hover"]) and told["hidden"] is True
    assert str(told["title"]).endswith("- kgen report")  # hostile scripts would have changed it


def test_it_follows_the_readers_colours(study: StudyTrials, tmp_path: Path) -> None:
    light = tell(study, tmp_path)
    dark = tell(study, tmp_path, COLOURS["dark"])
    assert (light["dark"], dark["dark"]) == (False, True)
    assert (light["paper"], dark["paper"]) == ("rgb(255, 255, 255)", "rgb(20, 24, 28)")


@pytest.mark.parametrize("colours", COLOURS)
def test_a_screenshot_is_kept_to_look_at(colours: str, tmp_path: Path) -> None:
    """Of a real study: ink all over the page, in the reader's colours."""
    image = pytest.importorskip("matplotlib.image", reason="needs matplotlib, which the extra plot brings")
    (study,) = read_studies(write(tmp_path / "split.journal", SPLIT))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"report-{colours}.png"
    page = render_page([analyse(read_study(one)) for one in (study, *read_studies(str(KEPT)))])
    size = f"--window-size={WIDTH},{HEIGHT}"
    open_page(page, tmp_path, COLOURS[colours], "--hide-scrollbars", size, f"--screenshot={path}")
    pixels = image.imread(path)
    assert pixels.shape[:2] == (HEIGHT, WIDTH)
    paper = pixels[0, 0, :3]
    assert (paper.min() > 0.9) if colours == "light" else (paper.max() < 0.2)
    bands = (abs(pixels[:, :, :3] - paper) > 0.2).any(axis=2).reshape(HEIGHT // 400, -1).mean(axis=1)
    assert all(0.002 < band < 0.3 for band in bands), bands
