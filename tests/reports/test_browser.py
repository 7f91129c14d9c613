"""The page in a real browser: no request, no script needed, nothing cut on a phone or on paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.html import render
from reports.index import write
from tests.sample_guard import adjusted, guarded
from tests.sample_result import hostile, kinds, known, sample, several, single, weights_only

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
needs_pdftotext = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages on disk, opened as a reader would open them."""
    folder = tmp_path_factory.mktemp("pages")
    for build in (sample, several, known, kinds, hostile, weights_only, guarded, adjusted):
        (folder / f"{build.__name__}.html").write_text(render(build()), encoding="utf-8")
    write(folder / "index.html", {"npo": single(), "needle": several()}, "Italy, two ways.\nAs measured.")
    return folder


NAMES = ["sample", "several", "known", "kinds", "hostile", "weights_only", "guarded", "adjusted", "index"]


@pytest.mark.parametrize("name", NAMES)
def test_no_request_is_made_and_nothing_is_refused_or_run(browser: Any, pages: Path, name: str) -> None:
    page = browser.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((pages / f"{name}.html").as_uri())
    page.wait_for_timeout(300)
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1
    assert complaints == []
    assert page.evaluate("window.pwned") is None
    page.close()


def test_a_request_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "loud.html").write_text("<img src='http://127.0.0.1:9/x.png'>")
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "loud.html").as_uri())
    assert "http://127.0.0.1:9/x.png" in requests
    page.close()


def test_everything_can_be_read_without_javascript(browser: Any, pages: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((pages / "sample.html").as_uri())
    text = page.inner_text("main")
    for finding in sample().findings:
        assert finding.reason in text
        for measurement in finding.measurements:
            assert measurement.title in text
    assert "it needs JavaScript" in text
    page.click("summary >> nth=0")
    assert page.locator("details[open]").count() == 1
    context.close()


@pytest.mark.parametrize("width", [380, 768, 1280])
@pytest.mark.parametrize("name", NAMES)
def test_the_page_never_scrolls_sideways(browser: Any, pages: Path, name: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((pages / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_wide_tables_scroll_in_their_own_box_by_keyboard(browser: Any, pages: Path) -> None:
    page = browser.new_page(viewport={"width": 380, "height": 800})
    page.goto((pages / "sample.html").as_uri())
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1)"
        ".map((box) => [box.tabIndex, box.getAttribute('aria-label'), box.getAttribute('role')])"
    )
    assert len(wide) > 3
    assert all(place == 0 and label and role == "region" for place, label, role in wide)
    page.close()


def test_dark_mode_is_followed(browser: Any, pages: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((pages / "sample.html").as_uri())
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 22, 25)"]


@pytest.mark.parametrize("name", ["sample", "hostile"])
def test_the_integrity_check_shows_a_match(browser: Any, pages: Path, name: str) -> None:
    page = browser.new_page()
    page.goto((pages / f"{name}.html").as_uri())
    page.wait_for_selector(".match")
    assert page.inner_text("[data-check]").startswith("match")
    page.close()


def test_the_integrity_check_shows_a_mismatch(browser: Any, tmp_path: Path) -> None:
    changed = re.sub(
        r"(<dd data-digest>)(\w)", lambda match: match[1] + ("0" if match[2] != "0" else "1"), render(single())
    )
    (tmp_path / "digest.html").write_text(changed, encoding="utf-8")
    small = render(weights_only())
    assert '"themes": []' in small
    (tmp_path / "json.html").write_text(small.replace('"themes": []', '"themes": ["x"]'), encoding="utf-8")
    for name in ("digest", "json"):
        page = browser.new_page()
        page.goto((tmp_path / f"{name}.html").as_uri())
        page.wait_for_selector(".mismatch")
        assert page.inner_text("[data-check]").startswith("MISMATCH")
        page.close()


def test_a_click_on_a_column_sorts_by_exact_value(browser: Any, pages: Path) -> None:
    page = browser.new_page()
    page.goto((pages / "sample.html").as_uri())
    table = page.locator("#weights > .scroll > table[data-sortable]").first
    table.locator("thead button", has_text="relative change").click()
    shown = [float(text) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    table.locator("thead button", has_text="relative change").click()
    assert [float(text) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()] == sorted(shown)
    page.close()


@pytest.fixture(scope="module")
def paper(browser: Any, pages: Path) -> Path:
    """The sample printed by a reader whose screen is dark."""
    page = browser.new_page(color_scheme="dark")
    page.goto((pages / "sample.html").as_uri())
    page.pdf(path=pages / "sample.pdf", prefer_css_page_size=True, print_background=True)
    page.close()
    return pages / "sample.pdf"


def text_of(paper: Path) -> str:
    shown = subprocess.run(["pdftotext", "-layout", str(paper), "-"], check=True, capture_output=True, text=True)
    return " ".join(shown.stdout.split())


@needs_pdftotext
def test_paper_holds_each_section_and_what_is_folded_on_screen(browser: Any, pages: Path, paper: Path) -> None:
    page = browser.new_page()
    page.goto((pages / "sample.html").as_uri())
    headings = [" ".join(text.split()) for text in page.locator("h1, h2, h4").all_inner_texts()]
    page.close()
    text = text_of(paper)
    # The link with the metric's name next to a heading is for screens.
    assert [title for title in headings if title.split(" Hidden")[0].rsplit(" ", 1)[0] not in text] == []
    assert "Question 33 about the country?" in text
    assert "null: answers exchanged at random" in text


@needs_pdftotext
def test_paper_is_a4_and_numbered(paper: Path) -> None:
    text = text_of(paper)
    count = int(re.findall(r"Page \d+ of (\d+)", text)[0])
    assert [f"Page {number} of {count}" in text for number in range(1, count + 1)] == [True] * count
    size = re.search(r"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", paper.read_bytes().decode("latin-1"))
    assert size is not None
    assert (round(float(size[1])), round(float(size[2]))) == (595, 842)


def test_no_figure_is_wider_than_the_paper_and_none_may_break(browser: Any, pages: Path) -> None:
    page = browser.new_page(viewport={"width": 680, "height": 960})
    page.emulate_media(media="print", color_scheme="dark")
    page.goto((pages / "sample.html").as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    boxes = page.evaluate(
        "[...document.querySelectorAll('svg.figure')].map((box) => [box.getBoundingClientRect().right,"
        " box.getBoundingClientRect().height, getComputedStyle(box.closest('figure') ?? box).breakInside])"
    )
    assert len(boxes) > 10
    assert [box for box in boxes if box[0] > 680 or box[1] > 900] == []
    assert {kind for _, _, kind in boxes[1:]} == {"avoid"}
    page.close()
