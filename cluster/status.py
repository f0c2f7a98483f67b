"""Jobs and committed steps as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from cluster.show import columns
from sharelm.formats import duration


def status_text(jobs: list[dict[str, Any]], committed: dict[str, dict[str, int]] | None) -> str:
    """One line a job; below it, for a store, one line a study with its committed steps by table."""
    rows = []
    for job in jobs:
        started = datetime.fromtimestamp(job["started"], UTC).strftime("%F %T UTC") if job["started"] else "-"
        took = duration((job["ended"] or time.time()) - job["started"]) if job["started"] else "-"
        rows.append((job["study"], job["status"], started, took, job["id"]))
    text = columns(rows, ("study", "status", "started", "took", "job")) if rows else "no study was submitted here"
    if committed is None:
        return text
    lines = [
        f"{study}: {', '.join(f'{count} {table}' for table, count in tables.items())}"
        for study, tables in committed.items()
    ]
    return f"{text}\n\ncommitted steps\n" + "\n".join(lines or ["none"])
