"""The tables: one Arrow schema each, units in the names, a version that readers check.

`study` and `step` are hive partitions and so stand in the path, not in the files. `docs/tables.md` is written
from the field metadata here.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 6
PARTITIONS = {
    "study": "the study's name",
    "step": "digest of the spec of the step that wrote the row",
}


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"meaning": meaning})


_TRIAL = [
    _field("trial", pa.string(), "the training run: arm and seed"),
    _field("arm", pa.string(), "the model: reference, variant, twin or rung"),
    _field("seed", pa.int64(), "seed of initial weights and token order"),
]

TABLES: dict[str, pa.Schema] = {
    "trials": pa.schema(
        [
            *_TRIAL,
            _field("role", pa.string(), "reference, variant, twin or rung (of the ladder)"),
            _field("status", pa.string(), "done or diverged"),
            _field("error", pa.string(), "why it did not finish; null where it did"),
            _field("attention_schedule", pa.list_(pa.int32()), "stored attention block read at each depth"),
            _field("feed_forward_schedule", pa.list_(pa.int32()), "stored feed-forward block read at each depth"),
            _field("stored_parameters", pa.int64(), "unique parameters, embedding included"),
            _field("materialised_parameters", pa.int64(), "parameters counted once per depth that reads them"),
            _field("embedding_parameters", pa.int64(), "parameters of the tied embedding"),
            _field("training_flops_per_token", pa.int64(), "forward and backward, PaLM convention"),
            _field("tokens", pa.int64(), "training tokens seen"),
            _field(
                "epochs",
                pa.float64(),
                "tokens over the packed training tokens of the corpora: above 1 data repeats; null before schema 2",
            ),
            _field("steps", pa.int64(), "optimizer steps"),
            _field("workers", pa.int32(), "training workers"),
            _field("device", pa.string(), "device name as the driver reports it"),
            _field("precision", pa.string(), "fp32 or bf16"),
            _field("final_loss_nats", pa.float64(), "mean training loss of the last 5 % of steps"),
            _field(
                "loss_spikes",
                pa.int64(),
                "steps whose loss exceeds spike_factor x running median; null where not counted",
            ),
            _field("nonfinite_steps", pa.int64(), "steps with a loss or gradient that is not finite"),
            _field("gradient_norm_p50", pa.float64(), "median gradient norm before clipping"),
            _field("gradient_norm_p95", pa.float64(), "95th percentile of the gradient norm"),
            _field("gradient_norm_max", pa.float64(), "largest gradient norm"),
            _field("training_seconds", pa.float64(), "wall time inside training steps, resumed parts included"),
            _field("tokens_per_second", pa.float64(), "training tokens over training_seconds"),
            _field(
                "training_cost",
                pa.float64(),
                "training_seconds x workers at the study's price, its currency; null where not measured",
            ),
            _field("currency", pa.string(), "ISO 4217 code of every cost"),
            _field("resumes", pa.int64(), "times training went on from a checkpoint"),
            _field(
                "learning_rate_halvings",
                pa.int64(),
                "times a step was not finite and the rate was halved; null before schema 3",
            ),
            _field("weights_bytes", pa.int64(), "bytes of the weights file; null where training diverged"),
            _field("resolved_json", pa.string(), "every setting of this trial as resolved, DeepSpeed's included"),
        ]
    ),
    "steps": pa.schema(
        [
            *_TRIAL,
            _field("training_step", pa.int64(), "optimizer step, from 1"),
            _field("tokens", pa.int64(), "training tokens seen after this step"),
            _field("loss_nats", pa.float64(), "mean loss of the step's tokens over all workers"),
            _field("learning_rate", pa.float64(), "learning rate of the step"),
            _field("gradient_norm", pa.float64(), "global gradient norm before clipping"),
            _field("tokens_per_second", pa.float64(), "tokens of the step over its wall time"),
        ]
    ),
    "distances": pa.schema(
        [
            *_TRIAL,
            _field("kind", pa.string(), "attention or feed_forward"),
            _field("block", pa.int32(), "the block that the schedule would let these depths share"),
            _field("depth", pa.int32(), "the depth"),
            _field("matrix", pa.string(), "query, key, value, output, gate, up or down"),
            _field("distance", pa.float64(), "from the group's mean, over its root mean square norm; 0 is shared"),
        ]
    ),
    "scores": pa.schema(
        [
            *_TRIAL,
            _field("task", pa.string(), "name of the evaluation task"),
            _field("kind", pa.string(), "bits_per_byte, cloze, multiple_choice, generation or harness"),
            _field("domain", pa.string(), "domain of the document, or the task's name for a file of items"),
            _field("document", pa.string(), "document or item the row belongs to: what pairs two arms"),
            _field("item", pa.int64(), "number of the item in its document"),
            _field(
                "nll_nats",
                pa.float64(),
                "summed negative log likelihood of the scored tokens; null where text is generated",
            ),
            _field("tokens", pa.int64(), "scored (or generated) tokens"),
            _field("bytes", pa.int64(), "UTF-8 bytes of the scored (or generated) text"),
            _field("correct", pa.float64(), "1 or 0, or the compared metric of a harness task; null for bits_per_byte"),
            _field("document_sha256", pa.string(), "lm-eval's hash of the document; null for other kinds than harness"),
            _field("prompt_sha256", pa.string(), "lm-eval's hash of the prompt; null for other kinds than harness"),
            _field("metrics_json", pa.string(), "every metric of a harness task, by name and filter; null for others"),
        ]
    ),
    "costs": pa.schema(
        [
            *_TRIAL,
            _field("workload", pa.string(), "name of the request shape"),
            _field("device", pa.string(), "device name as the driver reports it"),
            _field("precision", pa.string(), "fp32 or bf16"),
            _field("batch", pa.int64(), "requests served together"),
            _field("prompt_tokens", pa.int64(), "prompt tokens a request"),
            _field("new_tokens", pa.int64(), "generated tokens a request"),
            _field("prefill_ms_p50", pa.float64(), "median time to the first token's logits"),
            _field("prefill_ms_p95", pa.float64(), "95th percentile of the same"),
            _field("decode_ms_p50", pa.float64(), "median time of one decoding step; null with one new token"),
            _field("decode_ms_p95", pa.float64(), "95th percentile of the same; null likewise"),
            _field(
                "generated_tokens_per_second",
                pa.float64(),
                "new tokens of the batch over prefill and decode time",
            ),
            _field(
                "load_seconds",
                pa.float64(),
                "from the weights file on this node to a model ready on the device",
            ),
            _field("disk_bytes", pa.int64(), "bytes of the weights file"),
            _field("weights_bytes", pa.int64(), "bytes of the stored weights on the device"),
            _field("kv_bytes", pa.int64(), "bytes of the key-value caches at the end of the request"),
            _field("rest_bytes", pa.int64(), "peak less weights and caches: activations and workspace"),
            _field(
                "peak_bytes",
                pa.int64(),
                "largest device memory held by the model while serving; null where not measured",
            ),
            _field(
                "cost_per_1m_tokens",
                pa.float64(),
                "price of a million generated tokens, the study's currency; null where not measured",
            ),
            _field("currency", pa.string(), "ISO 4217 code"),
        ]
    ),
    "tunings": pa.schema(
        [
            _field("arm", pa.string(), "the model: reference, variant, twin or rung"),
            _field("learning_rate", pa.float64(), "a rate that its model was tried with, in a proxy"),
            _field("tokens", pa.int64(), "training tokens of the proxy"),
            _field("seed", pa.int64(), "seed of the proxy's initial weights and token order"),
            _field("status", pa.string(), "done, or diverged: a loss not finite, or above the first step's at the end"),
            _field("loss_nats", pa.float64(), "mean training loss of the proxy's last 10 % of steps; null if diverged"),
            _field("chosen_learning_rate", pa.float64(), "the rate that the arm's trials learn with"),
            _field("at_edge", pa.bool_(), "whether the lowest or the highest rate tried had the lowest loss"),
            _field(
                "training_seconds", pa.float64(), "wall time inside the proxy's steps; arms of one model share proxies"
            ),
        ]
    ),
    "comparisons": pa.schema(
        [
            _field("variant", pa.string(), "the shared arm"),
            _field("twin", pa.string(), "the independent arm it meets"),
            _field("axis", pa.string(), "what the two hold equal: depth, parameters, compute, memory or time"),
            _field(
                "axis_target",
                pa.float64(),
                "the variant's figure on the axis: depths, stored parameters, training FLOPs, serving bytes or "
                "training seconds",
            ),
            _field("axis_reached", pa.float64(), "the twin's figure on the axis"),
            _field("axis_relative_error", pa.float64(), "reached over target, less one"),
            _field("task", pa.string(), "the evaluation task"),
            _field("domain", pa.string(), "a domain, or 'all'"),
            _field("metric", pa.string(), "loss_nats_per_token, bits_per_byte or accuracy"),
            _field("variant_value", pa.float64(), "the variant's figure; null where nothing of both was scored"),
            _field("twin_value", pa.float64(), "the twin's figure; null likewise"),
            _field("difference", pa.float64(), "variant less twin, in the metric's unit; null likewise"),
            _field(
                "interval_low",
                pa.float64(),
                "lower end of the interval of the difference; null with fewer than two documents",
            ),
            _field("interval_high", pa.float64(), "upper end of the interval; null likewise"),
            _field(
                "confidence",
                pa.float64(),
                "confidence of this interval: that at which its outcome was tested, after Holm over the losses",
            ),
            _field("standard_error_seeds", pa.float64(), "from seeds, pooled over arms; null with one seed"),
            _field(
                "standard_error_seeds_alone",
                pa.float64(),
                "from the seeds of this pair alone; null with one seed, and before schema 6",
            ),
            _field(
                "standard_error_documents",
                pa.float64(),
                "from documents; since schema 6 without what one document does in one seed, which is in "
                "standard_error_seeds; null with fewer than two",
            ),
            _field(
                "standard_error_paired",
                pa.float64(),
                "from documents as they were scored in these seeds; null with fewer than two, and before schema 6",
            ),
            _field(
                "standard_error_unpaired",
                pa.float64(),
                "the same, had the arms been scored on different documents; null likewise",
            ),
            _field("degrees_of_freedom", pa.float64(), "of standard_error_seeds; null with one seed"),
            _field(
                "degrees_of_freedom_documents",
                pa.float64(),
                "of standard_error_documents, by how many documents it effectively rests on; null with fewer than two, "
                "and before schema 6",
            ),
            _field("seeds", pa.int64(), "seeds in common"),
            _field("documents", pa.int64(), "documents (clusters) in common"),
            _field("margin", pa.float64(), "the study's margin, in the metric's unit; null where none is set"),
            _field("outcome", pa.string(), "better, not_worse, worse or not_shown; null where no margin is set"),
            _field(
                "p_not_worse",
                pa.float64(),
                "one-sided p-value, adjusted after Holm, that shows the difference on the good side of the margin; "
                "claimed below (1 - kpi.accuracy.confidence) / 2; null without a margin or an interval, and before "
                "schema 6",
            ),
            _field("p_better", pa.float64(), "the same on the good side of zero; null likewise"),
            _field("p_worse", pa.float64(), "the same on the bad side of the margin; null likewise"),
            _field(
                "p_equivalent",
                pa.float64(),
                "the same of two one-sided tests, within the margin on either side; null likewise",
            ),
            _field(
                "only_variant_right",
                pa.int64(),
                "items, in every seed, that the variant has right and the twin wrong; null but for accuracy, without "
                "a seed in common, and before schema 6",
            ),
            _field("only_twin_right", pa.int64(), "items that the twin has right and the variant wrong; null likewise"),
            _field("mcnemar_p", pa.float64(), "McNemar's exact two-sided p-value of these two counts; null likewise"),
        ]
    ),
    "sharing_worth": pa.schema(
        [
            _field("variant", pa.string(), "the shared arm"),
            _field(
                "quantity",
                pa.string(),
                "effective_depth, phi, or a price of storage: nats_per_percent_stored, perplexity_per_percent_stored, "
                "nats_per_percent_of_blocks, perplexity_per_percent_of_blocks",
            ),
            _field("value", pa.float64(), "its value; null where it is not shown"),
            _field("interval_low", pa.float64(), "lower end of its interval; null where the ladder does not bound it"),
            _field("interval_high", pa.float64(), "upper end of its interval; null likewise"),
            _field("confidence", pa.float64(), "confidence of the interval; no verdict rests on it, so uncorrected"),
            _field("against", pa.list_(pa.string()), "the independent arms it rests on"),
            _field("removed_percent", pa.float64(), "per cent removed of what a price counts; null for the others"),
            _field("seeds", pa.int64(), "seeds in common"),
            _field("documents", pa.int64(), "documents (clusters) in common"),
            _field(
                "code",
                pa.string(),
                "why value or an end of the interval is null, such as beyond_ladder: a name that stays; null where "
                "neither is, and before schema 5",
            ),
            _field(
                "figures_json",
                pa.string(),
                "the figures by name from which `sharelm.words` says why; null before schema 5",
            ),
        ]
    ),
    "verdicts": pa.schema(
        [
            _field("variant", pa.string(), "the shared arm"),
            _field("kind", pa.string(), "axis, kpi or stage"),
            _field("name", pa.string(), "the axis, KPI or roll-out stage"),
            _field(
                "outcome",
                pa.string(),
                "axis: better, not_worse, worse, not_shown; kpi: met, not_met, not_shown; "
                "stage: supported, not_supported",
            ),
            _field(
                "code",
                pa.string(),
                "what was found, such as loss_worse or gate_seeds: a name that stays; null before schema 4",
            ),
            _field(
                "measure",
                pa.string(),
                "what was compared with the threshold, such as memory_ratio; null where a stage lacks nothing",
            ),
            _field("value", pa.float64(), "its value; null where nothing was measured"),
            _field("threshold", pa.float64(), "the study's threshold; null where a stage lacks nothing"),
            _field(
                "figures_json",
                pa.string(),
                "the figures by name from which `sharelm.words` makes the sentence; a finding inside has kind, code "
                "and figures of its own; null before schema 4",
            ),
        ]
    ),
    "history": pa.schema(
        [
            _field("night", pa.string(), "the night, such as 2026-11-28"),
            _field("metric", pa.string(), "what was measured, such as decode_ms_p50"),
            _field("subject", pa.string(), "an arm, arm/workload or arm/task; empty for the whole night"),
            _field("unit", pa.string(), "the unit of value, such as ms or nats; of a cost the currency"),
            _field("worse", pa.string(), "which way is worse: higher or lower"),
            _field("value", pa.float64(), "the night's figure: the mean (quality) or median over the arm's seeds"),
            _field("baseline_night", pa.string(), "first night of the accepted baseline"),
            _field("baseline_value", pa.float64(), "what value is held against; null while the baseline is learnt"),
            _field("relative", pa.bool_(), "whether change, its interval, spread and detectable are relative"),
            _field("change", pa.float64(), "value less baseline (over baseline); null where nothing is told of it"),
            _field("change_low", pa.float64(), "lower end of its interval; null where it has none"),
            _field("change_high", pa.float64(), "upper end of its interval; null where it has none"),
            _field(
                "state",
                pa.string(),
                "learning, well, spike (one night), worse (an alarm), better, or not_comparable with the baseline",
            ),
            _field("since", pa.string(), "first night of a spike or of a lasting change; null without one"),
            _field("spread", pa.float64(), "standard deviation from night to night; null for quality and while learnt"),
            _field(
                "detectable",
                pa.float64(),
                "smallest lasting change for the worse that 3 nights find nine times out of ten; null likewise",
            ),
            _field("device", pa.string(), "device name as the driver reports it"),
            _field("code", pa.string(), "digest of ShareLM's code"),
            _field("packages_json", pa.string(), "versions of Python and of the packages that results depend on"),
        ]
    ),
    "baselines": pa.schema(
        [
            _field("metric", pa.string(), "a metric, or metric:subject, whose baseline moves"),
            _field("night", pa.string(), "first night of the new baseline"),
            _field("reason", pa.string(), "why the change is accepted"),
            _field("accepted_by", pa.string(), "user name of who accepted it"),
            _field("accepted_at", pa.string(), "when, UTC, ISO 8601"),
        ]
    ),
}
