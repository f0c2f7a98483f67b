"""The charts' numbers, against planted curves, brute force and the drawing itself."""

import math
import random
import re
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharelm.report.charts import Bar, Curve, Interval, Point, bars, curves, forest, pareto_front, storage
from sharelm.report.summary import loss_curves

SVG = "{http://www.w3.org/2000/svg}"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_arm_beats(places):
    points = [Point(str(i), float(size), float(loss), False) for i, (size, loss) in enumerate(places)]
    beaten = {
        (size, loss)
        for size, loss in places
        if any((s <= size and x <= loss) and (s, x) != (size, loss) for s, x in places)
    }
    front = [(p.stored_bytes, p.loss) for p in pareto_front(points)]
    assert front == sorted(set(places) - beaten)


def steps(rows):
    """A steps table of (arm, seed, tokens, loss)."""
    names = ("arm", "seed", "tokens", "loss_nats")
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})


def test_the_band_is_the_lowest_and_the_highest_seed():
    def truth(tokens):
        return 3 + 2 * math.exp(-tokens / 3e4)

    offsets = {0: -0.2, 1: 0.05, 2: 0.3}
    places = range(1000, 200_001, 1000)
    curve = loss_curves(steps([("a", s, t, truth(t) + off) for s, off in offsets.items() for t in places]))["a"]
    low, mean, high = (np.array(values) for values in (curve.low, curve.mean, curve.high))
    assert np.allclose(high - low, 0.5)
    assert np.allclose(mean - low, 0.2 + 0.05)
    truths = [truth(tokens) for tokens in curve.tokens]
    assert np.abs(mean - 0.05 - truths).max() < 0.02  # bins are narrow
    assert len(curve.tokens) <= 90
    assert sorted(curve.tokens) == curve.tokens


def test_a_curve_leaves_out_what_is_not_a_number_and_keeps_arms_apart():
    rows = [("a", 0, t, 2.0) for t in range(100, 2000, 100)] + [("b", 0, t, 5.0) for t in range(100, 2000, 100)]
    found = loss_curves(steps([*rows, ("a", 0, 1950, math.nan), ("a", 1, 1950, math.inf)]))
    assert {arm: set(curve.mean) for arm, curve in found.items()} == {"a": {2.0}, "b": {5.0}}
    assert loss_curves(steps([])) == {}


def strokes(chart, width):
    """(x1, x2, y) of every horizontal stroke of this width in a chart's drawing."""
    found = []
    for path in ET.fromstring(chart.svg).iter(f"{SVG}path"):
        ends = re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))
        if f"stroke-width: {width}" in path.get("style", "") and len(ends) == 2 and ends[0][1] == ends[1][1]:
            found.append((float(ends[0][0]), float(ends[1][0]), float(ends[0][1])))
    return found


def markers(chart):
    """The places (x, y) of the markers."""
    return [(float(use.get("x")), float(use.get("y"))) for use in ET.fromstring(chart.svg).iter(f"{SVG}use")]


def test_intervals_are_drawn_to_scale_and_in_order():
    rows = [
        Interval("a", 0.2, -0.25, 0.7, "not_shown"),
        Interval("b", -0.1, -0.2, 0.0, "better"),
        Interval("c", 0.01, 0.0, 0.02, None),
        Interval("d", None, None, None, "not_shown"),
    ]
    chart = forest("k", "title", "caption", rows, "nats", 0.05, False)
    drawn = strokes(chart, 2)
    assert len(drawn) == 3
    scale = (drawn[0][1] - drawn[0][0]) / 0.95
    origin = drawn[0][0] + 0.25 * scale
    for (x1, x2, _), row in zip(drawn, rows, strict=False):
        assert (x1 - origin) / scale == pytest.approx(row.low, abs=1e-4)
        assert (x2 - origin) / scale == pytest.approx(row.high, abs=1e-4)
    values = {round((x - origin) / scale, 3) for x, _ in markers(chart)}
    assert {0.2, -0.1, 0.01} <= values
    assert [y for *_, y in drawn] == sorted(y for *_, y in drawn)
    text = " ".join(ET.fromstring(chart.svg).itertext())
    for said in ("+0.200 not shown", "−0.100 better", "+0.010", "– not shown", "margin +0.05", "variant better"):
        assert said in text


