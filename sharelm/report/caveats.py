"""What is not shown, from the study, the tables and the facts of the run: codes and figures for `sharelm.words`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from statistics import median
from typing import Any

from sharelm.report.settings import resolved
from sharelm.report.summary import Summary, mean
from sharelm.study import Comparison, Study
from sharelm.study.twins import TOLERANCE
from sharelm.tables.messages import Message, message
from sharelm.tables.rows import ComparisonRow, TrialRow
from sharelm.words import name_of

TOKENS_PER_PARAMETER = 20  # about compute-optimal: Hoffmann et al., arXiv 2203.15556
SEEDS_APART = 5  # times the usual distance: an arm that some seeds lead to another solution
LOOPS_OVERTAKE_BY = 200_000_000  # tokens; BabyLM recursion study: 75 to 200 million
_ACCELERATOR = re.compile(r"nvidia|tesla|quadro|geforce|titan|instinct|radeon|\bgpu\b|cuda", re.IGNORECASE)


def caveat(code: str, **figures: Any) -> Message:
    """One thing that is not shown; the catalogue has its sentence."""
    return message("caveat", code, **figures)


def is_accelerator(device: str) -> bool:
    """Whether a device name is a GPU's."""
    return bool(_ACCELERATOR.search(device))


def rule_caveats(facts: Mapping[str, Any]) -> list[Message]:
    """What is said of an exploratory verdict: judged by another rule than was recorded before the first step."""
    rule = facts.get("rule")
    if not rule or rule["recorded"] == rule["used"]:
        return []
    if rule["recorded"] is None:
        return [caveat("rule_unrecorded", used=rule["used"])]
    return [caveat("exploratory", **rule)]


