"""Metrics of a run and the dashboard that draws them: each found at Ray's port while a real study runs."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import jobs.board
from jobs.board import Board, TrainingReporter
from jobs.dashboard import dashboard, page
from jobs.metrics import METRICS, STATES
from jobs.nodes import Resources
from sharelm.store import open_store
from tests.conftest import ROOT
from tests.jobs.studies import start, write_study
from tests.sharelm.small import small_study

EVERY_SECOND = {"RAY_metrics_report_interval_ms": "1000"}  # Ray's workers tell their node every ten
TRIALS = ("cycle.s0", "independent-L2.s0", "independent.s0")
Sample = tuple[str, frozenset[tuple[str, str]]]  # a name with its labels


def queries() -> list[str]:
    """Every PromQL query of the dashboard, those of its variables too."""
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    listed = [each["definition"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    return found + [re.sub(r"label_values\((\w+), \w+\)", r"\1", each) for each in listed]


def names(query: str) -> set[str]:
    """The metrics that a query names: identifiers that are no function, keyword, label or label's value."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|without)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    return set(words) - {"or", "and", "unless", "by", "without", "sum", "max"}


def test_the_names_in_a_query_are_found() -> None:
    query = 'histogram_quantile(0.5, sum by (le) (rate(a_bucket{b="c d"}[5m]))) or vector(0) + e{f=~"$g"}'
    assert names(query) == {"a_bucket", "e"}


def test_the_dashboard_draws_all_metrics_and_no_others() -> None:
    exported = {metric.exported: metric for metric in METRICS.values()}
    drawn = set()
    for name in set().union(*map(names, queries())):
        whole = re.sub("_(bucket|count|sum)$", "", name) if name not in exported else name
        assert whole in exported, name
        assert (whole != name) == (exported[whole].kind == "histogram"), name
        drawn.add(whole)
    assert drawn == exported.keys()


def test_labels_in_the_queries_are_those_of_the_metrics() -> None:
    known = {label for metric in METRICS.values() for label in metric.labels} | {"le"}
    for query in queries():
        inside = ",".join(re.findall(r"\{([^}]*)\}", query))
        grouped = ",".join(re.findall(r"\bby \(([^)]*)\)", query))
        assert {*re.findall(r"(\w+)=", inside), *re.findall(r"\w+", grouped)} <= known, query


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_are_those_that_prometheus_recommends(metric: Any) -> None:
    assert re.fullmatch("sharelm_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_seconds") == (metric.unit == "seconds")
    assert metric.help.endswith(".")


def test_the_committed_dashboard_is_what_the_code_says() -> None:
    written = (ROOT / "infra/grafana/sharelm.json").read_text(encoding="utf-8")
    assert written == page(), "run: python -m jobs.dashboard > infra/grafana/sharelm.json"


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = json.loads(page())
    assert board["schemaVersion"] >= 36  # from when a data source is a type and a uid
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    cells = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, panel["title"]
        cells |= own
        assert panel["description"].endswith(".")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for target in [panel, *panel["targets"]]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(used in variables for used in re.findall(r"\$(\w+)", json.dumps(panel)) if used[:2] != "__")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_money_is_counted_once_for_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[tuple[str, str, float]] = []
    monkeypatch.setattr(jobs.board, "report_spending", lambda *those: spent.append(those))
    study = small_study()
    board = Board.__ray_metadata__.modified_class(study)
    board.span("a", "training", 1000.0, 1360.0, 2.0)
    board.span("a", "training", 1000.0, 4600.0, 2.0)  # the first again, longer
    board.span("b", "evaluation", 2000.0, 2360.0, 0.5)  # meanwhile, on half a device
    assert [(name, currency) for name, currency, _ in spent] == [("small", "USD")] * 3
    assert [money for *_, money in spent] == pytest.approx([0.2, 1.8, 0.05])  # 1 USD an hour


def test_devices_are_counted_as_the_price_counts_them() -> None:
    cpus = Resources(False, cpus_per_worker=2, evaluation_cpus=1, cost_cpus=8, parallel_groups=4)
    assert [cpus.devices(each) for each in (cpus.worker, cpus.score, cpus.cost)] == [1, 0.5, 4]
    gpus = Resources(True, cpus_per_worker=2, evaluation_cpus=4, cost_cpus=8, parallel_groups=4, trials_per_gpu=2)
    assert [gpus.devices(each) for each in (gpus.worker, gpus.score, gpus.cost)] == [0.5, 1, 1]


