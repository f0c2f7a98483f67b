"""Rows of the tables as values, so that a misspelt column is an error of types.

The fields of a row are the columns of its table, with None where a column may be null; a test holds the two together.
The columns `study` and `step`, which readers add, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from sharelm.tables.messages import Message, from_json, message
from sharelm.tables.schemas import TABLES


@dataclass(frozen=True)
class Row:
    """A row of a table; `TABLE` names it where it is one of `TABLES`."""

    TABLE: ClassVar[str]


R = TypeVar("R", bound=Row)


def rows_of(kind: type[R], table: pa.Table) -> list[R]:
    """The rows of a table, in its order; what else it has beside the columns of this kind is left out."""
    return [kind(**row) for row in table.select([field.name for field in fields(kind)]).to_pylist()]


def table_of(kind: type[R], rows: Iterable[R]) -> pa.Table:
    """The table of these rows, in its schema."""
    return pa.Table.from_pylist([vars(row) for row in rows], schema=TABLES[kind.TABLE])


@dataclass(frozen=True, kw_only=True)
class TrialRow(Row):
    """One training run of one arm with one seed."""

    TABLE = "trials"
    trial: str
    arm: str
    seed: int
    role: str
    status: str
    error: str | None
    attention_schedule: list[int]
    feed_forward_schedule: list[int]
    stored_parameters: int
    materialised_parameters: int
    embedding_parameters: int
    training_flops_per_token: int
    tokens: int
    epochs: float | None
    steps: int
    workers: int
    device: str
    precision: str
    final_loss_nats: float
    loss_spikes: int | None
    nonfinite_steps: int
    gradient_norm_p50: float
    gradient_norm_p95: float
    gradient_norm_max: float
    training_seconds: float
    tokens_per_second: float
    training_cost: float | None
    currency: str
    resumes: int
    learning_rate_halvings: int | None
    weights_bytes: int | None
    resolved_json: str


@dataclass(frozen=True, kw_only=True)
class DistanceRow(Row):
    """One matrix of one depth of a softly tied trial."""

    TABLE = "distances"
    trial: str
    arm: str
    seed: int
    kind: str
    block: int
    depth: int
    matrix: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class ScoreRow(Row):
    """One scored item of one trial. Scores are many: all but messages about one of them work on columns."""

    TABLE = "scores"
    trial: str
    arm: str
    seed: int
    task: str
    kind: str
    domain: str
    document: str
    item: int
    nll_nats: float | None
    tokens: int
    bytes: int
    correct: float | None
    document_sha256: str | None = None
    prompt_sha256: str | None = None
    metrics_json: str | None = None


@dataclass(frozen=True, kw_only=True)
class CostRow(Row):
    """One measured workload of one trial."""

    TABLE = "costs"
    trial: str
    arm: str
    seed: int
    workload: str
    device: str
    precision: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    prefill_ms_p50: float
    prefill_ms_p95: float
    decode_ms_p50: float | None
    decode_ms_p95: float | None
    generated_tokens_per_second: float
    load_seconds: float
    disk_bytes: int
    weights_bytes: int
    kv_bytes: int
    rest_bytes: int
    peak_bytes: int | None
    cost_per_1m_tokens: float | None
    currency: str


@dataclass(frozen=True, kw_only=True)
class TuningRow(Row):
    """One learning rate that an arm was tried with."""

    TABLE = "tunings"
    arm: str
    learning_rate: float
    tokens: int
    seed: int
    status: str
    loss_nats: float | None
    chosen_learning_rate: float
    at_edge: bool
    training_seconds: float


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(Row):
    """A variant beside one of its twins, on one task and domain."""

    TABLE = "comparisons"
    variant: str
    twin: str
    axis: str
    axis_target: float
    axis_reached: float
    axis_relative_error: float
    task: str
    domain: str
    metric: str
    variant_value: float | None
    twin_value: float | None
    difference: float | None
    interval_low: float | None
    interval_high: float | None
    confidence: float
    standard_error_seeds: float | None
    standard_error_seeds_alone: float | None
    standard_error_documents: float | None
    standard_error_paired: float | None
    standard_error_unpaired: float | None
    degrees_of_freedom: float | None
    degrees_of_freedom_documents: float | None
    seeds: int
    documents: int
    margin: float | None
    outcome: str | None
    p_not_worse: float | None
    p_better: float | None
    p_worse: float | None
    p_equivalent: float | None
    only_variant_right: int | None
    only_twin_right: int | None
    mcnemar_p: float | None


@dataclass(frozen=True, kw_only=True)
class SharingWorthRow(Row):
    """One quantity of a variant; `code` and `figures` say why it or an end of its interval is not shown."""

    TABLE = "sharing_worth"
    variant: str
    quantity: str
    value: float | None
    interval_low: float | None
    interval_high: float | None
    confidence: float
    against: list[str]
    removed_percent: float | None
    seeds: int
    documents: int
    code: str | None
    figures_json: str | None

    @property
    def figures(self) -> dict[str, Any]:
        """The figures that the code comes with."""
        return from_json(self.figures_json)


@dataclass(frozen=True)
class Finding(Row):
    """One finding about a variant, a row of `verdicts`: what was found, by a code, and the figures of its sentence."""

    TABLE = "verdicts"
    variant: str
    kind: str
    name: str
    outcome: str
    code: str | None
    measure: str | None
    value: float | None
    threshold: float | None
    figures_json: str | None

    @property
    def figures(self) -> dict[str, Any]:
        """The figures that the code comes with."""
        return from_json(self.figures_json)

    @property
    def message(self) -> Message:
        """This finding as part of another one; one without a code is of an older ShareLM."""
        return message(self.kind, self.code, **self.figures) if self.code else message("unknown", "older")


@dataclass(frozen=True, kw_only=True)
class HistoryRow(Row):
    """One metric of one night beside its baseline."""

    TABLE = "history"
    night: str
    metric: str
    subject: str
    unit: str
    worse: str
    value: float
    baseline_night: str
    baseline_value: float | None
    relative: bool
    change: float | None
    change_low: float | None
    change_high: float | None
    state: str
    since: str | None
    spread: float | None
    detectable: float | None
    device: str
    code: str
    packages_json: str

    @property
    def key(self) -> str:
        """What names the metric through all nights: `metric:subject`, or `metric` alone."""
        return f"{self.metric}:{self.subject}" if self.subject else self.metric


@dataclass(frozen=True, kw_only=True)
class BaselineRow(Row):
    """A baseline that somebody moved to a later night."""

    TABLE = "baselines"
    metric: str
    night: str
    reason: str
    accepted_by: str
    accepted_at: str