def test_arms_are_drawn_where_they_are():
    rng, count = random.Random(4), 7
    points = [Point(f"arm-{i}", rng.uniform(1e5, 9e6), rng.uniform(2, 6), i % 2 == 0) for i in range(count)]
    chart = storage("k", "title", "caption", points)
    arms_of = [p.stored_bytes for p in points], [p.loss for p in points]
    drawn = markers(chart)
    places = [place for place in drawn if drawn.count(place) == 1][-count:]
    for axis, true in enumerate(arms_of):
        seen = [place[axis] for place in places]
        slope, start = np.polyfit(true, seen, 1)
        assert np.allclose(np.array(true) * slope + start, seen, atol=0.01)
        assert slope > 0 if axis == 0 else slope < 0  # SVG counts downwards: a lower loss lies lower
    text = " ".join(ET.fromstring(chart.svg).itertext())
    assert all(point.label in text for point in points)


def test_a_name_is_joined_to_the_end_of_its_line():
    rng = random.Random(2)
    tokens = [1e4 * 1.1**i for i in range(40)]
    lines = []
    for name, colour, last in (("a", "#aa0000", 5.5), ("b", "#00aa00", 5.3), ("c", "#0000aa", 4.9)):
        loss = [last + 2.0 / (i + 1) - 0.05 + rng.uniform(-0.05, 0.05) for i in range(39)] + [last]
        lines.append(Curve(name, colour, "-", tokens, loss, [x - 0.2 for x in loss], [x + 0.2 for x in loss]))
    root = ET.fromstring(curves("k", "title", "caption", lines).svg)
    ends, joins = {}, []
    for path in root.iter(f"{SVG}path"):
        points = [tuple(map(float, place)) for place in re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))]
        colour = re.search(r"stroke: (#\w+)", path.get("style", ""))
        if colour and colour[1] in ("#aa0000", "#00aa00", "#0000aa") and len(points) > 2:
            ends[colour[1]] = points[-1]
        elif colour and colour[1] == "#bbbbbb":
            joins.append(points[0])
    assert np.allclose(sorted(joins), sorted(ends.values()), atol=0.01)
    heights = [ends[line.colour][1] for line in lines]
    assert (heights[1] - heights[0]) / (heights[2] - heights[1]) == pytest.approx(0.2 / 0.4, abs=1e-3)


def test_stacked_parts_add_up():
    parts = [("weights", "#111111", ""), ("cache", "#222222", ""), ("rest", "#333333", "")]
    rows = [Bar("a", [10.0, 20.0, 5.0]), Bar("b", [1.0, 0.0, 1.0])]
    chart = bars("k", "title", "caption", rows, parts, lambda value: f"{value:g} units", "bytes")
    widths = {}
    for path in ET.fromstring(chart.svg).iter(f"{SVG}path"):
        xs = [float(x) for x in re.findall(r"[ML] (\S+) \S+", path.get("d", ""))]
        fill = re.search(r"fill: (#\w+)", path.get("style", ""))
        if fill and fill[1] in ("#111111", "#222222", "#333333") and path.get("clip-path"):
            widths.setdefault(fill[1], []).append(max(xs) - min(xs))
    unit = widths["#111111"][0] / 10
    assert widths["#111111"] == pytest.approx([10 * unit, unit], abs=0.01)
    assert widths["#222222"] == pytest.approx([20 * unit, 0], abs=0.01)
    assert widths["#333333"] == pytest.approx([5 * unit, unit], abs=0.01)
    text = " ".join(ET.fromstring(chart.svg).itertext())
    assert "35 units" in text
    assert "2 units" in text


def test_text_stays_text_in_any_script():
    rows = [Interval("日本語の文書", 0.1, 0.0, 0.2, "worse"), Interval("<b>&\x00\x1b$x$", 0.1, 0.0, 0.2, "worse")]
    chart = forest("k", "題", "caption", rows, "ナット", None, False)
    root = ET.fromstring(chart.svg)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"日本語の文書", "ナット", "<b>& $x$"} <= set(texts)
    assert root.find(f"{SVG}title").text == "題"