def test_a_trial_that_ends_has_no_speed_and_reports_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noted:
        def __init__(self) -> None:
            self.calls = 0

        def remote(self, *_: object) -> None:
            self.calls += 1

    class Told:
        step, span = Noted(), Noted()

    speeds: list[float] = []
    monkeypatch.setattr(jobs.board, "report_speed", lambda study, trial, speed: speeds.append(speed))
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(jobs.board, "time", SimpleNamespace(time=lambda: clock.now))

    def diverges() -> None:
        with TrainingReporter(Told, "small", 500, 1.0) as on_step:
            for step in range(1, 301):
                clock.now += 0.03125
                on_step("a.s0", step, 5.0, 100.0 + step, 0.03125)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        diverges()
    assert speeds == [*(101.0 + 16 * n for n in range(19)), 0.0]  # every half second
    assert Told.step.calls == Told.span.calls == 19
    with TrainingReporter(Told, "small", 500, 1.0):
        pass
    assert speeds.count(0) == 1  # of a worker that is not rank 0 nothing is said


def scraped(address: str) -> dict[Sample, float]:
    """The samples of ShareLM's metrics at a port, by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        match = re.fullmatch(r"(ray_sharelm_\w+)\{(.*)\} (\S+)", line)
        if match:
            found[match[1], frozenset(re.findall(r'(\w+)="([^"]*)"', match[2]))] = float(match[3])
    return found


def discovered(process: subprocess.Popen[str]) -> list[str]:
    """The addresses at which the Ray of this driver tells Prometheus to look."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error, OSError, ValueError):  # gone, or half written
            folder = re.search(r"/tmp/slm-\w+", " ".join(child.cmdline()))
            if folder:
                listed = json.loads(Path(folder[0], "prom_metrics_service_discovery.json").read_text(encoding="utf-8"))
                return [address for each in listed for address in each["targets"]]
    return []


def watched(process: subprocess.Popen[str]) -> list[dict[Sample, float]]:
    """What is scraped from a run until its end, a few times a second."""
    found: list[dict[Sample, float]] = []
    while process.poll() is None:
        together: dict[Sample, float] = {}
        for address in discovered(process):
            with suppress(OSError):  # it does not listen yet, or no more
                together |= scraped(address)
        found += [together] if together else []
        time.sleep(0.25)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    return found


def of(scrape: dict[Sample, float], name: str, *by: str) -> dict[tuple[str, ...], float]:
    """A metric's values in a scrape, summed by these labels."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for (named, labels), value in scrape.items():
        if named == name:
            found[tuple(dict(labels)[label] for label in by)] += value
    return dict(found)


@pytest.mark.slow
def test_a_running_study_exports_all_that_the_dashboard_names(tmp_path: Path) -> None:
    path = write_study(tmp_path, training={"tokens": 16 * 8 * 200, "cpus_per_worker": 1, "trials_per_group": 3})
    store = open_store(str(tmp_path / "store"))
    scrapes = watched(start(path, store.uri, **EVERY_SECOND))
    together = {name for scrape in scrapes for name, _ in scrape}
    assert set().union(*map(names, queries())) <= together

    states = [each for scrape in scrapes if (each := of(scrape, "ray_sharelm_steps", "study", "kind", "state"))]
    kinds = {"trial": 3, "score": 3, "cost": 3}
    for each in states:
        assert each.keys() == {("small", kind, state) for kind in kinds for state in STATES}
        assert {kind: sum(each["small", kind, state] for state in STATES) for kind in kinds} == kinds
        assert not any(each["small", kind, "failed"] for kind in kinds)
    assert any(each["small", "trial", "running"] for each in states)
    assert states[-1]["small", "trial", "done"] == 3
    done = [each["small", "trial", "done"] for each in states]
    assert done == sorted(done)

    learned = store.read("steps", "small").to_pylist()
    speeds = {trial: {row["tokens_per_second"] for row in learned if row["trial"] == trial} for trial in TRIALS}
    seen = [of(scrape, "ray_sharelm_training_tokens_per_second", "study", "trial") for scrape in scrapes]
    reported = {(trial, speed) for each in seen for (_, trial), speed in each.items() if speed}
    assert reported
    assert all(speed in speeds[trial] for trial, speed in reported)

    (report,) = store.manifests("reports", "small")
    totals = [of(scrape, "ray_sharelm_money_spent_total", "study", "currency") for scrape in scrapes]
    money = [each["small", "USD"] for each in totals if each]
    assert money == sorted(money)
    assert 0 < money[-1] <= report.facts["wall_seconds"] * psutil.cpu_count() / 3600  # 1 USD an hour

    last = scrapes[-1]
    counts = of(last, "ray_sharelm_store_operation_seconds_count", "operation")
    assert {"get", "list", "put", "put_new", "fetch"} <= {operation for (operation,) in counts}
    assert of(last, "ray_sharelm_store_operation_seconds_bucket", "le")["+Inf",] == sum(counts.values())
    assert of(last, "ray_sharelm_store_requests_total", "outcome") == {("answered",): sum(counts.values())}
