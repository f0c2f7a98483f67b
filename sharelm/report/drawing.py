"""Figures as inline SVG: deterministic, text kept as text, ids unique on the page, named for screen readers."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

WIDTH = 324.0  # points; at 360 CSS pixels a point is then about a pixel, so that 10 pt text stays legible
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555",
    "axes.labelcolor": "#222",
    "axes.unicode_minus": True,
    "xtick.color": "#555",
    "ytick.color": "#555",
    "xtick.labelcolor": "#222",
    "ytick.labelcolor": "#222",
    "text.color": "#222",
}


@dataclass(frozen=True)
class Chart:
    """A drawn figure: its inline SVG, its title, and the sentence below it."""

    title: str
    caption: str
    svg: Markup


def printable(text: object) -> str:
    """`text` without the control characters that XML does not allow."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+", " ", str(text))


def short(name: object, longest: int = 18) -> str:
    """A name that fits beside a mark: its middle gives way; tables have it whole."""
    text = printable(name)
    head = (longest - 1) // 2 + 1
    return text if len(text) <= longest else f"{text[:head]}…{text[head + 1 - longest :]}"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart and near the given ones, inside [low, high] where they fit."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[float] = []
    for rank, i in enumerate(order):
        floor = placed[-1] + gap if placed else low
        placed.append(min(max(positions[i], floor), max(floor, high - gap * (len(order) - 1 - rank))))
    result = [0.0] * len(order)
    for place, i in zip(placed, order, strict=True):
        result[i] = place
    return result


class Canvas:
    """One figure of the page's width and the given height in points, drawn on by the caller."""

    def __init__(self, height: float, left: float = 46, right: float = 10, top: float = 8, bottom: float = 40):
        self.height = height
        with mpl.rc_context(_STYLE):
            self.figure = Figure(figsize=(WIDTH / 72, height / 72))
            self.axes: Axes = self.figure.add_axes(
                (
                    left / WIDTH,
                    bottom / height,
                    (WIDTH - left - right) / WIDTH,
                    (height - top - bottom) / height,
                )
            )
        self.inner_height = height - top - bottom

    def finish(self, key: str, title: str, description: str) -> Markup:
        """The SVG, its ids made unique by `key`."""
        buffer = io.BytesIO()
        for text in self.figure.findobj(Text):
            text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
        with mpl.rc_context({**_STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has the font
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return _inline(buffer.getvalue(), key, title, description)


def _inline(svg: bytes, key: str, title: str, description: str) -> Markup:
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set("id", f"{key}-{value}")
            elif name == _XLINK:
                del element.attrib[name]
                element.set("href", re.sub(r"^#", f"#{key}-", value))
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{key}-"))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-description")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{key}-{'title' if tag == 'title' else 'description'}"})
        element.text = printable(text)
        root.insert(position, element)
    return Markup(ET.tostring(root, encoding="unicode"))
