"""Putting the report together: summary, charts and caveats into HTML, Markdown and JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from sharelm import formats
from sharelm.metrics import METRICS
from sharelm.report.caveats import axis_words, caveats, scope
from sharelm.report.gallery import draw, main_rows
from sharelm.report.settings import compare_settings, to_toml
from sharelm.report.summary import ArmFigures, Summary, summarise
from sharelm.sharing.drawing import degrees
from sharelm.study import Arm, Plan, Study
from sharelm.study.thresholds import STAGES
from sharelm.study.twins import TOLERANCE
from sharelm.tables.messages import finite, message
from sharelm.tables.rows import Finding, SharingWorthRow, TuningRow
from sharelm.words import Line, lack, listed, name_of, render, say, sentence, spoken, why

SCHEMA_VERSION = 2
HERE = Path(__file__).parent
_KPIS = ("accuracy", "inference_cost", "upkeep")
_OUTCOMES = {  # outcome: symbol, words, class; never by colour alone
    "met": ("✓", "met", "good"),
    "not_met": ("✗", "not met", "bad"),
    "not_shown": ("?", "not shown", "open"),
    "better": ("✓", "better", "good"),
    "not_worse": ("✓", "not worse", "good"),
    "worse": ("✗", "worse", "bad"),
    "supported": ("✓", "supported", "good"),
    "not_supported": ("✗", "not supported", "bad"),
}


@dataclass(frozen=True)
class Report:
    """The same findings three times: a page to read, Markdown to paste, JSON to compute with."""

    html: str
    markdown: str
    json: str


def outcome(name: str | None) -> tuple[str, str, str]:
    """Symbol, words and style class of an outcome."""
    return _OUTCOMES.get(name or "", ("·", name or "no margin set", "open"))


def words(name: str) -> str:
    """A field's name as words."""
    return name.replace("_", " ")


def title(name: str) -> str:
    """A field's name as a heading."""
    return words(name)[:1].upper() + words(name)[1:]


def in_markdown(text: object) -> str:
    """Text from data as one line of Markdown that means itself, also inside a table."""
    line = re.sub(r"[\x00-\x20\x7f]+", " ", str(text)).strip()
    line = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", line.replace("&", "&amp;"))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # inside a word an underscore is only that


def fact(name: str, value: Any) -> str:
    """A fact of the run for a reader; its name says its unit."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if name.endswith("seconds"):
            return formats.duration(value)
        if name.endswith("bytes"):
            return formats.si(value, "B")
        if name.endswith("share"):
            return formats.percent(value)
        return formats.count(value) if isinstance(value, int) else formats.significant(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(fact(name, item) for item in value) if len(value) < 9 else f"{len(value)} of them"
    return formats.NOTHING if value is None else str(value)


def fact_rows(facts: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows of a label and a value; a name without a unit of its own has that of the name above."""
    rows = []
    for name, value in facts.items():
        label = f"{above} {name}" if above else name
        if isinstance(value, Mapping):
            rows += fact_rows(value, label)
        else:
            unit = name if name.endswith(("seconds", "bytes", "share", "documents", "tokens")) else above
            rows.append((title(label), fact(unit or name, value)))
    return rows