def _runs(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[Message]:
    found = rule_caveats(facts)
    seeds = len(study.study.seeds)
    if seeds == 1:
        found.append(caveat("one_seed", seed=study.study.seeds[0]))
    elif seeds < 5:
        found.append(caveat("few_seeds", seeds=seeds))
    if study.training.fast:
        found.append(caveat("fast"))
    together = {(resolved(row) or {}).get("training.trials_per_gpu", "1") for row in _trials(summary)}
    found += [caveat("trials_per_gpu", number=number) for number in sorted(together - {'"auto"', "1"})]
    for row in (row for row in _trials(summary) if row.status != "done"):
        code = "trial_not_done" if row.error else "trial_not_done_unexplained"
        found.append(caveat(code, trial=row.trial, status=row.status, error=row.error))
    found += _halvings(summary)
    found += _apart(study, summary)
    failed = facts.get("missing") or []
    found += [caveat("step_failed", step=each["step"], reason=each["reason"]) for each in failed]
    named = {each["step"] for each in failed}
    found += [caveat("trial_not_ended", trial=trial) for trial in summary.missing if f"trial {trial}" not in named]
    for figures in summary.arms:
        if figures.trials and not figures.losses:
            found.append(caveat("no_loss", arm=figures.arm.name))
    return found


def _trials(summary: Summary) -> list[TrialRow]:
    return [row for figures in summary.arms for row in figures.trials]


def _halvings(summary: Summary) -> list[Message]:
    """Which trials did not learn with their arm's rate."""
    halved = {row.trial: row.learning_rate_halvings for row in _trials(summary) if row.learning_rate_halvings}
    if not halved:
        return []
    trials = [caveat("halved_trial", trial=trial, times=number) for trial, number in halved.items()]
    return [caveat("halved", trials=trials)]


def _apart(study: Study, summary: Summary) -> list[Message]:
    """Arms whose seeds lie much further apart than other arms' do, and further than the study's margin."""
    ranges = {
        figures.arm.name: max(figures.losses.values()) - min(figures.losses.values())
        for figures in summary.arms
        if len(figures.losses) > 1
    }
    usual = median(ranges.values()) if len(ranges) > 2 else math.inf
    far = max(SEEDS_APART * usual, study.kpi.accuracy.loss_margin_nats)
    return [
        caveat("seeds_apart", arm=name, distance=distance, usual=usual)
        for name, distance in ranges.items()
        if distance > far
    ]


def _comparisons(study: Study, summary: Summary) -> list[Message]:
    found = []
    compared = {(row.variant, row.axis) for row in summary.comparisons}
    for pair in summary.pairs:
        if (pair.variant, pair.axis) not in compared:
            found.append(caveat("not_compared", **_names(pair)))
        if abs(pair.relative_error) > TOLERANCE:
            found.append(caveat("axis_off", error=pair.relative_error, tolerance=TOLERANCE, **_names(pair)))
    found += _times(summary)
    return found + [_undecided(row) for row in summary.comparisons if row.outcome == "not_shown"]


def _names(pair: Comparison) -> dict[str, str]:
    return {"variant": pair.variant, "twin": pair.twin, "axis": pair.axis}


def _undecided(row: ComparisonRow) -> Message:
    code = "no_interval" if row.interval_low is None or row.interval_high is None else "undecided"
    return caveat(
        code if row.domain == "all" else f"{code}_in_domain",
        variant=row.variant,
        axis=row.axis,
        task=row.task,
        domain=row.domain,
        seeds=row.seeds,
        documents=row.documents,
        interval_low=row.interval_low,
        interval_high=row.interval_high,
        margin=row.margin,
    )


def _times(summary: Summary) -> list[Message]:
    """The time axis rests on speeds measured beforehand: how the seconds that trials took turned out."""
    seconds = {
        figures.arm.name: mean(row.training_seconds for row in figures.trials if row.status == "done")
        for figures in summary.arms
    }
    found = []
    for pair in summary.pairs:
        variant, twin = seconds[pair.variant], seconds[pair.twin]
        if pair.axis == "time" and variant and twin and abs(twin / variant - 1) > TOLERANCE:
            figures = {"variant_seconds": variant, "twin_seconds": twin, "error": twin / variant - 1}
            found.append(caveat("time_off", variant=pair.variant, axis="time", **figures))
    return found


def _tasks(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[Message]:
    found = []
    known = {task.name: task.traits.chance for task in study.evaluation.task if task.traits.chance is not None}
    chance_of = known | dict(facts.get("chance") or {})
    for task in study.evaluation.task:
        values = [figures.accuracies[task.name] for figures in summary.arms if task.name in figures.accuracies]
        if not task.traits.judged:
            continue
        if not values:
            found.append(caveat("task_unscored", task=task.name))
        elif task.name not in chance_of:
            found.append(caveat("task_chance_unknown", task=task.name, best=max(values)))
        elif max(values) < max(0.01, chance_of[task.name] + 0.02):
            found.append(caveat("task_at_chance", task=task.name, best=max(values), chance=chance_of[task.name]))
    if all(task.traits.reads == "documents" for task in study.evaluation.task):
        found.append(caveat("held_out_only"))
    return found


def _cost(study: Study, summary: Summary) -> list[Message]:
    found = []
    for figures in summary.arms:
        have = {row.workload for row in figures.costs}
        lacking = [w.name for w in study.cost.workload if w.name not in have]
        if lacking:
            found.append(caveat("cost_unmeasured", arm=figures.arm.name, workloads=lacking))
    devices = sorted({row.device for figures in summary.arms for row in figures.costs})
    if len(devices) > 1:
        found.append(caveat("several_devices", devices=devices))
    processors = [device for device in devices if not is_accelerator(device)]
    if processors:
        found.append(caveat("no_accelerator", devices=processors))
    if devices:
        found += [caveat("own_latency"), caveat("cost_without_intervals")]
    if study.cost.price_per_hour == 0:
        found.append(caveat("no_price"))
    return found


def _scale(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[Message]:
    reference = summary.arms[0].arm.footprint
    stored, tokens = reference.stored_parameters, study.training.tokens
    body = max(1, stored - reference.embedding_parameters)
    found = []
    if stored < 1e9:
        found.append(caveat("below_billions", parameters=stored, times=math.ceil(1e9 / stored)))
    if tokens < TOKENS_PER_PARAMETER * body:
        each = {"each": tokens / body, "usual": TOKENS_PER_PARAMETER}
        found.append(caveat("short_training", tokens=tokens, parameters=body, **each))
    if tokens < LOOPS_OVERTAKE_BY:
        found.append(caveat("before_loops_overtake", tokens=tokens))
    found += _repeats(summary)
    found += _rates(study, summary)
    return found


def _rates(study: Study, summary: Summary) -> list[Message]:
    """How fair the learning rates are: one for all, or each arm's own as far as short trainings tell."""
    tune = study.training.tune
    if tune is None:
        return [caveat("rates_shared")]
    share = tune.tokens / study.training.tokens
    found = [caveat("rates_tuned", rates=list(tune.learning_rates), tokens=tune.tokens, share=share)]
    done = {row.arm for row in summary.tunings if row.status == "done"}
    for arm in dict.fromkeys(row.arm for row in summary.tunings if row.arm not in done):
        found.append(caveat("proxies_diverged", arm=arm))
    edges = {row.arm: row.chosen_learning_rate for row in summary.tunings if row.at_edge}
    for rate in sorted(set(edges.values())):
        arms = [arm for arm, chosen in edges.items() if chosen == rate]
        found.append(caveat("rate_at_edge", rate=rate, arms=arms))
    return found


def _repeats(summary: Summary) -> list[Message]:
    """Which arms saw the corpora more than once; how often is a figure of each trial."""
    epochs = {figures.arm.name: figures.epochs for figures in summary.arms}
    known = {name: value for name, value in epochs.items() if value is not None}
    repeated = {name: value for name, value in known.items() if value > 1}
    if not repeated:
        return []
    times = sorted(set(repeated.values()))
    code = "data_repeats_alike" if len(times) == 1 else "data_repeats"
    code += "_for_all" if len(repeated) == len(known) else ""
    found = [caveat(code, arms=list(repeated), times=times[0])]
    for pair in summary.pairs:
        variant, twin = known.get(pair.variant), known.get(pair.twin)
        if variant is not None and twin is not None and twin > 1 and abs(twin - variant) > TOLERANCE * variant:
            found.append(caveat("twin_repeats_more", variant_times=variant, twin_times=twin, **_names(pair)))
    return found


def axis_words(axis: str) -> str:
    """How a reader calls an axis."""
    return name_of(axis, "same")


def scope(study: Study, summary: Summary) -> list[Message]:
    """How far the verdict goes, for one who reads no further."""
    seeds, size = len(study.study.seeds), summary.arms[0].arm.footprint.stored_parameters
    devices = sorted({f"{row.device}, {row.precision}" for figures in summary.arms for row in figures.costs})
    return [
        message("scope", "trained", parameters=size, tokens=study.training.tokens, count=seeds),
        message("scope", "cost" if devices else "no_cost", devices=devices),
        message("scope", "beyond"),
    ]


def caveats(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[tuple[str, list[Message]]]:
    """What this study does not show, by group; groups without a caveat are left out."""
    groups = [
        ("runs", _runs(study, summary, facts)),
        ("comparisons", _comparisons(study, summary)),
        ("scale", _scale(study, summary, facts)),
        ("tasks", _tasks(study, summary, facts)),
        ("cost", _cost(study, summary)),
    ]
    return [(name, found) for name, found in groups if found]
