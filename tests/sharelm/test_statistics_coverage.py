"""Simulated studies whose truth is known, by the benchmark that simulates thousands (`benchmarks.coverage`)."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks.coverage import Cell, judged, summary

STUDIES = 120


@pytest.fixture(scope="module")
def found():
    """The shares of three seeds, by spread and truth."""
    rows = {}
    for noisy, truth in ((False, "zero"), (False, "margin"), (True, "margin")):
        cell, counts, rng = Cell(3, noisy, truth), Counter(studies=STUDIES), np.random.default_rng(20)
        for _ in range(STUDIES):
            counts.update(judged(cell, rng, resamples=300))
        rows[noisy, truth] = summary(cell, counts)
    return rows


@pytest.mark.parametrize("kind", ["losses", "accuracies"])
def test_intervals_cover(found, kind):
    """960 intervals a cell, of which those of one study go together."""
    for row in found.values():
        assert 0.93 <= row[f"{kind}_like_covered"] <= 0.985


def test_a_noisy_arm_is_covered_less_but_not_far_less(found):
    """The known price of pooling over arms: the verdict says where a claim rests on it."""
    assert 0.82 <= found[True, "margin"]["losses_noisy_covered"] <= 0.97


@pytest.mark.parametrize("noisy", [False, True])
def test_a_variant_at_the_margin_is_rarely_kept(found, noisy):
    for wrongly in ("wrongly_kept", "wrongly_worse"):
        assert found[noisy, "margin"][wrongly] <= 0.05 + 2 * (0.05 * 0.95 / STUDIES) ** 0.5


def test_power_is_as_planned(found):
    row = found[False, "zero"]
    assert row["power_at_first_level"] == pytest.approx(row["power_planned"], abs=0.06)
    assert row["power_with_holm"] >= row["power_at_first_level"]
    assert row["wrongly_better"] <= 0.05 + 2 * (0.05 * 0.95 / STUDIES) ** 0.5


def test_the_simulation_needs_neither_ray_nor_torch_nor_tables():
    code = "import sys, benchmarks.coverage; print(*{'ray', 'torch', 'pyarrow', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
