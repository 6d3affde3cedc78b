"""report.html in a real browser: nothing fails, nothing is fetched, everything is drawn and can be used.

Needs the group `browser` (playwright) and Debian's chromium; skipped where either is missing.
"""

import json
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from snncompile.cli import cli

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (uv sync --group browser)")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
    pytest.mark.filterwarnings("default"),
]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SIZES = {"wide": (1280, 900), "narrow": (400, 800)}
READY = "document.documentElement.dataset.ready === 'true'"


@pytest.fixture(scope="module")
def page_file(fashion_program: Path, fashion_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the example with a run and a verification, made by the commands."""
    folder = tmp_path_factory.mktemp("report")

    def invoke(*words: object) -> str:
        done = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    data = ("--data", fashion_data)
    invoke("run", fashion_program, *data, "--limit", 20, "--save", folder / "run.npz")
    stages = ("--stages", "float,integer,simulator")
    (folder / "proof.json").write_text(invoke("verify", fashion_program, *data, "--limit", 5, *stages, "--json"))
    given = ("--run", folder / "run.npz", "--verification", folder / "proof.json")
    invoke("report", fashion_program, "--html", "-o", folder / "report.html", *given)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


class Watched:
    """A page, what it asked of the network, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, size: tuple[int, int], scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page, self.asked, self.wrong = context.new_page(), [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.goto(path.as_uri())
        self.page.wait_for_function(READY)

    @property
    def external(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_everything_and_asks_for_nothing(browser: Any, page_file: Path, size: str, scheme: str) -> None:
    assert page_file.stat().st_size < 6_000_000
    watched = Watched(browser, page_file, SIZES[size], scheme)
    page = watched.page
    page.wait_for_selector("#plot-cores .hm image")
    drawn = page.eval_on_selector_all(".plot", "plots => plots.map(p => !!p.querySelector('.main-svg'))")
    assert len(drawn) >= 7
    assert all(drawn)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0], "the page itself scrolls sideways"
    assert watched.external == []
    assert watched.wrong == []
    shots = os.environ.get("SNNCOMPILE_SCREENSHOTS")
    if shots:
        page.screenshot(path=f"{shots}/report-{SIZES[size][0]}-{scheme}.png")


def test_hover_tells_a_cores_layers_and_tabs_change_the_map(browser: Any, page_file: Path) -> None:
    watched = Watched(browser, page_file, SIZES["wide"])
    page = watched.page
    page.wait_for_selector("#plot-cores .hm image")
    page.locator("#plot-cores").scroll_into_view_if_needed()
    # the map's first cell, in pixels of the page
    x, y = page.evaluate(
        """() => { const plot = document.getElementById('plot-cores'), box = plot.getBoundingClientRect(),
                   {xaxis, yaxis} = plot._fullLayout;
                   return [box.x + xaxis._offset + xaxis.d2p(0), box.y + yaxis._offset + yaxis.d2p(0)]; }"""
    )
    page.mouse.move(x, y)
    page.wait_for_selector("#plot-cores .hoverlayer text")
    said = page.locator("#plot-cores .hoverlayer").text_content()
    assert "core " in said
    assert "mtlif" in said
    assert "neurons" in said

    tabs = page.locator("[role=tab]")
    energy = page.get_by_role("tab", name="energy")
    energy.click()
    assert energy.get_attribute("aria-selected") == "true"
    assert page.evaluate("document.getElementById('plot-cores').data[0].colorbar.title.text") == "uJ"
    energy.press("Home")
    assert tabs.first.get_attribute("aria-selected") == "true"
    assert page.evaluate("document.activeElement === document.querySelectorAll('[role=tab]')[0]")
    tabs.first.press("ArrowLeft")
    assert tabs.last.get_attribute("aria-selected") == "true"
    before = page.evaluate("document.getElementById('plot-spikes').data[0].x.length")
    page.select_option("#layer-choice", index=1)
    assert page.evaluate("document.getElementById('plot-spikes').data[0].x.length") != before
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert watched.wrong == []


def test_the_page_is_readable_without_pictures(browser: Any, page_file: Path) -> None:
    """Every plot has a name, every table a caption and heads, headings go down one by one, print shows the tables."""
    page = Watched(browser, page_file, SIZES["wide"]).page
    assert page.eval_on_selector_all(".plot", "plots => plots.every(p => p.getAttribute('aria-label'))")
    assert page.eval_on_selector_all("table", "ts => ts.every(t => t.caption && t.querySelector('th[scope]'))")
    levels = page.eval_on_selector_all("h1, h2, h3", "hs => hs.map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("#layers table").is_visible()


def test_a_board_of_fourteen_thousand_cores_opens(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """The core map of the page made as large as ResNet-50's, and opened."""
    text = page_file.read_text()
    start = text.index('id="figures">') + len('id="figures">')
    end = text.index("</script>", start)
    figures = json.loads(text[start:end])
    cores = figures["cores"]
    values = [[(7 * row + column) % 4000 for column in range(128)] for row in range(112)]
    cores["data"][0] |= {"z": values, "text": [[f"core {v}<br>layer" for v in row] for row in values]}
    for view in cores["views"]:
        view |= {"z": values, "zmax": 4000}
    large = tmp_path / "large.html"
    large.write_text(text[:start] + json.dumps(figures).replace("<", "\\u003c") + text[end:])
    watched = Watched(browser, large, SIZES["wide"])
    watched.page.wait_for_selector("#plot-cores .hm image")
    watched.page.get_by_role("tab", name="busy time").click()
    assert watched.wrong == []
