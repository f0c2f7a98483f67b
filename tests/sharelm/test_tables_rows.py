"""A typed row has the columns of its table, and goes to Arrow and back as it is."""

from dataclasses import fields, replace
from typing import get_type_hints

import pyarrow as pa
import pytest

from sharelm.store import open_store
from sharelm.tables import TABLES
from sharelm.tables.rows import (
    BaselineRow,
    ComparisonRow,
    CostRow,
    DistanceRow,
    Finding,
    HistoryRow,
    ScoreRow,
    SharingWorthRow,
    TrialRow,
    TuningRow,
    rows_of,
    table_of,
)
from tests.sharelm.report_helpers import study_of
from tests.sharelm.synthetic import synthetic_tables

KINDS = {
    kind.TABLE: kind
    for kind in (
        TrialRow,
        DistanceRow,
        ScoreRow,
        CostRow,
        TuningRow,
        ComparisonRow,
        SharingWorthRow,
        Finding,
        HistoryRow,
        BaselineRow,
    )
}
PYTHON = {
    pa.string(): str,
    pa.int64(): int,
    pa.int32(): int,
    pa.float64(): float,
    pa.bool_(): bool,
    pa.list_(pa.int32()): list[int],
    pa.list_(pa.string()): list[str],
}


def column_type(field):
    """The type of a column's values; with None where its meaning tells of nulls."""
    return PYTHON[field.type] | None if b"null" in field.metadata[b"meaning"] else PYTHON[field.type]


@pytest.mark.parametrize("table", KINDS)
def test_the_fields_of_a_row_are_the_columns_of_its_table(table):
    kind = KINDS[table]
    hints = get_type_hints(kind)
    assert [(field.name, hints[field.name]) for field in fields(kind)] == [
        (field.name, column_type(field)) for field in TABLES[table]
    ]


def test_only_the_table_that_is_read_by_columns_has_no_row():
    assert TABLES.keys() - KINDS.keys() == {"steps"}


def test_rows_go_to_arrow_and_back_without_the_columns_that_a_reader_adds():
    tables = synthetic_tables(study_of(), steps=1)
    for name in TABLES.keys() & tables.keys() & KINDS.keys():
        rows, columns = rows_of(KINDS[name], tables[name]), TABLES[name].names
        assert len(rows) > 5
        assert table_of(KINDS[name], rows).equals(tables[name].select(columns))
        assert [vars(row) for row in rows] == tables[name].select(columns).to_pylist()


def test_no_rows_are_a_table_too():
    for name, kind in KINDS.items():
        assert table_of(kind, []) == TABLES[name].empty_table()
        assert rows_of(kind, TABLES[name].empty_table()) == []


def test_a_row_has_every_column_and_no_other():
    (first, *_) = rows_of(CostRow, synthetic_tables(study_of(), steps=1)["costs"])
    with pytest.raises(TypeError, match="cost_per_token"):
        replace(first, cost_per_token=1.0)
    with pytest.raises(TypeError, match="margin"):
        ComparisonRow(**{name: None for name in TABLES["comparisons"].names if name != "margin"})


def test_a_row_goes_through_a_store(tmp_path):
    store, tables = open_store(str(tmp_path)), synthetic_tables(study_of(), steps=1)
    rows = rows_of(Finding, tables["verdicts"])
    store.commit_rows("verdicts", "s", "a", table_of(Finding, rows))
    assert rows_of(Finding, store.read("verdicts")) == rows
