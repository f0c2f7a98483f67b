"""Soft tying: the penalty against its definition, its distances against known ones, and a trial that fits them."""

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from sharelm.closed_form.footprint import footprint
from sharelm.machine import Machine
from sharelm.model import Decoder
from sharelm.report import build
from sharelm.sharing import SoftTying, build_sharing
from sharelm.store import open_store
from sharelm.study import expand
from sharelm.study.load import study_from_tree
from sharelm.tables import TABLES
from sharelm.training import soft
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.models import SHAPE, decoder
from tests.sharelm.small import TREE, RandomCorpus
from tests.sharelm.synthetic import headline_of, synthetic_tables

SOFT = replace(build_sharing("prelude_core_coda", 5, prelude=1, core=1, coda=1), soft=SoftTying(0.5, 0.1))


def test_depths_keep_their_own_blocks():
    plain = build_sharing("independent", 5)
    assert footprint(SHAPE, SOFT) == footprint(SHAPE, plain)
    assert torch.equal(decoder(SOFT)(torch.arange(9)[None]), decoder(plain)(torch.arange(9)[None]))
    assert SOFT.schedule("attention") == (0, 1, 2, 3, 4)
    assert SOFT.groups("attention") == (0, 1, 1, 1, 2)


def test_the_penalty_is_half_the_squared_distances_and_pulls_to_the_mean():
    model, total = decoder(SOFT), 0.0
    for kind in ("attention", "feed_forward"):
        for name in SHAPE.matrices(kind):
            group = [getattr(getattr(model, f"{kind}_blocks")[depth], name).weight for depth in (1, 2, 3)]
            total += sum((w - sum(group) / 3).square().sum().item() for w in group)
    found = soft.penalty(model, 0.3)
    assert found.item() == pytest.approx(0.15 * total, rel=1e-5)
    found.backward()
    blocks = model.attention_blocks
    mean = sum(blocks[depth].query.weight for depth in (1, 2, 3)) / 3
    torch.testing.assert_close(blocks[2].query.weight.grad, 0.3 * (blocks[2].query.weight - mean), rtol=1e-4, atol=1e-6)
    assert blocks[0].query.weight.grad is None
    assert blocks[2].norm.weight.grad is None


def test_distances_are_nothing_when_shared_and_known_when_independent():
    model = Decoder(replace(SHAPE, width=64), SOFT).initialise(0)
    rows = soft.distances(model)
    assert {(row["kind"], row["block"], row["depth"]) for row in rows} == {
        (kind, 1, depth) for kind in ("attention", "feed_forward") for depth in (1, 2, 3)
    }
    assert len(rows) == 3 * 7
    assert all(row["distance"] == pytest.approx((1 - 1 / 3) ** 0.5, abs=0.03) for row in rows)
    for depth in (2, 3):
        model.attention_blocks[depth].load_state_dict(model.attention_blocks[1].state_dict())
    same = [row["distance"] for row in soft.distances(model) if row["kind"] == "attention"]
    assert same == pytest.approx([0.0] * 12, abs=1e-6)


def test_the_weight_is_annealed_in_a_straight_line():
    assert [SoftTying(1.0, 0.0).at(p) for p in (0, 0.25, 1)] == [1.0, 0.75, 0.0]
    assert SoftTying(0.3).at(0.7) == pytest.approx(0.3)


def study():
    cycle = {"scheme": "cycle", "blocks": 2}
    variants = [{"name": f"soft-{weight}", **cycle, "soft": {"weight": weight}} for weight in (0.001, 30.0)]
    return study_from_tree({**TREE, "variant": variants}, "soft.toml")


def test_the_report_has_a_chart_and_a_table_of_the_distances():
    asked = study()
    tables = synthetic_tables(asked)
    silent = build(expand(asked), tables, headline_of(asked, tables), {})
    assert "How much sharing the data wants" not in silent.markdown + silent.html
    names = {"trial": "soft-30.0.s0", "arm": "soft-30.0", "seed": 0}
    rows = [
        {**names, "kind": "attention", "block": depth % 2, "depth": depth, "matrix": "query", "distance": 0.125 + depth}
        for depth in range(4)
    ]
    tables["distances"] = pa.Table.from_pylist(rows, schema=TABLES["distances"])
    report = build(expand(asked), tables, headline_of(asked, tables), {})
    assert "soft-30.0: how far apart attention depths stay" in report.html
    assert "block 1, depth 3" in report.html
    assert "| soft-30.0.s0 | attention | 1 | 3 | query | 3.1250 |" in report.markdown


def train(folder):
    for trial in expand(study()).trials[1:3]:
        machine = Machine("cpu", "fp32", "test")
        train_trial(study(), trial, RandomCorpus(), trial.name, machine, open_store(folder), lambda *_: None)


def test_a_stronger_pull_ends_nearer_and_the_losses_are_without_it(tmp_path):
    on_ranks(1, train, str(tmp_path))
    store = open_store(str(tmp_path))
    rows = store.read("distances", "small").to_pylist()
    mean = {
        arm: sum(row["distance"] for row in rows if row["arm"] == arm) / (4 * 7) for arm in ("soft-0.001", "soft-30.0")
    }
    assert len(rows) == 2 * 4 * 7
    assert mean["soft-30.0"] < 0.8 * mean["soft-0.001"]
    first = [row["loss_nats"] for row in store.read("steps", "small").to_pylist() if row["training_step"] == 1]
    assert first[0] == first[1] < 7  # ln 300 is 5.7; the strong penalty is not in it
    assert store.read("trials", "small")["attention_schedule"].to_pylist() == [[0, 1, 2, 3]] * 2
