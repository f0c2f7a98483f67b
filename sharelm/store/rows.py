"""Rows of the tables to Parquet and back, in exactly the table's schema."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from sharelm.errors import StoreError
from sharelm.store.manifest import FileRecord, Manifest
from sharelm.tables import PARTITIONS, SCHEMA_VERSION, TABLES


def encode_rows(table: str, rows: pa.Table) -> bytes:
    """A Parquet file of these rows in the table's schema; the same rows give the same bytes.

    Raises `StoreError` for a column that is missing, unknown, or does not fit its type.
    """
    if table not in TABLES:
        raise StoreError(f"{table!r} is not a table; there are {', '.join(TABLES)}")
    schema = TABLES[table]
    for name in schema.names:
        if rows.column_names.count(name) != 1:
            raise StoreError(f"rows for table {table} have {rows.column_names.count(name)} columns {name!r}, not one")
    for name in rows.column_names:
        if name not in schema.names:
            raise StoreError(f"rows for table {table} have a column {name!r} that its schema does not know")
    columns = []
    for field in schema:
        try:
            columns.append(rows.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise StoreError(f"rows for table {table}: column {field.name!r} is not {field.type}: {error}") from error
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode_rows(step: Manifest, record: FileRecord, data: bytes) -> pa.Table:
    """The rows in one committed file, with the partition columns `study` and `step`.

    A column that an older schema lacked is null.
    """
    schema = TABLES[step.table]
    rows = pq.ParquetFile(pa.BufferReader(data)).read()
    if (step.schema_version or 0) < SCHEMA_VERSION:
        absent = [field for field in schema if field.name not in rows.column_names]
        for field in absent:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        rows = rows.select(schema.names).cast(schema)
    if not rows.schema.equals(schema):
        raise StoreError(f"{record.key} does not have the columns of table {step.table}")
    for name in PARTITIONS:
        rows = rows.append_column(name, pa.repeat(pa.scalar(getattr(step, name), pa.string()), len(rows)))
    return rows


def empty_rows(table: str) -> pa.Table:
    """No rows, in the schema that reading gives: the table's, then the partition columns."""
    return pa.schema([*TABLES[table], *(pa.field(name, pa.string()) for name in PARTITIONS)]).empty_table()
