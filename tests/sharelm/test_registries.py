"""The registries of task kinds and metrics are whole, and nothing else branches on a kind or a metric by its name."""

import ast
import importlib
from pathlib import Path

import pytest

from sharelm.metrics import DECIDING, METRICS
from sharelm.study.thresholds import Accuracy
from sharelm.tables import TABLES
from sharelm.tasks import TASK_KINDS
from tests.sharelm.report_helpers import reported, study_of

ROOT = Path(__file__).parents[2]
REGISTRIES = {ROOT / "sharelm/tasks.py", ROOT / "sharelm/metrics.py"}
SOURCES = sorted(path for room in ("sharelm", "jobs", "cluster") for path in (ROOT / room).rglob("*.py"))


def branches(source):
    """Lines of a source that compare with, match, or look up a record by the name of a kind or a metric."""
    names = TASK_KINDS.keys() | METRICS.keys()

    def named(node):
        return any(isinstance(part, ast.Constant) and part.value in names for part in ast.walk(node))

    lines = set()
    for node in ast.walk(ast.parse(source)):
        looked = (
            isinstance(node, ast.Subscript)
            and isinstance(node.value, (ast.Name, ast.Attribute))
            and ast.unparse(node.value).rpartition(".")[2] in ("TASK_KINDS", "METRICS")
            and named(node.slice)
        )
        asked = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("equal", "is_in", "isin", "startswith")
            and named(node)
        )
        if looked or asked or (isinstance(node, (ast.Compare, ast.MatchValue)) and named(node)):
            lines.add(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize(
    "line",
    [
        'task.kind == "cloze"',
        'row["kind"] != "bits_per_byte"',
        '"accuracy" == metric',
        'kind in ("cloze", "multiple_choice")',
        'METRICS["accuracy"].title',
        'tasks.TASK_KINDS["cloze"]',
        'pc.equal(scores["kind"], "bits_per_byte")',
        'match kind:\n    case "cloze":\n        pass',
    ],
)
def test_a_branch_on_a_name_is_found(line):
    assert branches(line)


@pytest.mark.parametrize(
    "line", ['{"accuracy": 1}', 'rows["kpi", "accuracy"]', "kind == other", 'TASK_KINDS[kind]["x"]']
)
def test_what_is_no_branch_is_let_be(line):
    assert not branches(line)


def test_nothing_but_the_registries_branches_on_a_kind_or_a_metric():
    found = {
        str(path.relative_to(ROOT)): branches(path.read_text("utf-8")) for path in SOURCES if path not in REGISTRIES
    }
    assert len(found) > 100
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_a_metric_comes_from_columns_that_there_are_and_is_held_to_a_margin_that_there_is():
    columns = set(TABLES["scores"].names)
    for name, metric in METRICS.items():
        assert name == metric.name
        assert {metric.numerator, metric.size} <= columns | {"items"}
        assert metric.margin is None or metric.margin in Accuracy.model_fields
        assert metric.title
        assert metric.unit
    assert [metric.name for metric in METRICS.values() if metric.decides] == [DECIDING.name] == ["loss_nats_per_token"]


def test_a_kind_gives_metrics_of_the_registry_and_knows_its_chance():
    for name, kind in TASK_KINDS.items():
        assert name == kind.name
        assert kind.metrics
        assert all(METRICS[metric.name] is metric for metric in kind.metrics)
        assert kind.judged or kind.chance is None
        assert not (kind.judged and kind.decides)
    assert [name for name, kind in TASK_KINDS.items() if kind.decides] == ["bits_per_byte"]


def test_a_task_of_every_kind_goes_from_scores_to_the_report():
    given = {"file": "questions.jsonl", "max_new_tokens": 4}
    tasks = [
        {"name": f"task-{name}", "kind": name, **{setting: given[setting] for setting, *_ in kind.needs}}
        for name, kind in TASK_KINDS.items()
    ]
    study = study_of(evaluation={"task": tasks})
    report, tables, _ = reported(study)
    found = {(row["task"], row["metric"], row["margin"], row["outcome"] is None) for row in rows_of_all(tables)}
    accuracy = study.kpi.accuracy
    for name, kind in TASK_KINDS.items():
        for metric in kind.metrics:
            margin = None if metric.margin is None else getattr(accuracy, metric.margin)
            assert (f"task-{name}", metric.name, margin, margin is None) in found
            assert metric.title in report.html
        assert f"task-{name}" in report.html
    assert len(found) == sum(len(kind.metrics) for kind in TASK_KINDS.values())


def rows_of_all(tables):
    return [row for row in tables["comparisons"].to_pylist() if row["domain"] == "all"]


def test_the_registries_cost_nothing_to_import():
    for name in ("sharelm.tasks", "sharelm.metrics"):
        module = importlib.import_module(name)
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8")))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert imported <= {"__future__", "dataclasses", "math", "typing", "sharelm.metrics"}
