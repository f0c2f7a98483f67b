"""The Grafana dashboard of running studies, as code: `python -m jobs.dashboard > infra/grafana/sharelm.json`.

Its queries take their metrics from `jobs.metrics` alone. Sums go over Ray's own labels, such as the worker's id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobs.metrics import MONEY_SPENT, STEPS, STORE_REQUESTS, STORE_SECONDS, TOKENS_PER_SECOND

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_STUDY = 'study=~"$study"'
_RECENT = "[$__rate_interval]"
_WIDTH = 24  # of Grafana's grid


@dataclass(frozen=True)
class Panel:
    """A panel: queries by their legends, and the unit of what they give, as Grafana calls it."""

    title: str
    help: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    stacked: bool = False
    red: bool = False  # whatever is above zero is bad


def _quantile(share: float) -> str:
    buckets = f"rate({STORE_SECONDS.exported}_bucket{_RECENT})"
    return f"histogram_quantile({share}, sum by (le, operation) ({buckets}))"


PANELS = (
    Panel(
        "Trials done",
        "Trials of the studies that run now, done of all.",
        {
            "done": f'sum(max by (study, kind, state) ({STEPS.exported}{{{_STUDY},kind="trial",state="done"}}))',
            "all": f'sum(max by (study, kind, state) ({STEPS.exported}{{{_STUDY},kind="trial"}}))',
        },
        kind="stat",
        width=6,
        height=5,
    ),
    Panel(
        "Failed steps",
        "Steps that failed in a run that goes on; the driver's last line names them.",
        {"failed": f'sum(max by (study, kind, state) ({STEPS.exported}{{{_STUDY},state="failed"}}))'},
        kind="stat",
        width=6,
        height=5,
        red=True,
    ),
    Panel(
        "Money spent",
        "Estimated: busy device time since Ray was started, at each study's price per hour. Idle devices cost nothing.",
        {"{{study}} {{currency}}": f"sum by (study, currency) ({MONEY_SPENT.exported}{{{_STUDY}}})"},
        kind="stat",
        width=12,
        height=5,
    ),
    Panel(
        "Steps by state",
        "A trial of a worker group waits until the trials before it are done.",
        {"{{kind}} {{state}}": f"max by (study, kind, state) ({STEPS.exported}{{{_STUDY}}})"},
        stacked=True,
    ),
    Panel(
        "Training speed by trial",
        "Tokens a second of every trial (or proxy) that trains; 0 after its end.",
        {"{{trial}}": f"max by (study, trial) ({TOKENS_PER_SECOND.exported}{{{_STUDY}}})"},
    ),
    Panel(
        "Money an hour",
        "How fast money is spent, by the same estimate.",
        {
            "{{study}} {{currency}}": f"3600 * sum by (study, currency) "
            f"(rate({MONEY_SPENT.exported}{{{_STUDY}}}{_RECENT}))"
        },
    ),
    Panel(
        "Store: latency",
        "Half of an operation's calls took at most p50, 95 % of them at most p95; of all studies.",
        {"p50 {{operation}}": _quantile(0.5), "p95 {{operation}}": _quantile(0.95)},
        unit="s",
    ),
    Panel(
        "Store: retries and errors",
        "Requests that the S3 client sent again, and operations that were given up, since Ray was started.",
        {  # no rate: the first retry of each process begins a series, and of a series' first value a rate knows nothing
            outcome: f'sum({STORE_REQUESTS.exported}{{outcome="{outcome}"}}) or vector(0)'
            for outcome in ("retried", "failed")
        },
        red=True,
    ),
    Panel(
        "Store: requests",
        "Requests a second, by what came of them; of all studies.",
        {"{{outcome}}": f"sum by (outcome) (rate({STORE_REQUESTS.exported}{_RECENT}))"},
        unit="reqps",
    ),
)


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red:
        steps.append({"color": "red", "value": 1})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 20}
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"} if panel.kind == "stat" else {}
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "title": panel.title,
        "description": panel.help,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def _placed() -> list[dict[str, Any]]:
    """The panels from left to right, in rows of the height of their first."""
    x, y, height = 0, 0, 0
    found = []
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + height
        height = panel.height if x == 0 else height
        found.append(_panel(number, panel, x, y))
        x += panel.width
    return found


def dashboard() -> dict[str, Any]:
    """The dashboard in the form that Grafana imports."""
    study = f"label_values({STEPS.exported}, study)"
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "study",
            "label": "Study",
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": study, "refId": "study"},
            "definition": study,
            "refresh": 2,  # whenever the time range changes
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    return {
        "uid": "sharelm",
        "title": "ShareLM",
        "tags": ["sharelm", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": _placed(),
    }


def page() -> str:
    """The committed file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    print(page(), end="")