def _domain_rows(domains: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a domain and split, of the data's `domains` facts."""
    return [
        {"domain": domain, "split": split, **counts}
        for domain, splits in domains.items()
        for split, counts in splits.items()
    ]


def _run_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = fact_rows({name: value for name, value in facts.items() if name not in ("data", "missing", "chance")})
    wall, compute = facts.get("wall_seconds"), facts.get("compute_seconds")
    return [*rows, ("Compute share", formats.percent(compute / wall))] if wall and compute is not None else rows


def schedules(arm: Arm) -> str:
    """Which stored block each depth reads, once where attention and feed-forward agree; then the degrees."""
    attention, feed_forward = (" ".join(map(str, s)) for s in (arm.sharing.attention, arm.sharing.feed_forward))
    read = attention if attention == feed_forward else f"attention {attention}; feed-forward {feed_forward}"
    return "; ".join([read, *degrees(arm.sharing)])


def amount(axis: str, value: float) -> str:
    """An axis's figure with its unit."""
    if axis == "compute":
        return formats.si(value, "FLOP", digits=5)
    if axis == "memory":
        return formats.si(value, "B", digits=5)
    return formats.duration(value) if axis == "time" else formats.count(value)


def ends(row: SharingWorthRow, places: int | None = None) -> str:
    """The interval of a quantity; an end that is not bounded is an ellipsis."""
    low, high = row.interval_low, row.interval_high
    if low is None and high is None:
        return formats.NOTHING
    shown = [
        "…" if end is None else formats.significant(end) if places is None else formats.decimals(end, places)
        for end in (low, high)
    ]
    return " to ".join(shown)


def _worst(outcomes: list[str]) -> str:
    if not outcomes or "not_shown" in outcomes:
        return "not_met" if "not_met" in outcomes else "not_shown"
    return "not_met" if "not_met" in outcomes else "met"


def _gate(study: Study, stage: str) -> str:
    """What a roll-out stage asks for, in the study's own numbers."""
    gate = getattr(study.rollout, stage)
    asked = [message("condition", "kpis", kpis=gate.kpis), message("condition", "seeds", count=gate.seeds)]
    if gate.training_tokens:
        asked.append(message("condition", "tokens", tokens=gate.training_tokens))
    asked += [message("condition", "axis", axis=axis) for axis in gate.axes]
    return say("condition", "all", {"asked": asked})


_PRICES = {  # quantity: of what a per cent, in what unit
    "nats_per_percent_stored": ("stored parameters", "nats"),
    "perplexity_per_percent_stored": ("stored parameters", "% perplexity"),
    "nats_per_percent_of_blocks": ("parameters outside the embedding", "nats"),
    "perplexity_per_percent_of_blocks": ("parameters outside the embedding", "% perplexity"),
}


def _worth(rows: list[SharingWorthRow]) -> dict[str, Any]:
    """What sharing is worth, for a reader: an entry a variant for depth and phi, and one a price of storage."""
    found = {(row.variant, row.quantity): row for row in rows}
    loops = [
        {"variant": variant, "depth": row, "phi": found[variant, "phi"], "why": why(found[variant, "phi"])}
        for (variant, quantity), row in found.items()
        if quantity == "effective_depth"
    ]
    prices = [
        {"row": row, "counted": _PRICES[row.quantity][0], "unit": _PRICES[row.quantity][1], "why": why(row)}
        for row in rows
        if row.quantity in _PRICES
    ]
    return {"loops": loops, "prices": prices}


def _tuned(rows: list[TuningRow]) -> list[dict[str, Any]]:
    """The learning rates, for a reader: one row an arm, with every rate it was tried with and the lowest loss."""
    arms: dict[str, list[TuningRow]] = {}
    for row in rows:
        arms.setdefault(row.arm, []).append(row)
    return [
        {
            "arm": arm,
            "tried": tried,
            "lowest": min((row.loss_nats for row in tried if row.loss_nats is not None), default=None),
            "chosen": tried[0].chosen_learning_rate,
            "at_edge": tried[0].at_edge,
        }
        for arm, tried in arms.items()
    ]


def _variant(study: Study, name: str, verdicts: list[Finding]) -> dict[str, Any]:
    mine = [row for row in verdicts if row.variant == name]
    kpis = []
    for kpi in _KPIS:
        rows = [row for row in mine if row.kind == "kpi" and row.name == kpi]
        kpis.append({"name": kpi, "outcome": _worst([row.outcome for row in rows]), "rows": rows})
    by_stage = {row.name: row for row in mine if row.kind == "stage"}
    stages = [by_stage[stage] for stage in STAGES if stage in by_stage]
    reached, lacking = None, None
    for stage in stages:
        if stage.outcome != "supported":
            lacking = stage
            break
        reached = stage.name
    return {
        "name": name,
        "axes": [row for row in mine if row.kind == "axis"],
        "kpis": kpis,
        "stages": [{"row": row, "gate": _gate(study, row.name)} for row in stages],
        "reached": reached,
        "lacking": lacking,
    }


def _arm_json(figures: ArmFigures) -> dict[str, Any]:
    arm, size = figures.arm, figures.arm.footprint
    return {
        "arm": arm.name,
        "role": arm.role,
        "attention_schedule": list(arm.sharing.schedule("attention")),
        "feed_forward_schedule": list(arm.sharing.schedule("feed_forward")),
        "stored_parameters": size.stored_parameters,
        "materialised_parameters": size.materialised_parameters,
        "training_flops_per_token": size.training_flops_per_token,
        "training_tokens": arm.tokens,
        "epochs": figures.epochs,
        "weights_bytes": figures.stored_bytes,
        "loss_nats_per_token": figures.loss,
        "loss_nats_per_token_by_seed": figures.losses,
        "accuracy_by_task": figures.accuracies,
        "training_cost": figures.training_cost,
        "costs": [asdict(cost) for cost in figures.costs],
        "trials": [{k: v for k, v in asdict(row).items() if k != "resolved_json"} for row in figures.trials],
    }


def _as_json(study: Study, summary: Summary, headline: list[Line], context: dict[str, Any], facts: Any) -> str:
    tree = {
        "schema_version": SCHEMA_VERSION,
        "study": study.tree(),
        "headline": [line.text for line in headline],
        "verdicts": [spoken(row) for row in summary.verdicts],
        "comparisons": [asdict(row) for row in summary.comparisons],
        "sharing_worth": [spoken(row) for row in summary.worth],
        "tunings": [asdict(row) for row in summary.tunings],
        "arms": [_arm_json(figures) for figures in summary.arms],
        "not_shown": [
            {"group": group, "code": found["code"], "figures": found["figures"], "sentence": render(found)}
            for group, those in context["caveats"]
            for found in those
        ],
        "facts": facts,
    }
    return json.dumps(finite(tree), ensure_ascii=False, allow_nan=False, indent=1, default=str) + "\n"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "significant": formats.significant,
        "decimals": formats.decimals,
        "signed": formats.signed,
        "plain": formats.plain,
        "brief": formats.brief,
        "si": formats.si,
        "percent": formats.percent,
        "count": formats.count,
        "duration": formats.duration,
        "money": formats.money,
        "outcome": outcome,
        "words": words,
        "heading": title,
        "axis": axis_words,
        "sentence": sentence,
        "lack": lack,
        "render": render,
        "group": lambda group: name_of(group, "caveat_group"),
        "amount": amount,
        "ends": ends,
        "schedules": schedules,
        "md": in_markdown,
    }
    return environment


