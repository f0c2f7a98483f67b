"""Rows for the tables, made from the schemas alone."""

import pyarrow as pa

from sharelm.tables import TABLES


def rows_of(table, count, start=0):
    """`count` rows whose values are plain functions of their number."""
    make = {
        pa.string(): lambda i: f"text {i}",
        pa.float64(): lambda i: i / 8,
        pa.int64(): lambda i: i,
        pa.int32(): lambda i: i,
        pa.bool_(): lambda i: i % 2 == 1,
        pa.list_(pa.int32()): lambda i: [i, i + 1],
        pa.list_(pa.string()): lambda i: [f"text {i}", "other"],
    }
    numbers = range(start, start + count)
    return pa.table({f.name: pa.array([make[f.type](i) for i in numbers], f.type) for f in TABLES[table]})
