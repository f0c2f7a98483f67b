"""The verdict on each axis: the loss of a variant beside the twin that equals it there."""

from __future__ import annotations

from typing import Any

from sharelm.verdict.finding import Evidence, Finding, interval_text, missing_text

MATCHED_WITHIN = 0.01  # an axis that is further off is flagged


def axis_findings(evidence: Evidence, variant: str) -> list[Finding]:
    """One finding for each axis of the study."""
    return [_axis(evidence, variant, axis) for axis in evidence.study.twins.axes]


def _axis(evidence: Evidence, variant: str, axis: str) -> Finding:
    row = evidence.loss(variant, axis)
    parts = [_loss_text(row)]
    if axis == "depth":
        parts.append(f"It stores {100 * evidence.storage_saved(variant):.1f} % fewer parameters.")
    error = row["axis_relative_error"]
    if abs(error) > MATCHED_WITHIN:
        parts.append(f"The twin is {100 * error:+.1f} % off on this axis, more than {100 * MATCHED_WITHIN:.0f} %.")
    else:
        parts.append(f"The twin matches the axis to {100 * abs(error):.2f} %.")
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


def _loss_text(row: dict[str, Any]) -> str:
    missing = missing_text(row)
    if missing:
        return f"Not shown: {missing}."
    against = f"against {row['twin']} the loss differs by {interval_text(row)}, the margin is {row['margin']:g}"
    if row["outcome"] == "not_shown":
        return f"Not shown: {against}. {_width_text(row)}"
    said = {"better": "Better", "not_worse": "Not worse", "worse": "Worse"}[row["outcome"]]
    return f"{said}: {against}."


def _width_text(row: dict[str, Any]) -> str:
    """How far the interval reaches, and what would narrow it."""
    seeds, documents = row["standard_error_seeds"], row["standard_error_documents"]
    source = "seeds" if seeds is not None and seeds > documents else "held-out documents"
    return f"The interval reaches {row['interval_high']:.3f}; more {source} would narrow it most."
