"""The page in a headless Chromium that reaches no network: drawn, quiet, readable on a phone and on paper."""

import re
import shutil
import subprocess

import pytest

from tests.sharelm import synthetic
from tests.sharelm.browser import PROGRAMS, Browser, find_chromium
from tests.sharelm.report_helpers import reported, study_of
from tests.sharelm.test_report import HOSTILE

pytestmark = pytest.mark.browser

DRAWINGS = """[...document.querySelectorAll('figure svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  const ink = [...svg.querySelectorAll('path, use')].map(mark => mark.getBoundingClientRect());
  const cut = [...svg.querySelectorAll('text')].filter(text => {
    const at = text.getBoundingClientRect();
    return at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1;
  });
  return {left: box.left, right: box.right, width: box.width, height: box.height,
          inked: ink.filter(at => at.width > 0 || at.height > 0).length, cut: cut.map(text => text.textContent)};
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_chromium()
    if program is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(PROGRAMS)}): on Debian, apt-get install chromium")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def saved(folder, study=None, facts=synthetic.FACTS, **tables):
    report, rows, _ = reported(study or study_of(), facts, **tables)
    path = folder / "report.html"
    path.write_text(report.html, encoding="utf-8")
    return path, rows


def quiet(browser, path):
    """Nothing was asked of anyone else, nothing complained."""
    urls = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert urls == [path.as_uri()]
    assert browser.of("Runtime.exceptionThrown") == []
    assert browser.of("Runtime.consoleAPICalled") == []
    assert browser.of("Log.entryAdded") == []
    assert browser.of("Page.javascriptDialogOpening") == []


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_every_chart_is_drawn_within_the_window(browser, tmp_path, width):
    path, tables = saved(tmp_path)
    browser.open(path, width)
    quiet(browser, path)
    assert browser.value("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    rows = tables["comparisons"].to_pylist()
    forests = {(row["axis"], row["task"], row["domain"], row["metric"]) for row in rows}
    forests = {f for f in forests if f[3] != "loss_nats_per_token" or f[2] == "all"}
    drawings = browser.value(DRAWINGS)
    assert len(drawings) == len(forests) + 1 + 2 + 1 + 1  # storage, a curve a variant, memory, money
    for drawing in drawings:
        assert drawing["left"] >= 0
        assert drawing["right"] <= width
        assert min(drawing["width"], drawing["height"]) > 60
        assert drawing["inked"] >= 3
        assert drawing["cut"] == []


def test_the_answer_is_seen_without_scrolling(browser, tmp_path):
    path, _ = saved(tmp_path)
    browser.open(path, 1280, 900)
    bottom = "document.querySelector('.headline').getBoundingClientRect().bottom"
    assert browser.value(bottom) < 900
    browser.open(path, 390, 844)
    first = "document.querySelector('.headline p').getBoundingClientRect().bottom"
    assert browser.value(first) < 844
    assert browser.value("parseFloat(getComputedStyle(document.body).fontSize)") >= 16


def test_it_prints(browser, tmp_path):
    path, _ = saved(tmp_path)
    browser.open(path, 1280)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF-")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20
    assert browser.widest_in_print(710, "table, svg, pre") <= 710  # A4 less its margins


def test_hostile_text_does_nothing(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "DOMAINS", (f"prose {HOSTILE}", "code"))
    monkeypatch.setattr(synthetic, "DEVICE", f"device {HOSTILE}")
    path, _ = saved(tmp_path, facts={HOSTILE: HOSTILE}, diverged={"albert.s0": HOSTILE})
    browser.open(path, 390)
    quiet(browser, path)
    assert browser.value("typeof window.hostile") == "undefined"
    assert browser.value("document.querySelectorAll('script, img, iframe, main a[href^=http]').length") == 0
    assert browser.value("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]


def test_japanese_text_has_its_glyphs(browser, tmp_path, monkeypatch):
    lister = shutil.which("fc-list")
    if not (lister and subprocess.run([lister, ":lang=ja"], capture_output=True, check=True).stdout.strip()):
        pytest.skip("no Japanese font is installed: on Debian, apt-get install fonts-noto-cjk")
    monkeypatch.setattr(synthetic, "DOMAINS", ("日本語の文書", "code"))
    path, _ = saved(tmp_path)
    marked = path.read_text(encoding="utf-8").replace("← variant better", "日本語の軸")
    path.write_text(re.sub(r"<h4>(held_out, 日本語の文書)", r"<h4 class='ja'>\1", marked), encoding="utf-8")
    browser.open(path, 390)
    browser.value("[...document.querySelectorAll('svg text')].find(t => t.textContent == '日本語の軸').id = 'ja'")
    for selector, glyphs in (("h4.ja", 6), ("#ja", 5)):
        fonts = browser.fonts(selector)
        drawn = {name for name, count in fonts.items() if count >= glyphs and name != "DejaVu Sans"}
        assert drawn, fonts
        assert "Last Resort" not in fonts
