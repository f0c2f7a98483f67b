"""How numbers are written for people."""

import pytest

from sharelm.formats import NOTHING, duration, si, significant


def test_durations():
    seconds = [0, 0.44, 9.96, 41.2, 55, 59.96, 60, 200, 3599.4, 3600, 36061, 3.6e6 * 1.5]
    assert [duration(s) for s in seconds] == [
        "0 s", "0.44 s", "10 s", "41.2 s", "55 s", "1 min 0 s", "1 min 0 s", "3 min 20 s", "59 min 59 s", "1 h 00 min",
        "10 h 01 min", "1,500 h 00 min",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (1_234_567, "1.23 MB"), (84.9e9, "84.9 GB"), (2e15, "2,000 TB")],
)
def test_bytes(value, said):
    assert si(value, "B") == said


@pytest.mark.parametrize("form", [duration, si, significant])
def test_what_was_not_measured_is_a_dash(form):
    assert form(None) == form(float("nan")) == NOTHING
