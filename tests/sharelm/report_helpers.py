"""Studies and pages for the report's tests."""

import tomllib
from html.parser import HTMLParser
from pathlib import Path

from sharelm.report import build
from sharelm.study import expand
from sharelm.study.load import study_from_tree
from tests.sharelm.synthetic import FACTS, headline_of, synthetic_tables

QUICKSTART = Path(__file__).parents[1] / "study.toml"


def study_of(seeds=(0, 1), **sections):
    """The quickstart with these seeds, and sections replaced by what `sections` has."""
    tree = tomllib.loads(QUICKSTART.read_text())
    tree["study"]["seeds"] = list(seeds)
    return study_from_tree(tree | sections, "test")


def reported(study, facts=FACTS, **tables):
    """(report, tables, headline) of synthetic tables."""
    rows = synthetic_tables(study, **tables)
    lines = headline_of(study, rows)
    return build(expand(study), rows, lines, facts), rows, [line.text for line in lines]


class Page(HTMLParser):
    """What a page is made of: `elements` (tag, attributes), `tables` by caption as rows of cells, text by section."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.tables = [], {}
        self._section, self._caption, self._rows, self._cell, self._inside = "", None, [], None, []
        self._raw = {}
        self.feed(html)
        self.sections = {name: " ".join(text.split()) for name, text in self._raw.items()}

    @property
    def text(self):
        return " ".join(self.sections.values())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "br", "use", "path"):
            self._inside.append(tag)
        if tag not in ("a", "code", "em", "span", "strong"):
            self._say(" ")
        if tag == "section":
            self._section = attributes["id"]
        elif tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass
        if tag == "table":
            self.tables[self._caption.strip()] = self._rows
            self._caption = None
        elif tag in ("td", "th"):
            self._rows[-1].append(" ".join(self._cell.split()))
            self._cell = None

    def handle_data(self, data):
        if "style" in self._inside and "svg" not in self._inside:
            return
        if self._cell is not None:
            self._cell += data
        if "caption" in self._inside:
            self._caption += data
        self._say(data)

    def _say(self, text):
        self._raw[self._section] = self._raw.get(self._section, "") + text
