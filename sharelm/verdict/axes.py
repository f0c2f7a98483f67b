"""The verdict on each axis: the loss of a variant beside the twin that equals it there."""

from __future__ import annotations

from typing import Any

from sharelm.study.twins import TOLERANCE
from sharelm.verdict.finding import Evidence, Finding, loss_text, missing_text


def axis_findings(evidence: Evidence, variant: str) -> list[Finding]:
    """One finding for each axis of the study."""
    return [_axis(evidence, variant, axis) for axis in evidence.study.twins.axes]


def _axis(evidence: Evidence, variant: str, axis: str) -> Finding:
    row = evidence.loss(variant, axis)
    parts = [_loss_text(evidence, row)]
    if axis == "depth":
        parts.append(f"It stores {100 * evidence.storage_saved(variant):.1f} % fewer parameters.")
    error = row["axis_relative_error"]
    if abs(error) > TOLERANCE:
        parts.append(f"The twin is {100 * error:+.1f} % off on this axis, more than {100 * TOLERANCE:.0f} %.")
    if row["seeds"] == 1:
        parts.append("Seeds were not varied.")
    return Finding(
        variant,
        "axis",
        axis,
        row["outcome"],
        "difference of loss, nats per token",
        row["difference"],
        row["margin"],
        " ".join(parts),
    )


def _loss_text(evidence: Evidence, row: dict[str, Any]) -> str:
    missing = missing_text(row)
    if missing:
        return f"Not shown: {missing}."
    if row["outcome"] == "not_shown":
        return f"Not shown: {loss_text(row)}; {evidence.outlook(row)}."
    said = {"better": "Better", "not_worse": "Not worse", "worse": "Worse"}[row["outcome"]]
    return f"{said}: {loss_text(row)}."
