"""What is not shown: sentences derived from the study, the tables and the facts of the run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from statistics import median
from typing import Any

from sharelm.report.numbers import brief, count, duration, percent, plain, si, signed, significant
from sharelm.report.settings import resolved
from sharelm.report.summary import Summary, mean
from sharelm.study import Study
from sharelm.study.twins import TOLERANCE

TOKENS_PER_PARAMETER = 20  # about compute-optimal: Hoffmann et al., arXiv 2203.15556
SEEDS_APART = 5  # times the usual distance: an arm that some seeds lead to another solution
LOOPS_OVERTAKE_BY = 200_000_000  # tokens; BabyLM recursion study: 75 to 200 million
_ACCELERATOR = re.compile(r"nvidia|tesla|quadro|geforce|titan|instinct|radeon|\bgpu\b|cuda", re.IGNORECASE)


def is_accelerator(device: str) -> bool:
    """Whether a device name is a GPU's."""
    return bool(_ACCELERATOR.search(device))


def _runs(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[str]:
    found = []
    seeds = len(study.study.seeds)
    if seeds == 1:
        found.append(
            f"Seeds were not varied: every arm was trained once, with seed {study.study.seeds[0]}. The intervals "
            "cover the choice of documents only, not the luck of initial weights and token order."
        )
    elif seeds < 5:
        found.append(
            f"Only {seeds} seeds: how far the luck of initial weights and token order moves a result is "
            "estimated from few runs."
        )
    if study.training.fast:
        found.append("Training was fast rather than repeatable: another run of the same study ends with other losses.")
    together = {(resolved(row) or {}).get("training.trials_per_gpu", "1") for row in _trials(summary)}
    found += [
        f"Trials were trained {number} at a time on one GPU: their training times are longer than alone, and a trial's "
        f"training cost is 1/{number} of the GPU's while it trained."
        for number in sorted(together - {'"auto"', "1"})
    ]
    for row in (row for row in _trials(summary) if row["status"] != "done"):
        found.append(f"Trial {row['trial']} {row['status']}: {row['error'] or 'no reason recorded'}.")
    found += _halvings(summary)
    found += _apart(study, summary)
    reasons = {item["trial"]: item.get("reason") for item in facts.get("missing") or []}
    for trial in dict.fromkeys([*summary.missing, *reasons]):
        found.append(f"Trial {trial} is missing: {reasons.get(trial) or 'it was not run to its end'}.")
    for figures in summary.arms:
        if figures.trials and not figures.losses:
            found.append(f"Arm {figures.arm.name} has no held-out loss.")
    return found


def _trials(summary: Summary) -> list[dict[str, Any]]:
    return [row for figures in summary.arms for row in figures.trials]


def _halvings(summary: Summary) -> list[str]:
    """Which trials did not learn with their arm's rate."""
    halved = {row["trial"]: row["learning_rate_halvings"] for row in _trials(summary) if row["learning_rate_halvings"]}
    if not halved:
        return []
    times = ", ".join(f"{trial} ({number} of at most 3)" for trial, number in halved.items())
    return [
        f"Trials met a loss or gradient that was not finite, went back and halved their learning rate: {times}. They "
        "and what they are compared with are not matched in learning rate."
    ]


def _apart(study: Study, summary: Summary) -> list[str]:
    """Arms whose seeds lie much further apart than other arms' do, and further than the study's margin."""
    ranges = {
        figures.arm.name: max(figures.losses.values()) - min(figures.losses.values())
        for figures in summary.arms
        if len(figures.losses) > 1
    }
    usual = median(ranges.values()) if len(ranges) > 2 else math.inf
    far = max(SEEDS_APART * usual, study.kpi.accuracy.loss_margin_nats)
    return [
        f"The seeds of {name} ended {distance:.3f} nats apart, those of the arms in the middle {usual:.3f}: what rests "
        "on that arm is as uncertain."
        for name, distance in ranges.items()
        if distance > far
    ]


def _comparisons(study: Study, summary: Summary) -> list[str]:
    found = []
    compared = {(row["variant"], row["axis"]) for row in summary.comparisons}
    for pair in summary.pairs:
        axis = axis_words(pair["axis"])
        if (pair["variant"], pair["axis"]) not in compared:
            found.append(f"{pair['variant']} was not compared with its twin of {axis}: their scores are missing.")
        if abs(pair["relative_error"]) > TOLERANCE:
            found.append(
                f"{pair['variant']} and its twin {pair['twin']} are not equal in {axis.removeprefix('the same ')}: "
                f"off by {percent(pair['relative_error'])}, more than {percent(TOLERANCE)}."
            )
    found += _times(summary)
    undecided = [row for row in summary.comparisons if row["outcome"] == "not_shown"]
    for row in undecided:
        domain = "" if row["domain"] == "all" else f", domain {row['domain']}"
        if row["interval_low"] is None or row["interval_high"] is None:
            why = f"{row['seeds']} seeds and {row['documents']} documents in common give no interval"
        else:
            why = (
                f"the interval {signed(row['interval_low'])} to {signed(row['interval_high'])} does not settle it "
                f"against the margin {plain(row['margin'])}"
            )
        found.append(
            f"{row['variant']} against its twin of {axis_words(row['axis'])} on {row['task']}{domain}: not shown; "
            f"{why}."
        )
    return found


def _times(summary: Summary) -> list[str]:
    """The time axis rests on speeds measured beforehand: how the seconds that trials took turned out."""
    seconds = {
        figures.arm.name: mean(row["training_seconds"] for row in figures.trials if row["status"] == "done")
        for figures in summary.arms
    }
    found = []
    for pair in summary.pairs:
        variant, twin = seconds[pair["variant"]], seconds[pair["twin"]]
        if pair["axis"] == "time" and variant and twin and abs(twin / variant - 1) > TOLERANCE:
            found.append(
                f"The twin of {axis_words('time')} as {pair['variant']} was given its tokens from speeds measured "
                f"beforehand; its trials took {duration(twin)}, the variant's {duration(variant)}: off by "
                f"{percent(twin / variant - 1)}."
            )
    return found


def _tasks(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[str]:
    found = []
    known = {task.name: task.traits.chance for task in study.evaluation.task if task.traits.chance is not None}
    chance_of = known | dict(facts.get("chance") or {})
    for task in study.evaluation.task:
        values = [figures.accuracies[task.name] for figures in summary.arms if task.name in figures.accuracies]
        if not task.traits.judged:
            continue
        if not values:
            found.append(f"Task {task.name} has no scores.")
        elif task.name not in chance_of:
            found.append(
                f"Task {task.name}: the number of choices is not recorded here, so whether its accuracy "
                f"(best arm {percent(max(values), 3)}) beats guessing is not shown."
            )
        elif max(values) < max(0.01, chance_of[task.name] + 0.02):
            found.append(
                f"Task {task.name} is at chance: the best arm reaches {percent(max(values), 3)}, guessing "
                f"{percent(chance_of[task.name], 3)}. Equal scores there say nothing."
            )
    if all(task.traits.reads == "documents" for task in study.evaluation.task):
        found.append(
            "Every score is on held-out documents of the training corpora; other kinds of text, dialogue, "
            "reasoning and instructions were not tested."
        )
    return found


def _cost(study: Study, summary: Summary) -> list[str]:
    found = []
    for figures in summary.arms:
        have = {row["workload"] for row in figures.costs}
        lacking = [w.name for w in study.cost.workload if w.name not in have]
        if lacking:
            found.append(f"Cost of {figures.arm.name} was not measured for {', '.join(lacking)}.")
    devices = sorted({row["device"] for figures in summary.arms for row in figures.costs})
    if len(devices) > 1:
        found.append(
            f"Costs were measured on different devices ({', '.join(devices)}) and are not comparable between them."
        )
    processors = [device for device in devices if not is_accelerator(device)]
    if processors:
        found.append(
            f"Cost was measured on a processor without accelerator ({', '.join(processors)}): on a GPU, where decoding "
            "is bound by reading weights, the ratios can be others."
        )
    if devices:
        found.append("Latency is that of this implementation, not of a tuned serving engine.")
        found.append(
            "Latency and money have no intervals, only the range of their repeats, one a seed: a difference that is "
            "smaller can be chance."
        )
    if study.cost.price_per_hour == 0:
        found.append("The price per hour is 0, so money says nothing.")
    return found


def _scale(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[str]:
    reference = summary.arms[0].arm.footprint
    stored, tokens = reference.stored_parameters, study.training.tokens
    body = max(1, stored - reference.embedding_parameters)
    found = []
    if stored < 1e9:
        found.append(
            f"The reference has {si(stored)} parameters, {count(math.ceil(1e9 / stored))} times fewer than a billion: "
            "whether the answer holds at billions is not shown."
        )
    if tokens < TOKENS_PER_PARAMETER * body:
        found.append(
            f"Training was short: {si(tokens)} tokens, {significant(tokens / body, 2)} for each of the reference's "
            f"{si(body)} parameters outside the embedding; about {TOKENS_PER_PARAMETER} is the usual recommendation "
            "(Hoffmann et al., arXiv 2203.15556)."
        )
    if tokens < LOOPS_OVERTAKE_BY:
        found.append(
            f"In the BabyLM recursion study a looped model overtook its independent twin only after 75 to 200 M "
            f"tokens; at {si(tokens)} a short run may give the wrong sign."
        )
    found += _repeats(summary)
    found += _rates(study, summary)
    return found


def _rates(study: Study, summary: Summary) -> list[str]:
    """How fair the learning rates are: one for all, or each arm's own as far as short trainings tell."""
    tune = study.training.tune
    if tune is None:
        return [
            "Learning rates were not tuned per arm: all arms share one rate and schedule, which may suit some better "
            "than others."
        ]
    found = [
        f"Learning rates were chosen for each arm among {', '.join(map(brief, tune.learning_rates))} on proxies of "
        f"{si(tune.tokens)} tokens ({percent(tune.tokens / study.training.tokens)} of the training) with one seed: "
        "longer training tends to want a lower rate (Bjorck et al., arXiv 2409.19913). All else of the schedule is "
        "shared and was not tuned."
    ]
    done = {row["arm"] for row in summary.tunings if row["status"] == "done"}
    for arm in dict.fromkeys(row["arm"] for row in summary.tunings if row["arm"] not in done):
        found.append(f"Every proxy of {arm} diverged: it learns with the lowest rate tried, for want of a better one.")
    edges: dict[str, float] = {row["arm"]: row["chosen_learning_rate"] for row in summary.tunings if row["at_edge"]}
    for rate in sorted(set(edges.values())):
        arms = [arm for arm, chosen in edges.items() if chosen == rate]
        found.append(
            f"The learning rate {brief(rate)} of {', '.join(arms)} lies at the edge of what was tried: a better one "
            "may lie beyond it."
        )
    return found


def _repeats(summary: Summary) -> list[str]:
    """Which arms saw the corpora more than once; how often is a figure of each trial."""
    epochs = {figures.arm.name: figures.epochs for figures in summary.arms}
    known = {name: value for name, value in epochs.items() if value is not None}
    repeated = {name: value for name, value in known.items() if value > 1}
    if not repeated:
        return []
    times = sorted(set(repeated.values()))
    said = f"{significant(times[0], 3)} times" if len(times) == 1 else "more than once"
    who = "every arm" if len(repeated) == len(known) else ", ".join(repeated)
    found = [f"Data repeats: {who} saw the corpora {said}, so what arms gain from fresh text is not shown."]
    for pair in summary.pairs:
        variant, twin = known.get(pair["variant"]), known.get(pair["twin"])
        if variant is not None and twin is not None and twin > 1 and abs(twin - variant) > TOLERANCE * variant:
            found.append(
                f"At {axis_words(pair['axis'])} {pair['variant']} saw the corpora {significant(variant, 3)} times and "
                f"its twin {pair['twin']} {significant(twin, 3)} times: repeated text is worth less than fresh."
            )
    return found


def axis_words(axis: str) -> str:
    """How a reader calls an axis."""
    return {
        "depth": "the same depth",
        "parameters": "the same stored parameters",
        "compute": "the same training FLOPs",
        "memory": "the same serving memory",
        "time": "the same training time",
    }.get(axis, f"the same {axis}")


def scope(study: Study, summary: Summary) -> str:
    """How far the verdict goes, for one who reads no further."""
    seeds, size = len(study.study.seeds), summary.arms[0].arm.footprint.stored_parameters
    devices = sorted({f"{row['device']}, {row['precision']}" for figures in summary.arms for row in figures.costs})
    return (
        f"The full model has {si(size)} parameters; every model saw {si(study.training.tokens)} training tokens, "
        f"with {seeds} seed{'s' if seeds > 1 else ''}. "
        + (f"Cost was measured on {'; '.join(devices)}. " if devices else "Cost was not measured. ")
        + "Larger models, longer training, other text and other hardware can answer differently."
    )


def caveats(study: Study, summary: Summary, facts: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Groups of sentences on what this study does not show; groups without a sentence are left out."""
    groups = [
        ("Runs", _runs(study, summary, facts)),
        ("Comparisons", _comparisons(study, summary)),
        ("Scale and training", _scale(study, summary, facts)),
        ("Tasks", _tasks(study, summary, facts)),
        ("Cost", _cost(study, summary)),
    ]
    return [(name, sentences) for name, sentences in groups if sentences]
