"""The verdict on each axis: the loss of a variant beside the twin that equals it there."""

from __future__ import annotations

from sharelm.study.twins import TOLERANCE
from sharelm.tables.messages import as_json, message
from sharelm.tables.rows import Finding
from sharelm.verdict.finding import Evidence


def axis_findings(evidence: Evidence, variant: str) -> list[Finding]:
    """One finding for each axis of the study."""
    return [_axis(evidence, variant, axis) for axis in evidence.study.twins.axes]


def _axis(evidence: Evidence, variant: str, axis: str) -> Finding:
    row = evidence.loss(variant, axis)
    code, figures = evidence.told(row)
    notes = []
    if axis == "depth":
        figures["saved"] = evidence.storage_saved(variant)
        notes.append(message("note", "stores_fewer", saved=figures["saved"]))
    error = row.axis_relative_error
    if abs(error) > TOLERANCE:
        notes.append(message("note", "twin_off_axis", error=error, tolerance=TOLERANCE))
    notes += evidence.notes(row)
    assert row.outcome is not None  # the loss has a margin
    return Finding(
        variant,
        "axis",
        axis,
        row.outcome,
        code,
        "loss_difference_nats",
        row.difference,
        row.margin,
        as_json(figures | {"notes": notes}),
    )