def build(plan: Plan, tables: Mapping[str, pa.Table], headline: list[Line], facts: Mapping[str, Any]) -> Report:
    """The report of a study from its tables (`sharelm.tables`).

    `headline` are the verdict's lines. `facts` is a tree of what the tables do not hold; every entry is optional
    and shown by its name, whose ending gives the unit (`_seconds`, `_bytes`, `_share`). Three names mean more:
    `data` (the data step's facts; its `domains` are a tree domain, split, then `documents`, `bytes`, `tokens`),
    `missing` (a list of `{"step", "reason"}`: what failed) and `chance` (the accuracy that guessing reaches, by task).
    """
    study, summary, data = plan.study, summarise(plan, tables), facts.get("data") or {}
    main = main_rows(summary.comparisons)
    context = {
        "study": study,
        "headline": headline,
        "scope": listed("sentences", scope(study, summary)),
        "perplexity": math.expm1(study.kpi.accuracy.loss_margin_nats),
        "summary": summary,
        "variants": [_variant(study, variant.name, summary.verdicts) for variant in study.variant],
        "gallery": draw(summary),
        "worth": _worth(summary.worth),
        "tuned": _tuned(summary.tunings),
        "main": main,
        "others": [row for row in summary.comparisons if row not in main],
        "metrics": METRICS,
        "settings": compare_settings(row for figures in summary.arms for row in figures.trials),
        "caveats": caveats(study, summary, facts),
        "tolerance": TOLERANCE,
        "data_facts": fact_rows({name: value for name, value in data.items() if name != "domains"}),
        "domains": _domain_rows(data.get("domains") or {}),
        "run_facts": _run_facts(facts),
        "toml": to_toml(study.tree()).strip(),
        "css": Markup((HERE / "page.css").read_text(encoding="utf-8")),
    }
    environment = _environment()
    return Report(
        html=environment.get_template("page.html.j2").render(context),
        markdown=environment.get_template("page.md.j2").render(context),
        json=_as_json(study, summary, headline, context, facts),
    )
