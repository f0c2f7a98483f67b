"""The trends page of nights in a headless Chromium: drawn, quiet, readable on a phone and on paper."""

import re
from dataclasses import replace

import pytest

from sharelm.nightly.differences import Difference
from sharelm.nightly.page import trends_page
from sharelm.words.nightly import night_summary
from tests.sharelm.test_nightly import TABLES, Nights, scaled
from tests.sharelm.test_report import HOSTILE
from tests.sharelm.test_report_browser import DRAWINGS, browser, quiet  # noqa: F401 - a fixture

pytestmark = pytest.mark.browser

CHANGED = [Difference("ShareLM's code", "c0de", "c0de2"), Difference("torch", "2.12.0", "2.13.0")]


@pytest.fixture(scope="module")
def rows():
    """Four nights; on the last two everything is worse, and so said by as many sentences as there can be."""
    nights = Nights()
    nights.usual(2)
    for _ in range(2):
        nights.add(scaled(TABLES, 3))
    return nights.rows


@pytest.fixture(scope="module")
def saved(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("nights") / "trends.html"
    path.write_text(trends_page("study", rows, CHANGED), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_every_trend_is_drawn_within_the_window(browser, saved, rows, width):  # noqa: F811
    browser.open(saved, width)
    quiet(browser, saved)
    assert browser.value("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    drawings = browser.value(DRAWINGS)
    assert len(drawings) == len({row.key for row in rows})
    for drawing in drawings:
        assert drawing["left"] >= 0
        assert drawing["right"] <= width
        assert min(drawing["width"], drawing["height"]) > 60
        assert drawing["inked"] >= 4  # a mark a night
        assert drawing["cut"] == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_the_nights_outcome_is_seen_without_scrolling(browser, saved, rows, width, height):  # noqa: F811
    browser.open(saved, width, height)
    tonight = [row for row in rows if row.night == "2026-01-04"]
    outcome, first_line = "document.querySelector('.headline p')", "document.querySelectorAll('.headline p')[1]"
    assert browser.value(f"{outcome}.textContent") == night_summary("study", "2026-01-04", tonight)
    assert "worse" in browser.value(f"{outcome}.textContent")
    for line in (outcome, first_line):
        place = browser.value(f"(at => [at.top, at.bottom])({line}.getBoundingClientRect())")
        assert 0 <= place[0] < place[1] <= height
    assert browser.value("parseFloat(getComputedStyle(document.body).fontSize)") >= 16


def test_it_prints(browser, saved):  # noqa: F811
    browser.open(saved, 1280)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    assert browser.widest_in_print(710, "table, svg") <= 710  # A4 less its margins


def test_hostile_text_does_nothing(browser, tmp_path, rows):  # noqa: F811
    """In every free text: the study's name, an arm's, a device's, a metric's unit, what has changed."""
    hostile = [
        replace(row, subject=f"{row.subject} {HOSTILE}", unit=f"{row.unit} {HOSTILE}", device=HOSTILE)
        for row in rows
        if row.metric in ("tokens_per_second", "wall_seconds")
    ]
    path = tmp_path / "trends.html"
    path.write_text(trends_page(HOSTILE, hostile, [Difference(HOSTILE, HOSTILE, HOSTILE)]), encoding="utf-8")
    browser.open(path, 390)
    quiet(browser, path)
    assert browser.value("typeof window.hostile") == "undefined"
    assert browser.value("document.querySelectorAll('script, img, iframe, a[href]').length") == 0
    assert "<script>window.hostile=1</script>" in browser.value("document.querySelector('#night').textContent")
    assert browser.value("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
